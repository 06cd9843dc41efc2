"""VGG-16 has torchvision's features and, at every position, torchvision's classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from adapters.segmentation.fcn import Fcn8s, Fcn16s, Fcn32s, FcnOptions
from adapters.vision.pretrained import start_from
from adapters.vision.vgg import ConvolutionalClassifier, Vgg16, convolutional
from harness.adapter import Runtime
from harness.checkpoint import Checkpoint
from harness.errors import UsageError
from harness.task import Sample

PUBLISHED = 138_357_544  # parameters of VGG-16; Simonyan & Zisserman 2015, table 2: 138 million


class TwoClasses:
    classes = ("background", "thing")


@pytest.fixture(scope="module")
def reference() -> Any:
    from torchvision.models import vgg16

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = vgg16(weights=None, init_weights=False).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED
    return model


@pytest.mark.parametrize("size", [(64, 64), (75, 101)])
def test_features_are_those_of_torchvision_for_the_same_weights(
    reference: Any, size: tuple[int, int]
) -> None:
    model = Vgg16().eval()
    model.load_state_dict({f"features.{name}": t for name, t in reference.features.state_dict().items()})
    pixels = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    expected = [pixels]
    with torch.no_grad():
        for layer in reference.features:
            expected[-1] = layer(expected[-1])
            if isinstance(layer, nn.MaxPool2d):
                expected.append(expected[-1])
        maps = model(pixels)
    assert [m.shape[1] for m in maps] == list(model.channels) == [64, 128, 256, 512, 512]
    assert [m.shape[-2:] for m in maps] == [(size[0] // s, size[1] // s) for s in (2, 4, 8, 16, 32)]
    for reference_map, own_map in zip(expected, maps, strict=False):
        torch.testing.assert_close(own_map, reference_map)


@pytest.mark.slow
def test_the_middle_of_the_map_is_torchvisions_classifier_of_the_image(reference: Any) -> None:
    classifier = ConvolutionalClassifier().eval()
    classifier.load_state_dict(convolutional(reference.state_dict()))
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps = reference.features(pixels)
        scores = classifier(maps)
        expected = reference.classifier[:-1](maps.flatten(1))
    assert scores.shape == (1, 4096, 7, 7)
    torch.testing.assert_close(scores[:, :, 3, 3], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_inside_the_image_the_map_is_that_of_the_papers_100_px_of_padding(reference: Any) -> None:
    """The paper's cell k starts at pixel 32 k − 99, ours at 32 k: equal for an image shifted by 3, at k + 3.

    pool5 sees 212 px (Long et al. 2015, table 1: 404 after fc6, which adds 6 cells of 32 px).
    """
    model = Vgg16().eval()
    model.load_state_dict({f"features.{name}": t for name, t in reference.features.state_dict().items()})
    image = torch.randn(1, 3, 288, 288, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pool5 = model(image)[-1]
        moved = nn.functional.pad(image[..., 3:, 3:], (99,) * 4)  # and 1 by the first convolution
        expected = model(moved)[-1][..., 3:, 3:]
    inside = slice(4, 5)  # pixels 128–160 and 90 around them
    torch.testing.assert_close(pool5[..., inside, inside], expected[..., inside, inside])
    assert not torch.allclose(pool5[..., 0, 0], expected[..., 0, 0])


@pytest.mark.slow
@pytest.mark.parametrize(("adapter", "skips"), [(Fcn32s, []), (Fcn16s, [512]), (Fcn8s, [512, 256])])
def test_parameters_are_those_of_the_paper_with_grouped_upsampling(adapter: Any, skips: list[int]) -> None:
    """Convolutional fc6 and fc7, score layers, and upsampling kernels of one class each."""
    made = adapter(FcnOptions(backbone="vgg16"), Runtime())
    made.build(TwoClasses())
    classifier = 4096 * 1000 + 1000  # the last layer, which is removed
    scores = sum((channels + 1) * 2 for channels in [4096, *skips])
    last = 2 * made.finest
    upsampling = 2 * (4 * 4 * len(skips) + last * last)
    assert made.parameters() == PUBLISHED - classifier + scores + upsampling
    mask, other = made.predict([Sample(n, np.zeros((40, 70, 3), np.uint8)) for n in "ab"])
    assert mask.shape == other.shape == (40, 70)


@pytest.mark.slow
def test_training_starts_from_a_published_classifier(reference: Any, tmp_path: Path) -> None:
    torch.save(reference.state_dict(), tmp_path / "vgg16.pth")
    adapter = Fcn32s(FcnOptions(backbone="vgg16", pretrained=tmp_path / "vgg16.pth"), Runtime())
    adapter.build(TwoClasses())
    tensors = adapter.checkpoint().tensors
    assert torch.equal(tensors["backbone.features.28.weight"], reference.features[28].weight)
    assert torch.equal(tensors["context.0.weight"].flatten(1), reference.classifier[0].weight)
    assert torch.equal(tensors["context.3.bias"], reference.classifier[3].bias)
    assert adapter.checkpoint().options == {"backbone": "vgg16", "width": 16, "upsampling": "learnt"}


def test_a_file_of_another_network_is_rejected() -> None:
    with pytest.raises(
        UsageError, match=r"pretrained r\.pth: .* 'Vgg16': tensor 'features\.0\.bias' is missing"
    ):
        start_from(Vgg16(), {"conv1.weight": torch.zeros(1)}, Path("r.pth"))
    with pytest.raises(UsageError, match="adapter 'fcn-32s' loads only checkpoints trained with"):
        Fcn32s(FcnOptions(), Runtime()).load(Checkpoint({}, adapter="", options={}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "vgg16", "width": 8}, "width: it is an option of the small backbone"),
        ({"pretrained": "vgg16.pth"}, "pretrained: the small backbone has no published weights"),
    ],
)
def test_options_of_the_other_backbone_are_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FcnOptions(**options)
