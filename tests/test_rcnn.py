import math

import numpy as np
import pytest
import scipy
import skimage
import torch
from torch import nn
from torchvision.ops import box_iou

from adapters.detection import fast_rcnn, faster_rcnn, proposal_cache, rcnn, region_head
from adapters.detection.detector_input import BoxTransform
from adapters.detection.fast_rcnn import FastRcnn
from adapters.detection.faster_rcnn import FasterRcnn
from adapters.detection.proposal_cache import cached_proposals
from adapters.detection.rcnn import Rcnn
from adapters.detection.selective_search import MODES
from adapters.detection.selective_search_detector import RegionTrainingBatch, SelectiveSearchOptions
from adapters.detection.training_batch import (
    TrainingBatch,
    framed_training_batch,
    photograph_training_batch,
)
from harness import checkpoint as checkpoints
from harness.adapter import Runtime
from harness.datasets.scenes.scenes import Scenes, ScenesOptions
from harness.errors import UsageError
from harness.task import Annotations, Sample

BOTH = pytest.mark.parametrize("cls", [Rcnn, FastRcnn], ids=lambda cls: cls.name)


def test_warping_a_ramp_gives_the_positions_in_the_image():
    """Value = x − y: bilinear samples of it are exact. The region fills the window except for the context."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(80.0), indexing="ij")
    ramps = torch.stack([x, y, x - y])[None]
    box, size = torch.tensor([[20.0, 16.0, 50.0, 36.0]]), 40
    warped = rcnn.warp(ramps, nn.functional.pad(box, (1, 0)), size)
    assert warped.shape == (1, 3, size, size)
    context = 16 / 227 * size
    for k, (low, high) in enumerate([(20, 50), (16, 36)]):
        step = (high - low) / (size - 2 * context)
        expected = low + (torch.arange(size) + 0.5 - context) * step
        values = warped[0, k, 0] if k == 0 else warped[0, k, :, 0]
        torch.testing.assert_close(values, expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(warped[0, 2], warped[0, 0] - warped[0, 1], atol=1e-3, rtol=0)


def test_pixels_outside_the_image_are_the_mean():
    pixels = torch.ones(1, 3, 64, 64)
    warped = rcnn.warp(pixels, torch.tensor([[0.0, 0, 8, 40, 48]]), 40)
    assert (warped[..., 0] == 0).all() and (warped[..., 6:-6] == 1).all()


def test_scores_do_not_depend_on_the_number_of_regions_per_chunk(monkeypatch):
    torch.manual_seed(0)
    adapter = Rcnn(Rcnn.Options(width=8), Runtime())
    adapter.build(Scenes(ScenesOptions(), "train", "detection"))
    network = adapter.module.eval()
    pixels = torch.rand(2, 3, 64, 64)
    corners = torch.rand(30, 2) * 30
    regions = list(torch.cat([corners, corners + 5 + torch.rand(30, 2) * 25], dim=1).split([11, 19]))
    with torch.no_grad():
        expected = network(pixels, regions)
        monkeypatch.setattr(rcnn, "CHUNK", 7)
        outputs = network(pixels, regions)
    for output, reference in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, reference, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["square", "photographs"])
@pytest.mark.parametrize("seed", range(4))
def test_transforms_move_regions_like_objects(seed, kind):
    image = np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8)
    boxes = np.array([[20.0, 15, 45, 40], [50, 30, 66, 41]])
    samples = [Sample("0", image, Annotations.of_boxes(boxes, [0, 1]))]
    generator = np.random.default_rng(seed)
    if kind == "square":
        batch = framed_training_batch(samples, (96, 96), generator, "cpu")
    else:
        batch = photograph_training_batch(samples, 64, 200, generator, "cpu")
    moved = batch.transforms[0].apply(boxes)
    np.testing.assert_allclose(moved, batch.boxes[0].numpy(), atol=1e-4)
    assert (moved[:, 2:] > moved[:, :2]).all()


def test_a_mirrored_transform_by_hand():
    transform = BoxTransform((40, 80), (80, 160), (-2.0, 2.0), (160.0, 0.0))  # resized by 2 and mirrored
    assert transform.apply(np.array([[10, 5, 30, 25]])).tolist() == [[100, 10, 140, 50]]


@BOTH
def test_cached_regions_give_the_same_predictions(cls, monkeypatch, tmp_path):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    scenes = Scenes(ScenesOptions(), "train", "detection")
    torch.manual_seed(0)
    adapter = cls(cls.Options(width=8), Runtime())
    adapter.build(scenes)
    checkpoints.save(adapter.checkpoint(), tmp_path / "w.safetensors")
    searching, caching = (cls(cls.Options(cached_regions=cached), Runtime()) for cached in (False, True))
    for adapter in (searching, caching):
        adapter.load(checkpoints.load(tmp_path / "w.safetensors"))
    sample = [Sample("0", scenes[0].input)]
    (expected,), _ = searching.predict(sample), caching.predict(sample)
    assert len(list((tmp_path / "proposals").rglob("*.npy"))) == 1
    (prediction,) = caching.predict(sample)
    assert (prediction.boxes == expected.boxes).all() and (prediction.scores == expected.scores).all()


SAMPLED = {  # regions per image; 2 images per batch at the papers' scale
    (Rcnn, "small"): 24,
    (Rcnn, "vgg16"): 64,  # Girshick et al. 2014 §2.3: 128 per batch, a quarter of them objects
    (FastRcnn, "small"): 32,
    (FastRcnn, "vgg16"): 64,  # Girshick 2015 §2.3: 64 per image, 25% of them with an IoU of at least .5
    (FasterRcnn, "small"): 32,
    (FasterRcnn, "resnet50-fpn"): 512,  # Lin et al. 2017 §5.2
}


@pytest.mark.parametrize(("cls", "backbone"), SAMPLED)
def test_sampling_has_the_numbers_of_the_papers(cls, backbone):
    adapter = cls(cls.Options(backbone=backbone), Runtime())
    with torch.device("meta"):
        network = adapter.make_module()
    count = SAMPLED[cls, backbone]
    assert network.regions_per_image == count
    assert (region_head.POSITIVE_FRACTION, region_head.POSITIVE_IOU) == (0.25, 0.5)
    if cls is FasterRcnn:  # Ren et al. 2015 §3.1.2, §3.1.3 and §3.3; Lin et al. 2017 §5.2
        small, settings = backbone == "small", network.rpn.settings
        assert (settings.positive_iou, settings.negative_iou, settings.nms_iou) == (
            0.6 if small else 0.7,
            0.3,
            0.7,
        )
        assert (settings.anchors_per_image, settings.positive_fraction) == (128 if small else 256, 0.5)
        assert (settings.pre_nms_top_n, settings.post_nms_top_n, settings.training_factor) == (
            (300, 100, 1) if small else (1000, 1000, 2)
        )
        assert faster_rcnn.SMOOTH_L1_BETA == 1 / 9  # for proposals and regions, as in torchvision's loss


def loss_by_hand(logits, offsets, regions, objects, labels):
    """Girshick 2015 equations 1 to 3, region by region: smooth L1 is linear from 1; offsets are divided by
    their standard deviations .1 and .2."""
    class_loss = error = 0.0
    for scores, offsets_of_region, region in zip(
        logits.tolist(), offsets.tolist(), regions.tolist(), strict=True
    ):
        overlaps = [float(box_iou(torch.tensor(region)[None], box[None])) for box in objects]
        nearest = int(np.argmax(overlaps))
        target = int(labels[nearest]) + 1 if overlaps[nearest] >= 0.5 else 0
        class_loss += math.log(sum(map(math.exp, scores))) - scores[target]
        if target:
            (x, y, w, h), (cx, cy, cw, ch) = (
                ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
                for x1, y1, x2, y2 in (region, objects[nearest].tolist())
            )
            aims = ((cx - x) / w / 0.1, (cy - y) / h / 0.1, math.log(cw / w) / 0.2, math.log(ch / h) / 0.2)
            for aim, value in zip(aims, offsets_of_region[target], strict=True):
                apart = abs(value - aim)
                error += apart**2 / 2 if apart < 1 else apart - 0.5
    return {"class": class_loss / len(regions), "box": error / len(regions)}


class RandomOutputs(torch.nn.Module):
    """Random outputs for any regions."""

    regions_per_image = 64

    def forward(self, pixels, regions):
        self.regions = torch.cat(regions)
        generator = torch.Generator().manual_seed(0)
        self.logits = torch.randn(len(self.regions), 4, generator=generator)
        self.offsets = torch.randn(len(self.regions), 4, 4, generator=generator)
        return self.logits, self.offsets


@BOTH
def test_the_loss_equals_the_papers_region_by_region(cls):
    adapter = cls(cls.Options(), Runtime())
    adapter.module = RandomOutputs()
    objects, labels = torch.tensor([[10.0, 10, 50, 60], [30, 20, 90, 80]]), torch.tensor([2, 0])
    moves = torch.randn(12, 4, generator=torch.Generator().manual_seed(1)) * 4
    regions = torch.cat([objects.repeat(6, 1) + moves, torch.rand(20, 4) + torch.tensor([0.0, 0, 30, 20])])
    transform = BoxTransform((96, 96), (96, 96), (1.0, 1.0))
    batch = TrainingBatch(torch.zeros(1, 3, 96, 96), [transform], [objects], [labels])
    terms = adapter.loss(RegionTrainingBatch(batch, [regions]))
    network = adapter.module
    assert len(network.regions) == 34  # all regions, and the objects themselves
    expected = loss_by_hand(network.logits, network.offsets, network.regions, objects, labels)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-5)
    assert expected["box"] > 0.1


@pytest.mark.parametrize("damage", [b"", b"half", None])
def test_a_truncated_cache_file_is_replaced_by_a_new_search(damage, monkeypatch, tmp_path):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    image = Scenes(ScenesOptions(), "train", "detection")[0].input
    expected = cached_proposals(image, MODES["small"])
    (path,) = (tmp_path / "proposals").rglob("*.npy")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    assert (cached_proposals(image, MODES["small"]) == expected).all()
    assert path.read_bytes() == whole
    monkeypatch.setattr(proposal_cache, "propose", None)
    assert (cached_proposals(image, MODES["small"]) == expected).all()


def test_another_version_of_the_search_does_not_use_the_cache(monkeypatch, tmp_path):
    assert proposal_cache.VERSIONS.split()[1:] == [skimage.__version__, scipy.__version__]
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    image = Scenes(ScenesOptions(), "train", "detection")[0].input
    cached_proposals(image, MODES["small"])
    monkeypatch.setattr(proposal_cache, "VERSIONS", "2 0.0 0.0")
    cached_proposals(image, MODES["small"])
    assert len(list((tmp_path / "proposals").rglob("*.npy"))) == 2


class TestPaperScale:
    """VGG-16 with few units in its fully connected layers; with 4,096, they have 120 million parameters."""

    @pytest.fixture(params=[Rcnn, FastRcnn], ids=lambda cls: cls.name)
    def adapter(self, request, monkeypatch):
        for module in (rcnn, fast_rcnn):
            monkeypatch.setattr(module, "FULLY_CONNECTED", 16)
        torch.manual_seed(0)
        options = {"backbone": "vgg16", "search": "small", "shorter_side": 64, "longer_side": 96}
        adapter = request.param(SelectiveSearchOptions(proposals_per_image=3, **options), Runtime())
        adapter.build(Scenes(ScenesOptions(), "train", "detection"))
        return adapter

    def test_boxes_are_inside_the_image(self, adapter):
        scene = Scenes(ScenesOptions(), "train", "detection")[0]
        adapter.module.eval()
        (prediction,) = adapter.predict([Sample("0", scene.input[:100, :70])])
        assert (prediction.boxes <= (70, 100, 70, 100)).all() and prediction.boxes.min(initial=0) >= 0

    def test_starts_from_a_published_classifier(self, adapter, tmp_path):
        published = {f"features.{k}": t for k, t in adapter.module.trunk.features.state_dict().items()}
        published = {name: torch.full_like(t, 0.5) for name, t in published.items()}
        head = adapter.module.roi_heads.box_head
        for place, name in (("0", "fc6"), ("3", "fc7")):
            for kind in ("weight", "bias"):
                tensor = getattr(getattr(head, name), kind)
                published[f"classifier.{place}.{kind}"] = torch.full_like(tensor, 0.25)
        torch.save(published, tmp_path / "vgg16.pth")
        options = {"backbone": "vgg16", "pretrained": tmp_path / "vgg16.pth"}
        started = type(adapter)(SelectiveSearchOptions(**options), Runtime())
        started.build(Scenes(ScenesOptions(), "train", "detection"))
        assert (started.module.trunk.features[0].weight == 0.5).all()
        assert (started.module.roi_heads.box_head.fc7.bias == 0.25).all()


def test_the_small_backbone_has_no_published_weights():
    with pytest.raises(ValueError, match="pretrained: the small backbone has no published weights"):
        SelectiveSearchOptions(pretrained="vgg16.pth")


@BOTH
def test_weights_from_elsewhere_are_rejected(cls, tmp_path):
    torch.save({"x": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(
        UsageError, match=f"adapter '{cls.name}' loads only checkpoints trained with this harness"
    ):
        cls(cls.Options(), Runtime()).load(checkpoints.load(tmp_path / "x.pth"))
