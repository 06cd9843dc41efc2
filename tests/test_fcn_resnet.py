"""The FCN on ResNet-50 equals torchvision's: same weights, same scores, same input, same loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from small_suite import run_suite
from torch import nn

from adapters.segmentation.fcn_resnet import FcnResNet50, FcnResNetOptions
from adapters.segmentation.segmenter import TrainingBatch
from adapters.torchvision.segmentation import TorchvisionFcnResNet50
from adapters.vision.resnet import FrozenBatchNorm, ResNet50
from harness.adapter import Runtime
from harness.checkpoint import Checkpoint, load
from harness.errors import UsageError
from harness.task import Sample

PUBLISHED = 35_322_218  # parameters, FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1


def conditioned(model: nn.Module) -> nn.Module:
    """Return a model with seeded weights that do not amplify rounding errors, like trained ones.

    Batch norms have the statistics of a batch, and residual branches half the weight of their shortcut:
    1e-6 of noise on the pixels then moves scores by 9e-5, and by 4.5e-4 without the half.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for name, parameter in model.named_parameters():
        if name.endswith("bn3.weight"):
            nn.init.constant_(parameter, 0.5)
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


@pytest.fixture(scope="module")
def reference() -> Any:
    from torchvision.models.segmentation import fcn_resnet50

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return conditioned(fcn_resnet50(weights=None, weights_backbone=None, num_classes=21, aux_loss=True))


@pytest.fixture(scope="module")
def published(reference: Any, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Return weights in the format that torchvision publishes."""
    path = tmp_path_factory.mktemp("weights") / "fcn_resnet50.pth"
    torch.save(reference.state_dict(), path)
    checkpoint = load(path)
    path.unlink()  # 135 MB
    return checkpoint


@pytest.fixture(scope="module")
def own(published: Checkpoint) -> FcnResNet50:
    adapter = FcnResNet50(FcnResNetOptions(), Runtime())
    adapter.load(published)
    return adapter


def with_options(adapter: FcnResNet50, **options: Any) -> FcnResNet50:
    """Return the same loaded network with other options."""
    other = type(adapter)(FcnResNetOptions(**options), Runtime())
    other.module, other.classes = adapter.module, adapter.classes
    return other


def photograph(height: int, width: int) -> np.ndarray:
    """Return a seeded image with smooth areas, so that differences in resizing show."""
    coarse = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    return np.asarray(PIL.Image.fromarray(coarse).resize((width, height), PIL.Image.Resampling.BICUBIC))


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (33, 130), (1, 1)])
@pytest.mark.parametrize("batch", [1, 3])
def test_logits_are_torchvisions_on_odd_and_even_sizes(
    own: FcnResNet50, reference: Any, size: tuple[int, int], batch: int
) -> None:
    pixels = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        expected = reference(pixels)["out"]
        for layout in (torch.contiguous_format, torch.channels_last):
            found = own.scores(pixels.contiguous(memory_format=layout))
            assert found.shape == (batch, 21, *size)
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert expected.std() > 0.1  # there is something to agree on


def test_parameters_and_classes_are_the_published_ones(own: FcnResNet50) -> None:
    assert own.parameters() == PUBLISHED
    assert own.classes[:2] == ("background", "aeroplane") and own.classes[-1] == "tvmonitor"


@pytest.mark.parametrize("size", [(375, 500), (500, 333), (48, 61), (520, 520)])
def test_input_is_what_torchvisions_transform_gives(own: FcnResNet50, size: tuple[int, int]) -> None:
    from torchvision.models.segmentation import FCN_ResNet50_Weights

    image = photograph(*size)
    expected = FCN_ResNet50_Weights.DEFAULT.transforms()(PIL.Image.fromarray(image))
    (group,) = own.preprocess([Sample("0", image)]).groups
    found = own.to_input(group.first_chunk)[0]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(50, 81), (130, 97), (64, 64)])
def test_classes_are_decided_at_the_original_resolution(
    own: FcnResNet50, reference: Any, published: Checkpoint, size: tuple[int, int]
) -> None:
    from torchvision.transforms._presets import SemanticSegmentation

    image = photograph(*size)
    pixels = SemanticSegmentation(resize_size=64)(PIL.Image.fromarray(image))
    with torch.inference_mode():
        scores = reference(pixels[None])["out"]
        expected = nn.functional.interpolate(scores, size, mode="bilinear").argmax(1)[0].numpy()
    assert len(np.unique(expected)) > 1
    peer = TorchvisionFcnResNet50(FcnResNetOptions(), Runtime())
    peer.module, peer.classes = reference, own.classes
    for adapter in (with_options(own, resize=64), with_options(peer, resize=64)):
        (found,) = adapter.predict([Sample("0", image)])
        assert found.shape == size and found.dtype == np.uint8
        assert (found == expected).mean() > 0.999  # two classes may tie but for rounding


def test_images_of_different_sizes_in_a_batch_do_not_change_each_other(own: FcnResNet50) -> None:
    adapter = with_options(own, resize=48)
    samples = [Sample(str(n), photograph(*size)) for n, size in enumerate([(50, 60), (40, 31), (50, 60)])]
    together = adapter.predict(samples)
    for sample, mask in zip(samples, together, strict=True):
        assert np.array_equal(adapter.predict([sample])[0], mask)


def test_a_window_as_large_as_the_image_changes_nothing(own: FcnResNet50) -> None:
    sample = Sample("0", photograph(70, 90))
    plain, windowed, smaller = (
        with_options(own, resize=None, window=window).predict([sample])[0] for window in (None, 90, 48)
    )
    assert np.array_equal(plain, windowed)
    assert smaller.shape == plain.shape and not np.array_equal(plain, smaller)


def test_the_peer_loads_the_same_file(published: Checkpoint, reference: Any) -> None:
    peer = TorchvisionFcnResNet50(FcnResNetOptions(), Runtime())
    peer.load(published)
    assert peer.parameters() == PUBLISHED and not peer.module.training
    pixels = torch.randn(1, 3, 33, 40)
    with torch.inference_mode():
        torch.testing.assert_close(peer.scores(pixels), reference(pixels)["out"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("adapter", [FcnResNet50, TorchvisionFcnResNet50])
def test_missing_or_foreign_weights_are_refused(adapter: Any) -> None:
    made = adapter(FcnResNetOptions(), Runtime())
    with pytest.raises(UsageError, match=f"adapter '{adapter.name}' needs a checkpoint"):
        made.load(None)
    with pytest.raises(UsageError, match=r"lacks 'classifier\.4\.bias' of torchvision's weights"):
        made.load(Checkpoint({"features.0.weight": torch.zeros(1)}, adapter="", options={}))
    with pytest.raises(UsageError, match=f"checkpoint of adapter 'fcn-8s' cannot be loaded by '{made.name}'"):
        made.load(Checkpoint({}, adapter="fcn-8s", options={}))


def test_classes_and_auxiliary_classifier_are_inferred_from_the_tensors() -> None:
    adapter = FcnResNet50(FcnResNetOptions(), Runtime())
    found = adapter.adopt({"classifier.4.bias": torch.zeros(3)})
    assert found.classes == ("", "", "")
    assert (found.adapter, adapter.auxiliary) == ("fcn-resnet50", False)
    with_auxiliary = {"classifier.4.bias": torch.zeros(21), "aux_classifier.4.bias": torch.zeros(21)}
    assert adapter.adopt(with_auxiliary).classes[1] == "aeroplane" and adapter.auxiliary


def test_the_loss_is_torchvisions_criterion(own: FcnResNet50, reference: Any) -> None:
    """references/segmentation: cross-entropy of "out" plus half that of "aux", 255 ignored."""
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randn(2, 3, 64, 64, generator=generator)
    masks = torch.randint(0, 21, (2, 64, 64), generator=generator)
    masks[:, :9] = 255
    models = (own.module, reference)
    states = [{name: tensor.clone() for name, tensor in model.state_dict().items()} for model in models]
    for model in models:
        model.train()
        for part in model.modules():
            if isinstance(part, nn.Dropout):
                part.eval()
    try:
        with torch.no_grad():
            found = own.loss(TrainingBatch(pixels, masks))
            scores = reference(pixels)
    finally:
        for model, state in zip(models, states, strict=True):
            model.load_state_dict(state)  # training moved the statistics of the batch norms
            model.eval()
    expected = [nn.functional.cross_entropy(scores[name], masks, ignore_index=255) for name in ("out", "aux")]
    assert list(found) == ["out", "aux"]
    torch.testing.assert_close(found["out"], expected[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(found["aux"], 0.5 * expected[1], atol=1e-4, rtol=0)


def test_dropout_is_torchvisions(own: FcnResNet50, reference: Any) -> None:
    rates = [
        [part.p for part in net.modules() if isinstance(part, nn.Dropout)] for net in (own.module, reference)
    ]
    assert rates[0] == rates[1] and len(rates[0]) == 2


def test_the_backbone_with_frozen_norms_and_all_strides_is_torchvisions(own: FcnResNet50) -> None:
    from torchvision.models import resnet50
    from torchvision.models._utils import IntermediateLayerGetter
    from torchvision.ops import FrozenBatchNorm2d

    theirs = resnet50(weights=None, norm_layer=FrozenBatchNorm2d)
    trunk = ResNet50(norm=FrozenBatchNorm).eval()
    weights = {  # of the conditioned network: strides and dilation have no parameters
        name.removeprefix("backbone."): tensor
        for name, tensor in own.module.state_dict().items()
        if name.startswith("backbone.") and not name.endswith("num_batches_tracked")
    }
    trunk.load_state_dict(weights)
    theirs.load_state_dict({**theirs.state_dict(), **weights})
    stages = IntermediateLayerGetter(theirs.eval(), {f"layer{n}": f"layer{n}" for n in range(1, 5)})
    pixels = torch.randn(2, 3, 65, 97, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, expected = trunk(pixels), list(stages(pixels).values())
    assert [tuple(m.shape[1:]) for m in found] == [(256, 17, 25), (512, 9, 13), (1024, 5, 7), (2048, 3, 4)]
    for ours, other in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, other, atol=1e-4, rtol=1e-4)
    assert not [name for name, _ in trunk.named_parameters() if "bn" in name or "downsample.1" in name]


def test_training_can_start_from_a_published_classifier(tmp_path: Path, own: FcnResNet50) -> None:
    class TwoClasses:
        classes = ("background", "thing")

    trunk = {
        name.removeprefix("backbone."): tensor
        for name, tensor in own.module.state_dict().items()
        if name.startswith("backbone.")
    }
    path = tmp_path / "resnet50.pth"
    torch.save({**trunk, "fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}, path)
    adapter = FcnResNet50(FcnResNetOptions(pretrained=path), Runtime())
    adapter.build(TwoClasses())  # type: ignore[arg-type]
    for name, tensor in trunk.items():
        assert torch.equal(adapter.module.get_submodule("backbone").state_dict()[name], tensor), name
    path.unlink()


@pytest.mark.slow
def test_own_and_peer_run_from_the_same_published_file(tmp_path: Path) -> None:
    from torchvision.models.segmentation import fcn_resnet50

    torch.manual_seed(0)
    torch.save(
        conditioned(fcn_resnet50(weights_backbone=None, num_classes=11)).state_dict(), tmp_path / "w.pth"
    )
    entry = {"checkpoint": "w.pth", "batch_size": 2, "options": {"resize": 64}}
    suite = {
        "name": "peers",
        "datasets": {"few": {"dataset": "scenes", "options": {"size": 40}}},
        "adapters": {
            "own": {"adapter": "fcn-resnet50", **entry},
            "peer": {"adapter": "torchvision/fcn_resnet50", **entry},
        },
        "benchmarks": {
            "digits": {
                "dataset": "few",
                "task": "segmentation",
                "limit": 3,
                "adapters": ["own", "peer"],
                "metrics": ["iou"],
            }
        },
    }
    own, peer = run_suite(tmp_path, suite).trials
    assert (own.adapter, peer.adapter) == ("fcn-resnet50", "torchvision/fcn_resnet50")
    assert own.status == peer.status == "complete" and own.checkpoint == peer.checkpoint
    assert own.metrics["miou"].value == pytest.approx(peer.metrics["miou"].value, abs=1e-3)
    (tmp_path / "w.pth").write_bytes(b"nothing")
    with pytest.raises(UsageError, match=r"w\.pth: truncated, or not a file of weights alone"):
        run_suite(tmp_path, suite, out="again")
    assert not (tmp_path / "again").exists()
