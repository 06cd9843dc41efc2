"""With torchvision's weights, this project's Faster R-CNN and SSD give torchvision's detections."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.datasets import load_sample_images
from torchvision.ops import box_iou

from adapters.detection import default_boxes, faster_rcnn, region_head
from adapters.detection.detector_input import BoxTransform
from adapters.detection.faster_rcnn import FasterRcnn, FasterRcnnOptions
from adapters.detection.rpn import RpnOutputs
from adapters.detection.ssd import Ssd, SsdOptions
from adapters.detection.torchvision_weights import published_classes
from adapters.detection.training_batch import TrainingBatch
from adapters.torchvision.faster_rcnn import TorchvisionFasterRcnn
from adapters.torchvision.ssd import TorchvisionSsd
from harness import identity
from harness.adapter import Runtime
from harness.checkpoint import Checkpoint, load_into
from harness.errors import UsageError
from harness.stages.labels import class_map, relabel
from harness.suite.loading import find_suite, load_suite
from harness.task import Annotations, Detections, Sample

SHORTER, LONGER = 160, 266  # px: a fifth of the published size, to save time
SIZES = [(61, 80), (427, 640), (97, 171)]  # (height, width); the second is a whole photograph
SPREAD = 2.5  # standard deviation of the logits; with plain random weights, one class would win everywhere
EDGE = 1e-4  # of a score; this close to a limit, rounding decides on which side a detection is


def varied(model, classifier, seed):
    """Give every buffer and bias another value, and make logits differ between regions.

    Args:
        classifier: the part of the model that outputs logits [..., 91].
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = model.state_dict()
    for name, tensor in tensors.items():
        if name.endswith("running_mean"):
            tensor.normal_(0, 0.3, generator=generator)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=generator)
        elif name.endswith("scale_weight"):  # of SSD's first map
            tensor.uniform_(10, 30, generator=generator)
        elif tensor.ndim == 1 and name.endswith("weight"):  # of normalisation
            tensor.uniform_(0.3, 0.9, generator=generator)
        elif tensor.ndim == 1 and name.endswith("bias"):
            tensor.normal_(0, 0.05, generator=generator)
    for name, factor in (
        ("rpn.head.cls_logits", 20),
        ("rpn.head.bbox_pred", 5),
        ("box_predictor.bbox_pred", 20),
    ):
        if f"{name}.weight" in tensors:  # Faster R-CNN's are close to 0 initially
            tensors[f"{name}.weight"].mul_(factor)
    outputs = []
    hook = classifier.register_forward_hook(lambda module, args, logits: outputs.append(logits))
    published(model, photographs([(97, 171)]))
    hook.remove()
    (logits,) = outputs
    logits = logits.reshape(-1, logits.shape[-1])
    mean, factor = logits.mean(dim=0), SPREAD / float((logits - logits.mean(dim=0)).std())
    for name, tensor in classifier.state_dict().items():
        tensor.mul_(factor)
        if name.endswith("bias"):
            tensor.sub_(factor * mean.repeat(len(tensor) // len(mean)))


def photographs(sizes):
    """Return windows of scikit-learn's two photographs."""
    generator = np.random.default_rng(0)
    samples = []
    for index, (height, width) in enumerate(sizes):
        image = load_sample_images().images[index % 2]
        top, left = (int(generator.integers(0, limit)) for limit in (428 - height, 641 - width))
        window = np.ascontiguousarray(image[top : top + height, left : left + width])
        samples.append(Sample(str(index), window.copy()))
    return samples


@torch.no_grad()
def published(model, samples):
    """Return torchvision's detections per image, since padding in its batches depends on other images."""
    return [model([torch.from_numpy(sample.input).permute(2, 0, 1).float() / 255])[0] for sample in samples]


@pytest.fixture(scope="module")
def faster():
    from torchvision.models.detection import fasterrcnn_resnet50_fpn

    torch.manual_seed(0)
    theirs = fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, min_size=SHORTER, max_size=LONGER
    ).eval()
    varied(theirs, theirs.roi_heads.box_predictor.cls_score, seed=0)
    own = FasterRcnn(FasterRcnnOptions(shorter_side=SHORTER, longer_side=LONGER), Runtime())
    own.load(Checkpoint(theirs.state_dict(), "", {}))
    return theirs, own


@pytest.fixture(scope="module")
def ssd():
    from torchvision.models.detection import ssd300_vgg16

    torch.manual_seed(0)
    theirs = ssd300_vgg16(weights=None, weights_backbone=None).eval()
    varied(theirs, theirs.head.classification_head, seed=0)
    own = Ssd(SsdOptions(), Runtime())
    own.load(Checkpoint(theirs.state_dict(), "", {}))
    return theirs, own


def peer_of(own, theirs):
    """Return torchvision's model behind the adapter interface, with the same options."""
    if own.name == "ssd":
        peer = TorchvisionSsd(TorchvisionSsd.Options(), Runtime())
    else:
        sides = {"shorter_side": own.options.shorter_side, "longer_side": own.options.longer_side}
        peer = TorchvisionFasterRcnn(TorchvisionFasterRcnn.Options(**sides), Runtime())
    peer.load(Checkpoint(theirs.state_dict(), "", {}))
    return peer


def assert_same(detections, expected, adapter):
    """Check that detections can be paired: boxes within .05 px, the same labels, scores within 1e-4.

    At most two per image cannot, and each of these is on an edge. Its score is close to the end of the other
    list: the threshold or, if the list is full, the last score. Or its IoU with a better box is close to the
    limit of suppression: torchvision moves the boxes of classes apart in float32, which rounds them to
    .001 px. Or one of its sides is close to the minimum.
    """
    boxes, scores, labels = (expected[key].numpy() for key in ("boxes", "scores", "labels"))
    published_values = boxes, scores, labels - 1
    own_values = detections.boxes, detections.scores, detections.labels
    similar = np.abs(boxes[None] - detections.boxes[:, None]).max(axis=2) <= 0.05
    similar &= published_values[2] == detections.labels[:, None]
    similar &= np.abs(scores - detections.scores[:, None]) <= 1e-4
    assignment = linear_sum_assignment(~similar)
    matched = similar[assignment]
    assert matched.sum() >= 50
    for values, others, indices in (
        (own_values, published_values, assignment[0]),
        (published_values, own_values, assignment[1]),
    ):
        unmatched = sorted(set(range(len(values[1]))) - set(indices[matched].tolist()))
        assert len(unmatched) <= 2
        assert all(on_an_edge(*(value[index] for value in values), others, adapter) for index in unmatched)
    assert (np.diff(detections.scores) <= 0).all()


def on_an_edge(box, score, label, others, adapter):
    boxes, scores, labels = others
    limit = 200 if isinstance(adapter, Ssd | TorchvisionSsd) else 100
    end = scores.min() if len(scores) == limit else adapter.options.score_threshold
    better = boxes[(labels == label) & (scores > score)]
    overlaps = box_iou(torch.from_numpy(box)[None], torch.from_numpy(better)).numpy()
    at_suppression = np.abs(overlaps - adapter.options.nms_iou) < 1e-3
    return score <= end + EDGE or at_suppression.any() or (box[2:] - box[:2]).min() < 0.05


@pytest.mark.parametrize("pair", ["faster", "ssd"])
def test_detections_equal_torchvisions_alone_and_in_a_batch(pair, request):
    theirs, own = request.getfixturevalue(pair)
    samples = photographs(SIZES)
    expected = published(theirs, samples)
    for detections, reference in zip(own.predict(samples), expected, strict=True):
        assert_same(detections, reference, own)
    assert_same(own.predict(samples[:1])[0], expected[0], own)
    assert len({label for reference in expected for label in reference["labels"].tolist()}) >= 10


LARGER = pytest.mark.parametrize("sizes", [[(427, 640)], [(301, 517), (355, 200), (211, 211)]])


@pytest.fixture
def scaled(faster):
    """Return a function that gives both models with other sides to resize to."""
    theirs, _ = faster
    before = theirs.transform.min_size, theirs.transform.max_size

    def to(shorter, longer):
        own = FasterRcnn(FasterRcnnOptions(shorter_side=shorter, longer_side=longer), Runtime())
        own.load(Checkpoint(theirs.state_dict(), "", {}))
        theirs.transform.min_size, theirs.transform.max_size = (shorter,), longer
        return theirs, own

    yield to
    theirs.transform.min_size, theirs.transform.max_size = before


@pytest.mark.slow
@LARGER
def test_faster_rcnn_equals_torchvisions_at_larger_sizes(sizes, scaled):
    theirs, own = scaled(480, 800)
    samples = photographs(sizes)
    for detections, expected in zip(own.predict(samples), published(theirs, samples), strict=True):
        assert_same(detections, expected, own)


@pytest.mark.slow
@LARGER
def test_at_the_published_size_proposals_and_detections_equal_torchvisions(sizes, scaled, monkeypatch):
    """Random weights give neighbouring anchors scores 3e-6 apart, less than rounding (5e-6), so that rounding
    decides which of two overlapping anchors suppresses the other. At most 1% of the proposals cannot be
    paired. From there on, both models use torchvision's proposals.
    """
    theirs, own = scaled(800, 1333)
    network, propose = own.module.rpn, own.module.rpn.propose
    for sample in photographs(sizes):
        reference = []
        hook = theirs.rpn.register_forward_hook(
            lambda module, given, answer, reference=reference: reference.extend(answer[0])
        )
        (expected,) = published(theirs, [sample])
        hook.remove()
        proposed = []

        def given(raw, inside, reference=reference, proposed=proposed):
            proposed.extend(propose(raw, inside))
            return reference

        monkeypatch.setattr(network, "propose", given)
        (detections,) = own.predict([sample])
        similar = (reference[0][:, None] - proposed[0]).abs().amax(dim=2) <= 0.05
        assert len(reference[0]) == len(proposed[0]) >= 500
        assert similar.any(dim=0).float().mean() >= 0.99 and similar.any(dim=1).float().mean() >= 0.99
        assert_same(detections, expected, own)


@pytest.mark.slow
@pytest.mark.parametrize("pair", ["faster", "ssd"])
def test_torchvisions_adapters_give_torchvisions_detections(pair, request):
    theirs, own = request.getfixturevalue(pair)
    peer, samples = peer_of(own, theirs), photographs(SIZES)
    for detections, expected in zip(peer.predict(samples), published(theirs, samples), strict=True):
        assert_same(detections, expected, own)


@pytest.mark.parametrize("pair", ["faster", "ssd"])
def test_images_of_one_pixel_and_of_one_row_have_valid_detections(pair, request):
    _, own = request.getfixturevalue(pair)
    samples = [Sample(str(size), np.full((*size, 3), 90, np.uint8)) for size in ((1, 1), (1, 40))]
    for sample, detections in zip(samples, own.predict(samples), strict=True):
        height, width = sample.input.shape[:2]
        assert (detections.boxes >= 0).all()
        assert (detections.boxes <= np.array([width, height] * 2) + 1e-4).all()


@pytest.mark.slow
@pytest.mark.parametrize("pair", ["faster", "ssd"])
def test_bf16_gives_nearly_the_same_scores(pair, request):
    theirs, own = request.getfixturevalue(pair)
    for adapter in (own, peer_of(own, theirs)):
        half = type(adapter)(adapter.options, Runtime(precision="bf16"))
        half.load(Checkpoint(theirs.state_dict(), "", {}))
        (full,), (detections,) = (model.predict(photographs(SIZES[:1])) for model in (adapter, half))
        assert detections.scores.dtype == detections.boxes.dtype == np.float32
        count = min(len(full.scores), len(detections.scores), 50)
        assert count >= 10
        # single scores change more: other proposals are suppressed, and random weights separate neighbours
        assert np.median(np.abs(detections.scores[:count] - full.scores[:count])) < 0.03


@pytest.mark.slow
@pytest.mark.parametrize("pair", ["faster", "ssd"])
def test_torchvisions_adapters_can_be_trained(pair, request):
    theirs, own = request.getfixturevalue(pair)
    learner = peer_of(own, theirs)
    (photograph,) = photographs([(64, 80)])
    sample = Sample("0", photograph.input, Annotations.of_boxes([[10, 8, 50, 44], [3, 3, 3, 9]], [2, 4]))
    learner.module.train()
    batch = learner.training_batch([sample], np.random.default_rng(0))
    assert all(labels.tolist() == [3] for labels in (target["labels"] for target in batch.targets))
    terms = learner.loss(batch)
    sum(terms.values()).backward()
    assert all(term.isfinite() and term >= 0 for term in terms.values())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in learner.module.parameters())


PUBLISHED = pytest.mark.parametrize(("pair", "parameters"), [("faster", 41_755_286), ("ssd", 35_641_826)])


@PUBLISHED
def test_the_number_of_parameters_is_the_published_one(pair, parameters, request):
    """With frozen normalisation, which has no parameters."""
    assert request.getfixturevalue(pair)[1].parameters() == parameters


@pytest.mark.slow
@PUBLISHED
def test_torchvisions_adapters_have_the_published_number_of_parameters(pair, parameters, request):
    theirs, own = request.getfixturevalue(pair)
    assert peer_of(own, theirs).parameters() == parameters


def test_files_with_the_older_published_names_load(faster):
    theirs, own = faster
    newer = {n: t for n, t in theirs.state_dict().items() if not n.endswith("num_batches_tracked")}
    older = {
        name.replace("rpn.head.conv.0.0.", "rpn.head.conv.").replace("_blocks.0.0.", "_blocks.0."): tensor
        for name, tensor in newer.items()
    }
    assert older.keys() - newer.keys()
    adopted = own.adopt(older)
    assert adopted.tensors.keys() == own.module.state_dict().keys() == newer.keys()
    assert adopted.options["epsilon"] == 0.0
    assert adopted.classes[0] == "person" and len(adopted.classes) == 90
    again = TorchvisionFasterRcnn(TorchvisionFasterRcnn.Options(), Runtime()).adopt(older)
    assert again.tensors.keys() == newer.keys()
    assert (again.options, again.classes) == ({"epsilon": 0.0}, adopted.classes)


@pytest.mark.parametrize(
    ("pair", "label", "adapter"),
    [
        ("faster", "faster-rcnn", FasterRcnn),
        ("ssd", "ssd300", Ssd),
        pytest.param("faster", "torchvision-faster-rcnn", TorchvisionFasterRcnn, marks=pytest.mark.slow),
        pytest.param("ssd", "torchvision-ssd300", TorchvisionSsd, marks=pytest.mark.slow),
    ],
)
def test_the_suite_names_the_options_of_the_published_weights(pair, label, adapter, request):
    """A run fills in the default of every option, and one that contradicts the weights would be rejected."""
    theirs = request.getfixturevalue(pair)[0]
    frozen = {n: t for n, t in theirs.state_dict().items() if not n.endswith("num_batches_tracked")}
    entry = load_suite(find_suite("coco")).suite.adapters[label]
    assert entry.adapter == adapter.name
    complete = adapter.Options(**entry.options).model_dump()
    loaded = adapter(adapter.Options(**complete), Runtime())
    loaded.load(Checkpoint(frozen, "", {}))
    assert loaded.classes[0] == "person"


def test_a_model_of_90_classes_predicts_the_80_of_the_data_set():
    model = published_classes(90)
    data = [name for name in model if name != "N/A"]
    assert len(data) == 80
    classes = class_map("detection", model, data)
    assert classes is not None
    labels = np.arange(90)
    (mapped,) = relabel([Detections(np.zeros((90, 4), np.float32), np.ones(90, np.float32), labels)], classes)
    assert mapped.labels.tolist() == list(range(80))


OWN_AND_PEERS = pytest.mark.parametrize(
    ("pair", "adapter"),
    [
        ("faster", FasterRcnn),
        ("faster", TorchvisionFasterRcnn),
        ("ssd", Ssd),
        ("ssd", TorchvisionSsd),
    ],
)


@OWN_AND_PEERS
def test_weights_of_another_model_are_rejected(pair, adapter, request):
    tensors = request.getfixturevalue(pair)[0].state_dict()
    empty = adapter(adapter.Options(), Runtime())
    with pytest.raises(UsageError, match=f"adapter '{adapter.name}': .*, as torchvision's files have"):
        empty.adopt({"conv.weight": torch.zeros(1)})
    with pytest.raises(
        UsageError, match=f"checkpoint of adapter 'yolo' cannot be loaded by '{adapter.name}'"
    ):
        empty.load(Checkpoint(tensors, "yolo", {}))


@pytest.mark.parametrize("pair", ["faster", "ssd"])
def test_nan_weights_and_unknown_ones_are_rejected(pair, request):
    theirs, own = request.getfixturevalue(pair)
    tensors = theirs.state_dict()
    name = next(
        name for name in tensors if name.endswith("conv1.weight") or name.endswith("features.0.weight")
    )
    broken = {**tensors, name: torch.full_like(tensors[name], float("nan"))}
    for content, message in (
        (broken, "has NaN or infinite values"),
        ({**tensors, "x": tensors[name]}, "unexpected"),
    ):
        with pytest.raises(UsageError, match=message):
            load_into(own.module, own.adopt(content), own.name)


# Cells per side of SSD300's maps. That the detections are equal shows that the networks have these.
CELLS = (38, 19, 10, 5, 3, 1)


def default_boxes_of(own):
    return default_boxes.default_boxes(own.module.layouts, [(side, side) for side in CELLS], (300, 300))


def test_default_boxes_are_torchvisions(ssd):
    from torchvision.models.detection.image_list import ImageList

    theirs, own = ssd
    images = ImageList(torch.zeros(1, 3, 300, 300), [(300, 300)])
    (expected,) = theirs.anchor_generator(images, [torch.zeros(1, 1, side, side) for side in CELLS])
    defaults = default_boxes_of(own)
    assert len(defaults) == 8732
    torch.testing.assert_close(defaults / 300, expected / 300, atol=1e-5, rtol=0)


def test_the_loss_equals_torchvisions(ssd):
    theirs, own = ssd
    generator = torch.Generator().manual_seed(0)
    defaults = default_boxes_of(own)
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
    terms = default_boxes.loss(logits, offsets, defaults, objects, labels, default_boxes.Thresholds())
    torch.testing.assert_close(terms["box"], expected["bbox_regression"])
    torch.testing.assert_close(terms["class"], expected["classification"])


def first_ones(monkeypatch):
    """Make `torch.randperm`, with which both implementations draw, return the first indices."""
    monkeypatch.setattr(torch, "randperm", lambda count, **_: torch.arange(count))


def training_targets(seed):
    """Objects of two images of 160 × 240 px, the second without any, and classes from 0."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(7, 2, generator=generator) * torch.tensor([160, 80])
    sides = 12 + torch.rand(7, 2, generator=generator) * 60
    objects = [torch.cat([corners, corners + sides], dim=1), torch.zeros(0, 4)]
    labels = [torch.randint(0, 90, (7,), generator=generator), torch.zeros(0, dtype=torch.int64)]
    targets = [{"boxes": b, "labels": c + 1} for b, c in zip(objects, labels, strict=True)]
    return generator, objects, labels, targets


@pytest.mark.parametrize("seed", range(3))
def test_the_losses_of_proposals_equal_torchvisions(seed, faster, monkeypatch):
    """Objects of some sizes have no anchor with an IoU of .7, so that their best ones are positive."""
    theirs, own = faster
    first_ones(monkeypatch)
    generator, objects, _, targets = training_targets(seed)
    maps = [torch.zeros(2, 256, 160 // stride, 256 // stride) for stride in (4, 8, 16, 32, 64)]
    with torch.no_grad():
        outputs = own.module.rpn(maps, 160, 256)
    anchors = outputs.anchors
    logits = torch.randn(2, len(anchors), generator=generator)
    offsets = torch.randn(2, len(anchors), 4, generator=generator) / 2
    labels, boxes = theirs.rpn.assign_targets_to_anchors([anchors] * 2, targets)
    assert (labels[0] == 1).sum() >= 7
    aims = theirs.rpn.box_coder.encode(boxes, [anchors] * 2)
    expected = theirs.rpn.compute_loss(logits.reshape(-1, 1), offsets.reshape(-1, 4), labels, aims)
    terms = own.module.rpn.loss(RpnOutputs(anchors, logits, offsets, outputs.counts), objects)
    torch.testing.assert_close(terms["objectness"], expected[0])
    torch.testing.assert_close(terms["anchors"], expected[1])
    assert terms["anchors"] > 0


@pytest.mark.parametrize("seed", range(3))
def test_the_targets_and_losses_of_regions_equal_torchvisions(seed, faster, monkeypatch):
    """With more objects than may be sampled, and regions with an IoU below .5."""
    from torchvision.models.detection.roi_heads import fastrcnn_loss

    theirs, own = faster
    first_ones(monkeypatch)
    generator, objects, labels, targets = training_targets(seed)
    near = objects[0].repeat(60, 1) + torch.randn(420, 4, generator=generator) * 5
    far = torch.rand(2, 600, 2, generator=generator) * 100
    far = torch.cat([far, far + 5 + torch.rand(2, 600, 2, generator=generator) * 60], dim=2)
    regions = [torch.cat([near, far[0]]), far[1]]
    reference_regions, _, reference_labels, aims = theirs.roi_heads.select_training_samples(
        list(regions), targets
    )
    sampled = region_head.sample_targets(regions, objects, labels, own.module.regions_per_image)
    for regions_of_image, reference in zip(sampled.regions, reference_regions, strict=True):
        assert torch.equal(regions_of_image, reference)
    assert torch.equal(sampled.labels, torch.cat(reference_labels))
    assert (sampled.labels > 0).sum() == 128  # a quarter of 512, Lin et al. 2017 §5.2 and Girshick 2015 §2.3
    logits = torch.randn(1024, 91, generator=generator)
    offsets = torch.randn(1024, 91, 4, generator=generator) / 3
    expected = fastrcnn_loss(logits, offsets.flatten(1), reference_labels, aims)
    terms = region_head.loss(logits, offsets, sampled, faster_rcnn.SMOOTH_L1_BETA)
    torch.testing.assert_close(terms["class"], expected[0])
    torch.testing.assert_close(terms["box"], expected[1])


def test_a_step_of_training_equals_torchvisions(faster, monkeypatch):
    """From pixels to the four terms: the same proposals, up to 2,000, regions and outputs."""
    from torchvision.models.detection.image_list import ImageList

    theirs, own = faster
    first_ones(monkeypatch)
    _, objects, labels, targets = training_targets(0)
    pixels = torch.rand(2, 3, 160, 256, generator=torch.Generator().manual_seed(1))
    transform = BoxTransform((160, 256), (160, 256), (1.0, 1.0))
    batch = TrainingBatch(pixels, [transform] * 2, objects, labels)
    images = ImageList(pixels, batch.sizes)
    parts = (
        theirs.rpn,
        theirs.roi_heads,
        own.module,
    )  # without weights, torchvision's trunk is not frozen
    for part in parts:
        part.train()
    with torch.no_grad():
        maps = theirs.backbone(pixels)
        proposed, expected = theirs.rpn(images, maps, targets)
        _, of_regions = theirs.roi_heads(maps, proposed, images.image_sizes, targets)
        terms = own.module.losses(batch)
    for part in parts:
        part.eval()
    assert min(map(len, proposed)) > 1000
    torch.testing.assert_close(terms["objectness"], expected["loss_objectness"], rtol=1e-4, atol=0)
    torch.testing.assert_close(terms["anchors"], expected["loss_rpn_box_reg"], rtol=1e-4, atol=0)
    torch.testing.assert_close(terms["class"], of_regions["loss_classifier"], rtol=5e-3, atol=0)
    torch.testing.assert_close(terms["box"], of_regions["loss_box_reg"], rtol=5e-3, atol=0)


PEERS = ("adapters.torchvision.faster_rcnn", "adapters.torchvision.ssd")


@pytest.mark.parametrize(
    ("edited", "unchanged"),
    [
        ("rpn", (*PEERS, "adapters.detection.ssd", "adapters.detection.yolo")),
        ("faster_rcnn", PEERS),
        ("ssd", PEERS),
        ("detector_input", PEERS),
    ],
)
def test_an_edit_of_a_model_does_not_change_the_identity_of_its_peers(
    edited, unchanged, monkeypatch, tmp_path
):
    version = identity.code_version.__wrapped__  # without the cache
    before = [version(module) for module in unchanged]
    source_file, name = identity.source_file, f"adapters.detection.{edited}"
    copy = tmp_path / f"{edited}.py"
    copy.write_text(source_file(name).read_text() + "\nEDITED = True\n")
    original = version(name)
    monkeypatch.setattr(
        identity, "source_file", lambda module: copy if module == name else source_file(module)
    )
    assert [version(module) for module in unchanged] == before
    assert version(name) != original
