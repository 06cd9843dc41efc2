"""Detectors at the papers' scale: the weights that training starts from, and one training step."""

import numpy as np
import pytest
import torch

from adapters.detection import fast_rcnn, rcnn, yolov1
from adapters.detection.fast_rcnn import FastRcnn
from adapters.detection.faster_rcnn import FasterRcnn, FasterRcnnOptions
from adapters.detection.rcnn import Rcnn
from adapters.detection.ssd import Ssd, SsdOptions
from adapters.detection.ssd_network import Vgg16Network
from adapters.detection.yolo import Yolo, YoloOptions
from adapters.torchvision.faster_rcnn import TorchvisionFasterRcnn
from adapters.torchvision.ssd import TorchvisionSsd
from adapters.vision.vgg import Vgg16
from harness.adapter import Runtime
from harness.checkpoint import Checkpoint
from harness.datasets.scenes.scenes import Scenes, ScenesOptions
from harness.errors import UsageError
from harness.task import Sample

SCENES = Scenes(ScenesOptions(), "train", "detection")


def published(shapes, path):
    """Save these tensors with every value .25, and a classifier's tensor that must be ignored."""
    tensors = {name: torch.full(shape, 0.25) for name, shape in shapes.items()}
    torch.save(tensors | {"classifier.6.bias": torch.full((1000,), float("nan"))}, path)
    return path


def vgg16():
    from torchvision.models import vgg16

    with torch.device("meta"):
        return {
            name: tensor.shape for name, tensor in vgg16().features.state_dict(prefix="features.").items()
        }


def resnet50():
    from torchvision.models import resnet50

    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in resnet50().state_dict().items()}


def stepped(adapter, count):
    """Make one step of the harness's optimiser and return the loss of the batch."""
    adapter.module.train()
    optimiser = torch.optim.AdamW(adapter.module.parameters(), lr=1e-4)
    batch = adapter.training_batch([SCENES[i] for i in range(count)], np.random.default_rng(0))
    loss = sum(adapter.loss(batch).values())
    loss.backward()
    optimiser.step()
    return loss


def assert_learns(adapter, frozen=(), may_be_zero=()):
    """Check that gradients are finite, and not 0 except of `may_be_zero`; frozen parameters have none."""
    for name, parameter in adapter.module.named_parameters():
        if name.startswith(frozen):
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            assert parameter.grad.any() or name.startswith(may_be_zero), name
        assert parameter.isfinite().all(), name


@pytest.mark.slow
def test_faster_rcnn_makes_a_step_from_a_published_classifier(tmp_path):
    """With small weights, so that values do not explode under frozen normalisation without statistics."""
    torch.manual_seed(0)
    tensors = FasterRcnn(FasterRcnnOptions(backbone="resnet50-fpn"), Runtime())
    tensors.build(SCENES)
    body = tensors.module.get_submodule("backbone.body").state_dict()
    for name in body:
        if name.endswith("bn3.weight"):
            body[name] = torch.full_like(body[name], 0.2)  # of the residual branch
    torch.save(body, tmp_path / "resnet50.pth")
    options = {"backbone": "resnet50-fpn", "shorter_side": 128, "longer_side": 192}
    adapter = FasterRcnn(FasterRcnnOptions(pretrained=tmp_path / "resnet50.pth", **options), Runtime())
    adapter.build(SCENES)
    before = adapter.module.get_parameter("backbone.body.conv1.weight").clone()
    loss = stepped(adapter, 2)
    assert loss.isfinite() and loss > 0
    assert_learns(adapter, frozen=("backbone.body.conv1.", "backbone.body.layer1."))
    assert torch.equal(before, adapter.module.get_parameter("backbone.body.conv1.weight"))


@pytest.mark.slow
def test_ssd_makes_a_step():
    torch.manual_seed(0)
    adapter = Ssd(SsdOptions(backbone="vgg16"), Runtime())
    adapter.build(SCENES)
    loss = stepped(adapter, 2)
    assert loss.isfinite() and loss > 0
    assert_learns(adapter, may_be_zero=("extra.", "heads."))  # of maps without an object or a hard negative


@pytest.mark.slow
def test_yolo_makes_a_step(monkeypatch):
    """With 2 × 2 cells, which takes images of 128 px, and few units."""
    monkeypatch.setattr(yolov1, "UNITS", 32)
    torch.manual_seed(0)
    adapter = Yolo(YoloOptions(backbone="yolov1", grid=2), Runtime())
    adapter.build(SCENES)
    loss = stepped(adapter, 2)
    assert loss.isfinite() and loss > 0
    assert_learns(adapter)


@pytest.mark.slow
@pytest.mark.parametrize(("cls", "frozen"), [(Rcnn, ()), (FastRcnn, (0, 2, 5, 7))])
def test_rcnn_and_fast_rcnn_make_a_step_from_a_published_classifier(cls, frozen, tmp_path, monkeypatch):
    """With few units. Fast R-CNN does not train its first two stages (Girshick 2015 §4.5)."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    for module in (rcnn, fast_rcnn):
        monkeypatch.setattr(module, "FULLY_CONNECTED", 32)
    torch.manual_seed(0)
    tensors = Vgg16().state_dict()
    for name, shape in (("0", (32, 512 * 7 * 7)), ("3", (32, 32))):
        tensors[f"classifier.{name}.weight"] = torch.randn(shape) / shape[1] ** 0.5
        tensors[f"classifier.{name}.bias"] = torch.zeros(32)
    torch.save(tensors, tmp_path / "vgg16.pth")
    options = {"backbone": "vgg16", "search": "small", "shorter_side": 128, "longer_side": 192}
    adapter = cls(cls.Options(pretrained=tmp_path / "vgg16.pth", **options), Runtime())
    adapter.build(SCENES)
    adapter.module.regions_per_image = 4
    loss = stepped(adapter, 2)
    assert loss.isfinite() and loss > 0
    assert_learns(adapter, frozen=tuple(f"trunk.features.{place}." for place in frozen))
    unchanged = [
        place
        for place in (0, 2, 5, 7, 10)
        if torch.equal(adapter.module.trunk.features[place].weight, tensors[f"features.{place}.weight"])
    ]
    assert unchanged == list(frozen)


@pytest.mark.slow
def test_faster_rcnn_starts_from_a_published_classifier(tmp_path):
    path = published(resnet50(), tmp_path / "resnet50.pth")
    adapter = FasterRcnn(FasterRcnnOptions(backbone="resnet50-fpn", pretrained=path), Runtime())
    adapter.build(SCENES)
    body = adapter.module.get_submodule("backbone.body")
    assert all((tensor == 0.25).all() for tensor in body.state_dict().values())
    assert {name for name, p in body.named_parameters() if not p.requires_grad} == {
        name for name, _ in body.named_parameters() if name.startswith(("conv1.", "layer1."))
    }


@pytest.mark.slow
def test_ssd_starts_from_a_published_classifier_and_xavier(tmp_path):
    path = published(vgg16(), tmp_path / "vgg16.pth")
    adapter = Ssd(SsdOptions(backbone="vgg16", pretrained=path), Runtime())
    adapter.build(SCENES)
    convolutions = [m for m in adapter.module.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 13 + 2 + 8 + 12
    for place, layer in enumerate(convolutions):
        if place < 13:
            assert (layer.weight == 0.25).all() and (layer.bias == 0.25).all()
            continue
        limit = (6 / ((layer.in_channels + layer.out_channels) * layer.weight[0, 0].numel())) ** 0.5
        assert layer.weight.abs().max() <= limit * 1.0001 and not layer.bias.any()
        assert float(layer.weight.detach().std()) == pytest.approx(limit / 3**0.5, rel=0.05)


@pytest.mark.parametrize("options", [FasterRcnnOptions, SsdOptions])
def test_the_small_backbone_has_no_published_weights(options):
    with pytest.raises(ValueError, match="pretrained: the small backbone has no published weights"):
        options(pretrained="weights.pth")


def test_a_file_of_another_network_is_rejected(tmp_path):
    path = published({"features.0.weight": (64, 3, 3, 3)}, tmp_path / "some.pth")
    with pytest.raises(UsageError, match=r"pretrained .*some.pth: .* tensor 'features\.0\.bias' is missing"):
        Vgg16Network(3, 300).load_pretrained(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cls", "parts"),
    [
        (
            TorchvisionFasterRcnn,
            ("backbone.body.conv1", "rpn.head.bbox_pred", "roi_heads.box_predictor.cls_score"),
        ),
        (TorchvisionSsd, ("backbone.features.0", "head.regression_head.module_list.2")),
    ],
)
def test_nan_in_weights_and_scores_of_torchvisions_models_is_an_error(cls, parts):
    """Without the check, they would return no detections."""
    adapter = cls(cls.Options(), Runtime())
    adapter.build(SCENES)
    adapter.module.eval()
    sample = [Sample("0", SCENES[0].input[:64, :64])]
    for part in parts:
        weight = adapter.module.get_submodule(part).weight
        before = weight.detach().clone()
        with torch.no_grad():
            weight[0] = float("nan")
        with pytest.raises(UsageError, match="the model's outputs are NaN or infinite"):
            adapter.predict(sample)
        checkpoint = adapter.checkpoint()
        with pytest.raises(UsageError, match=f"'{part}.weight' has NaN or infinite values"):
            adapter.load(
                Checkpoint(checkpoint.tensors, checkpoint.adapter, checkpoint.options, checkpoint.classes)
            )
        with torch.no_grad():
            weight.copy_(before)
