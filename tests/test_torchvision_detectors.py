"""Own Faster R-CNN and SSD with torchvision's weights give torchvision's detections, as its adapters do."""

import numpy as np
import pytest
import torch

from adapters.detection.faster_rcnn import FasterRcnn, FasterRcnnOptions, published_classes
from adapters.detection.ssd import Ssd, SsdOptions
from adapters.torchvision import detection as peers
from harness.adapter import Runtime
from harness.checkpoint import Checkpoint
from harness.errors import UsageError
from harness.stages.labels import class_map, relabelled
from harness.suite import find_suite, load_suite
from harness.task import Annotations, Detections, Sample

SHORTER, LONGER = 160, 266  # px: a fifth of the published size, for the time's sake
SIZES = [(61, 80), (97, 70), (50, 133)]


@pytest.fixture(scope="module")
def faster():
    from torchvision.models.detection import fasterrcnn_resnet50_fpn

    torch.manual_seed(0)
    theirs = fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, min_size=SHORTER, max_size=LONGER
    ).eval()
    own = FasterRcnn(FasterRcnnOptions(shorter_side=SHORTER, longer_side=LONGER), Runtime())
    own.load(Checkpoint(theirs.state_dict(), "", {}))
    options = peers.FasterRcnnOptions(shorter_side=SHORTER, longer_side=LONGER)
    peer = peers.TorchvisionFasterRcnn(options, Runtime())
    peer.load(Checkpoint(theirs.state_dict(), "", {}))
    return theirs, own, peer


@pytest.fixture(scope="module")
def ssd():
    from torchvision.models.detection import ssd300_vgg16

    torch.manual_seed(0)
    theirs = ssd300_vgg16(weights=None, weights_backbone=None).eval()
    own = Ssd(SsdOptions(), Runtime())
    own.load(Checkpoint(theirs.state_dict(), "", {}))
    peer = peers.TorchvisionSsd(peers.SsdOptions(), Runtime())
    peer.load(Checkpoint(theirs.state_dict(), "", {}))
    return theirs, own, peer


def pictures(sizes):
    generator = np.random.default_rng(0)
    return [Sample(str(i), generator.integers(0, 256, (*s, 3), np.uint8)) for i, s in enumerate(sizes)]


def assert_same(found, expected):
    """Every detection has its like: box within .05 px, label, score within 1e-4."""
    boxes, scores, labels = (expected[key].numpy() for key in ("boxes", "scores", "labels"))
    assert len(found.boxes) == len(boxes) > 0
    far = np.abs(boxes[None] - found.boxes[:, None]).max(axis=2)
    like = (far <= 0.05) & (labels - 1 == found.labels[:, None])
    like &= np.abs(scores - found.scores[:, None]) <= 1e-4
    assert like.any(axis=1).all() and like.any(axis=0).all()
    assert (np.diff(found.scores) <= 0).all()


@pytest.mark.parametrize("pair", ["faster", "ssd"])
def test_detections_equal_torchvisions_alone_and_in_a_batch(pair, request):
    theirs, *adapters = request.getfixturevalue(pair)
    samples = pictures(SIZES)
    inputs = [torch.from_numpy(s.input).permute(2, 0, 1).float() / 255 for s in samples]
    with torch.no_grad():
        expected = [theirs([one])[0] for one in inputs]
    for adapter in adapters:
        for found, wanted in zip(adapter.predict(samples), expected, strict=True):
            assert_same(found, wanted)
    assert_same(adapters[0].predict(samples[:1])[0], expected[0])


@pytest.mark.parametrize("pair", ["faster", "ssd"])
def test_pictures_of_one_pixel_and_of_one_row_are_seen(pair, request):
    for adapter in request.getfixturevalue(pair)[1:]:
        for sample, found in zip(
            samples := pictures([(1, 1), (1, 40)]), adapter.predict(samples), strict=True
        ):
            height, width = sample.input.shape[:2]
            assert (found.boxes >= 0).all() and (found.boxes <= np.array([width, height] * 2) + 1e-4).all()


@pytest.mark.slow
@pytest.mark.parametrize("pair", ["faster", "ssd"])
def test_bf16_gives_nearly_the_same_scores(pair, request):
    theirs, *adapters = request.getfixturevalue(pair)
    for adapter in adapters:
        half = type(adapter)(adapter.options, Runtime(precision="bf16"))
        half.load(Checkpoint(theirs.state_dict(), "", {}))
        (full,), (found,) = (one.predict(pictures(SIZES[:1])) for one in (adapter, half))
        assert found.scores.dtype == found.boxes.dtype == np.float32
        count = min(len(full.scores), len(found.scores), 10)
        assert count > 0
        np.testing.assert_allclose(found.scores[:count], full.scores[:count], atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("pair", ["faster", "ssd"])
def test_torchvisions_models_learn_behind_the_interface(pair, request):
    theirs, _, adapter = request.getfixturevalue(pair)
    learner = type(adapter)(adapter.options, Runtime())
    learner.load(Checkpoint(theirs.state_dict(), "", {}))
    (picture,) = pictures([(64, 80)])
    sample = Sample("0", picture.input, Annotations.of_boxes([[10, 8, 50, 44], [3, 3, 3, 9]], [2, 4]))
    learner.module.train()
    batch = learner.training_batch([sample], np.random.default_rng(0))
    assert all(labels.tolist() == [3] for labels in (target["labels"] for target in batch.targets))
    terms = learner.loss(batch)
    sum(terms.values()).backward()
    assert all(term.isfinite() and term >= 0 for term in terms.values())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in learner.module.parameters())


def test_parameters_are_as_many_as_published(faster, ssd):
    for own, published in ((faster[1:], 41_755_286), (ssd[1:], 35_641_826)):
        # with frozen normalisation, which has none
        assert [adapter.parameters() for adapter in own] == [published] * 2


def test_the_older_names_of_published_files_load_too(faster):
    theirs, own, peer = faster
    tensors = {
        name.replace("rpn.head.conv.0.0.", "rpn.head.conv.").replace("_blocks.0.0.", "_blocks.0."): tensor
        for name, tensor in theirs.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    assert tensors.keys() - theirs.state_dict().keys()
    adopted = own.adopt(tensors)
    assert adopted.tensors.keys() == own.module.state_dict().keys()
    assert adopted.options["epsilon"] == 0.0
    assert adopted.classes[0] == "person" and len(adopted.classes) == 90
    again = peer.adopt(tensors)
    assert again.tensors.keys() == peer.module.state_dict().keys()
    assert (again.options, again.classes) == ({"epsilon": 0.0}, adopted.classes)


@pytest.mark.parametrize(("pair", "labels"), [("faster", "faster-rcnn"), ("ssd", "ssd300")])
def test_the_suite_names_the_options_of_the_published_weights(pair, labels, request):
    """A run fills in every option's default; one that the weights contradict would be refused."""
    theirs, *adapters = request.getfixturevalue(pair)
    frozen = {n: t for n, t in theirs.state_dict().items() if not n.endswith("num_batches_tracked")}
    entries = load_suite(find_suite("coco")).suite.adapters
    for label, adapter in zip((labels, f"torchvision-{labels}"), adapters, strict=True):
        assert entries[label].adapter == adapter.name
        complete = adapter.Options(**entries[label].options).model_dump()
        loaded = type(adapter)(adapter.Options(**complete), Runtime())
        loaded.load(Checkpoint(frozen, "", {}))
        assert loaded.classes[0] == "person"


def test_a_model_of_90_classes_answers_for_the_80():
    model = published_classes(90)
    data = [name for name in model if name != "N/A"]
    assert len(data) == 80
    classes = class_map("detection", model, data)
    assert classes is not None
    labels = np.arange(90)
    (kept,) = relabelled(
        [Detections(np.zeros((90, 4), np.float32), np.ones(90, np.float32), labels)], classes
    )
    assert kept.labels.tolist() == list(range(80))


@pytest.mark.parametrize("pair", ["faster", "ssd"])
def test_weights_of_something_else_are_told(pair, request):
    for adapter in request.getfixturevalue(pair)[1:]:
        with pytest.raises(UsageError, match=f"adapter '{adapter.name}': .* as torchvision's have"):
            adapter.adopt({"conv.weight": torch.zeros(1)})


@pytest.mark.parametrize("pair", ["faster", "ssd"])
def test_nan_weights_and_left_over_ones_are_told(pair, request):
    theirs, *adapters = request.getfixturevalue(pair)
    tensors = theirs.state_dict()
    name = next(
        name for name in tensors if name.endswith("conv1.weight") or name.endswith("features.0.weight")
    )
    broken = {**tensors, name: torch.full_like(tensors[name], float("nan"))}
    for adapter in adapters:
        for content, message in (
            (broken, "has NaN or infinite values"),
            ({**tensors, "x": tensors[name]}, "left over"),
        ):
            with pytest.raises(UsageError, match=message):
                type(adapter)(adapter.options, Runtime()).load(Checkpoint(content, "", {}))
        with pytest.raises(
            UsageError, match=f"checkpoint of adapter 'yolo' cannot be loaded by '{adapter.name}'"
        ):
            type(adapter)(adapter.options, Runtime()).load(Checkpoint(tensors, "yolo", {}))


def test_default_boxes_are_torchvisions(ssd):
    theirs, own, _ = ssd
    (sample,) = pictures([(300, 300)])
    batch = own.preprocess([sample])
    with torch.no_grad():
        images, _ = theirs.transform([torch.from_numpy(sample.input).permute(2, 0, 1).float() / 255])
        (expected,) = theirs.anchor_generator(images, list(theirs.backbone(images.tensors).values()))
        *_, found = own.module(batch.groups[0].pixels)
    assert len(found) == 8732
    torch.testing.assert_close(found / 300, expected / 300, atol=1e-5, rtol=0)


def test_the_loss_equals_torchvisions(ssd):
    from torchvision.ops import box_iou

    theirs, own, _ = ssd
    from adapters.detection import default_boxes

    generator = torch.Generator().manual_seed(0)
    defaults = own.module(torch.zeros(1, 3, 300, 300))[2].detach()
    logits = torch.randn(2, 8732, 91, generator=generator)
    offsets = torch.randn(2, 8732, 4, generator=generator)
    objects = [
        torch.tensor([[10.0, 10, 80, 90], [100, 120, 220, 260]]),
        torch.tensor([[30.0, 40, 55, 61]]),
    ]
    labels = [torch.tensor([3, 7]), torch.tensor([0])]
    targets = [{"boxes": b, "labels": c + 1} for b, c in zip(objects, labels, strict=True)]
    matched = [theirs.proposal_matcher(box_iou(b, defaults)) for b in objects]
    expected = theirs.compute_loss(
        targets, {"bbox_regression": offsets, "cls_logits": logits}, [defaults] * 2, matched
    )
    found = default_boxes.loss(logits, offsets, defaults, objects, labels, default_boxes.Thresholds())
    torch.testing.assert_close(found["box"], expected["bbox_regression"])
    torch.testing.assert_close(found["class"], expected["classification"])
