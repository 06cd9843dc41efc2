"""Average precision, checked against pycocotools and a plain VOC devkit, also without each image."""

import contextlib
import io
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jackknife_oracle import jackknife_interval
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from harness.errors import UsageError
from harness.metrics import precision_recall
from harness.metrics.average_precision import Coco, Voc07, Voc10
from harness.statistics.jackknife import leave_out_groups
from harness.task import Annotations, Detections

CLASSES = ("a", "b", "c")
SIDES = st.sampled_from([8, 16, 32, 96, 100])  # 32² and 96² are limits of COCO's area ranges
CORNERS = st.sampled_from([0, 4, 8, 16, 40])
SCORES = st.sampled_from([0.1, 0.3, 0.5, 0.9])  # many ties


@st.composite
def images(draw, max_images=4):
    """Draw [(annotations, detections)], some empty; boxes are whole pixels, so that IoUs equal thresholds."""
    box = st.tuples(CORNERS, CORNERS, SIDES, SIDES)
    label = st.integers(0, draw(st.integers(0, 2)))
    objects = st.lists(
        st.tuples(box, label, st.booleans(), st.sampled_from([None, 1023, 1024, 9216])), max_size=5
    )
    reported = st.lists(st.tuples(box, label, SCORES), max_size=8)
    return [
        (annotations_of(draw(objects)), detections_of(draw(reported)))
        for _ in range(draw(st.integers(1, max_images)))
    ]


def annotations_of(objects, flag="crowd"):
    flags = np.array([flag for _, _, flag, _ in objects], dtype=bool)
    plain = Annotations.of_boxes(corners([box for box, *_ in objects]), [label for _, label, *_ in objects])
    areas = [
        box_area if area is None else area for box_area, (*_, area) in zip(plain.areas, objects, strict=True)
    ]
    none = np.zeros(len(objects), dtype=bool)
    crowd, difficult = (flags, none) if flag == "crowd" else (none, flags)
    return Annotations(plain.boxes, plain.labels, np.array(areas, dtype=float), crowd, difficult)


def detections_of(reported):
    labels = np.array([label for _, label, _ in reported], dtype=np.int64)
    return Detections(
        corners([box for box, *_ in reported]), np.array([score for *_, score in reported]), labels
    )


def corners(boxes):
    boxes = np.array(boxes, dtype=float).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def scored(metric, pairs, **options):
    return metric.summarise([metric.statistics(*pair) for pair in pairs], **options)


def pycocotools(pairs):
    """Return COCO's twelve figures of images in this order, None for −1.

    Ids start at 1, because COCOeval treats a match with id 0 as none.
    """
    truths, detected = [], []
    for image, (target, detections) in enumerate(pairs, start=1):
        for row, box in enumerate(
            np.concatenate([target.boxes[:, :2], target.boxes[:, 2:] - target.boxes[:, :2]], 1)
        ):
            entry = {"area": target.areas[row], "iscrowd": int(target.crowd[row])}
            truths.append(
                {
                    "id": len(truths) + 1,
                    "image_id": image,
                    "category_id": int(target.labels[row]),
                    "bbox": [*box],
                }
                | entry
            )
        sides = detections.boxes[:, 2:] - detections.boxes[:, :2]
        for row, box in enumerate(np.concatenate([detections.boxes[:, :2], sides], axis=1)):
            entry = {"score": detections.scores[row], "area": box[2] * box[3], "iscrowd": 0}
            label = int(detections.labels[row])
            detected.append(
                {"id": len(detected) + 1, "image_id": image, "category_id": label, "bbox": [*box]} | entry
            )
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(indexed(truths, len(pairs)), indexed(detected, len(pairs)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [None if value == -1 else value for value in evaluation.stats]


def indexed(entries, count):
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image} for image in range(1, count + 1)],
        "categories": [{"id": label, "name": name} for label, name in enumerate(CLASSES)],
        "annotations": entries,
    }
    coco.createIndex()
    return coco


@given(images())
@settings(max_examples=150, deadline=None)
def test_coco_equals_pycocotools(pairs):
    expected = pycocotools(pairs)
    figures = scored(Coco(CLASSES), pairs).metrics
    for figure, name, value in zip(figures.values(), Coco.names, expected, strict=True):
        assert figure.value == (None if value is None else pytest.approx(value, abs=1e-12)), name


def crowded_scene(seed, count=12, detections=130):
    """Return images with more detections than the limit of 100 and distinct scores."""
    generator = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        boxes = np.concatenate([generator.uniform(0, 200, (6, 2)), generator.uniform(8, 150, (6, 2))], axis=1)
        labels = generator.integers(0, 2, 6)
        target = annotations_of(
            [
                (box, label, flag, None)
                for box, label, flag in zip(boxes, labels, generator.random(6) < 0.2, strict=True)
            ]
        )
        near = boxes[generator.integers(0, 6, detections)] * generator.normal(1, 0.06, (detections, 4))
        scores = generator.random(detections)
        pairs.append(
            (
                target,
                detections_of(
                    list(zip(np.abs(near), generator.integers(0, 2, detections), scores, strict=True))
                ),
            )
        )
    return pairs


def test_coco_equals_pycocotools_with_more_detections_than_the_limit():
    pairs = crowded_scene(1, detections=260)
    figures = scored(Coco(CLASSES), pairs).metrics
    assert [figure.value for figure in figures.values()] == pytest.approx(pycocotools(pairs), abs=1e-12)


@pytest.mark.parametrize(("first", "second", "correct"), [(0, 4, 1), (4, 0, 2)])
def test_coco_takes_the_later_of_two_equally_overlapping_objects(first, second, correct):
    """The box at 2 overlaps those at 0 and 4 by 8/12; the box at 5 overlaps only the one at 4 enough."""
    target = annotations_of([((x, 0, 10, 10), 0, False, None) for x in (first, second)])
    pair = (target, detections_of([((2, 0, 10, 10), 0, 0.9), ((5, 0, 10, 10), 0, 0.8)]))
    figures = scored(Coco(CLASSES), [pair]).metrics
    assert [figure.value for figure in figures.values()][:10] == pytest.approx(pycocotools([pair])[:10])
    assert figures["ap50"].value == pytest.approx((51 if correct == 1 else 101) / 101)


def without_each(pairs):
    return [pairs[:index] + pairs[index + 1 :] for index in range(len(pairs))]


def test_the_interval_equals_that_of_evaluating_without_each_image():
    pairs = crowded_scene(2, count=7, detections=30)
    naive = np.array([pycocotools(rest) for rest in without_each(pairs)], dtype=float)
    figures = scored(Coco(CLASSES), pairs).metrics
    for (name, figure), replicates in zip(figures.items(), naive.T, strict=True):
        expected = jackknife_interval(figure.value, replicates)
        assert (figure.low, figure.high) == pytest.approx(expected, abs=1e-11), name
        assert figure.signature.endswith("|v:1|interval:jackknife")


@pytest.mark.parametrize("metric", [Voc07(CLASSES), Voc10(CLASSES)])
def test_the_interval_of_voc_equals_that_of_evaluating_without_each_image(metric):
    pairs = crowded_scene(3, count=7, detections=30)
    naive = [devkit(rest, metric.protocol) for rest in without_each(pairs)]
    figure = scored(metric, pairs).metrics["map"]
    assert (figure.low, figure.high) == pytest.approx(jackknife_interval(figure.value, naive), abs=1e-12)
    assert figure.signature == f"{metric.protocol}|iou:0.5|v:1|interval:jackknife"


def test_many_images_are_left_out_in_groups(monkeypatch):
    """The groups are the same for every model, and each image is in one of them."""
    monkeypatch.setattr(Coco, "max_groups", 3)
    pairs = crowded_scene(2, count=7, detections=30)
    groups = leave_out_groups(7, 3)
    assert sorted(np.bincount(groups)) == [2, 2, 3]
    naive = [
        pycocotools([pair for pair, group in zip(pairs, groups, strict=True) if group != left_out])[0]
        for left_out in range(3)
    ]
    figure = scored(Coco(CLASSES), pairs).metrics["ap"]
    assert (figure.low, figure.high) == pytest.approx(jackknife_interval(figure.value, naive))
    assert figure.signature.endswith("|interval:jackknife-3")


def test_figures_do_not_depend_on_the_size_of_a_block_of_weightings(monkeypatch):
    pairs = crowded_scene(4, count=5, detections=20)
    expected = scored(Coco(CLASSES), pairs)
    monkeypatch.setattr(precision_recall, "CELLS", 16)
    assert scored(Coco(CLASSES), pairs) == expected


def devkit(pairs, protocol, threshold=Fraction(1, 2)):
    """Compute mean AP with VOCevaldet.m's loops: inclusive pixels with `+1`, in exact fractions."""
    averages = []
    for label in range(len(CLASSES)):
        rows = [
            (-score, image, order, box)
            for image, (_, reported) in enumerate(pairs)
            for order, (box, score, box_label) in enumerate(
                zip(reported.boxes, reported.scores, reported.labels, strict=True)
            )
            if box_label == label
        ]
        positives = sum(
            int(object_label == label and not skip)
            for target, _ in pairs
            for object_label, skip in zip(target.labels, target.difficult | target.crowd, strict=True)
        )
        if not positives:
            continue
        taken, precision, recall, right, wrong = set(), [], [], 0, 0
        for _, image, _, box in sorted(rows, key=lambda row: row[:3]):
            target, best, chosen = pairs[image][0], -1, None
            for index in np.flatnonzero(target.labels == label):
                overlap = inclusive_iou(box, target.boxes[index])
                if overlap > best:
                    best, chosen = overlap, index
            if chosen is not None and best >= threshold:
                if (target.difficult | target.crowd)[chosen]:
                    continue
                right, wrong = (right, wrong + 1) if (image, chosen) in taken else (right + 1, wrong)
                taken.add((image, chosen))
            else:
                wrong += 1
            precision.append(Fraction(right, right + wrong))
            recall.append(Fraction(right, positives))
        if protocol == "voc07":
            levels = [Fraction(k, 10) for k in range(11)]
            averages.append(
                sum(
                    max([p for p, r in zip(precision, recall, strict=True) if r >= level], default=0)
                    for level in levels
                )
                / 11
            )
        else:
            area, before = Fraction(0), Fraction(0)
            for step, r in enumerate(recall):
                area += (r - before) * max(precision[step:])
                before = r
            averages.append(area)
    return float(sum(averages) / len(averages)) if averages else None


def inclusive_iou(box, other):
    """Convert continuous corners to the files' inclusive pixels, then apply the devkit's formula."""
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = (
        (Fraction(box[0]) + 1, Fraction(box[1]) + 1, Fraction(box[2]), Fraction(box[3]))
        for box in (box, other)
    )
    width, height = min(ax2, bx2) - max(ax1, bx1) + 1, min(ay2, by2) - max(ay1, by1) + 1
    if width <= 0 or height <= 0:
        return 0
    shared = width * height
    return shared / ((ax2 - ax1 + 1) * (ay2 - ay1 + 1) + (bx2 - bx1 + 1) * (by2 - by1 + 1) - shared)


@pytest.mark.parametrize("metric", [Voc07(CLASSES), Voc10(CLASSES)])
@given(pairs=images())
@settings(max_examples=150, deadline=None)
def test_voc_equals_the_devkit(metric, pairs):
    expected = devkit(pairs, metric.protocol)
    value = scored(metric, pairs).metrics["map"].value
    assert value == (None if expected is None else pytest.approx(expected, abs=1e-12))


OBJECT = ((0, 0, 10, 10), 0, False, None)


def test_voc07_reaches_a_recall_of_exactly_three_tenths():
    """3 of 10 objects found, no false positive: precision 1 at recalls 0, .1, .2, .3: AP = 4/11.

    With np.arange(0, 1.1, .1) the level would be 0.30000000000000004, and AP 3/11.
    """
    target = annotations_of([((20 * i, 0, 10, 10), 0, False, None) for i in range(10)])
    detections = detections_of([((20 * i, 0, 10, 10), 0, 0.9) for i in range(3)])
    assert scored(Voc07(CLASSES), [(target, detections)]).metrics["map"].value == pytest.approx(4 / 11)
    assert scored(Voc10(CLASSES), [(target, detections)]).metrics["map"].value == pytest.approx(3 / 10)


def test_coco_tries_the_second_best_object_and_voc_does_not():
    """Both detections overlap the left object most; COCO lets the second take the right one (IoU 7/13)."""
    target = annotations_of([((0, 0, 10, 10), 0, False, None), ((4, 0, 10, 10), 0, False, None)])
    detections = detections_of([((0, 0, 10, 10), 0, 0.9), ((1, 0, 10, 10), 0, 0.8)])
    assert scored(Voc10(CLASSES), [(target, detections)]).metrics["map"].value == 0.5
    assert scored(Coco(CLASSES), [(target, detections)]).metrics["ap50"].value == pytest.approx(1)


def test_an_iou_equal_to_the_threshold_matches():
    target = annotations_of([((0, 0, 10, 10), 0, False, None)])
    detections = detections_of([((0, 0, 10, 5), 0, 0.9)])
    assert scored(Voc10(CLASSES), [(target, detections)]).metrics["map"].value == 1
    assert scored(Voc10(CLASSES, iou=0.51), [(target, detections)]).metrics["map"].value == 0


def test_a_detection_of_a_difficult_object_is_neither_right_nor_wrong():
    target = annotations_of([((0, 0, 10, 10), 0, True, None), ((50, 0, 10, 10), 0, False, None)], "difficult")
    detections = detections_of([((0, 0, 10, 10), 0, 0.9), ((0, 0, 10, 9), 0, 0.8), ((50, 0, 10, 10), 0, 0.7)])
    assert scored(Voc10(CLASSES), [(target, detections)]).metrics["map"].value == 1


def test_an_area_on_the_edge_is_small_and_medium():
    target = annotations_of([((0, 0, 32, 32), 0, False, None)])
    figures = scored(Coco(CLASSES), [(target, detections_of([((0, 0, 32, 32), 0, 0.9)]))]).metrics
    assert figures["ap_small"].value == figures["ap_medium"].value == pytest.approx(1)
    assert figures["ap_large"].value is None


def test_a_detection_area_on_the_edge_is_exact_despite_a_decimal_corner():
    """32.12 + 32 − 32.12 > 32 in double precision; unmatched, it must count as a small false positive."""
    target = annotations_of([((100, 100, 16, 16), 0, False, None)])
    detections = detections_of([((32.12, 32.12, 32.0, 32.0), 0, 0.9), ((100, 100, 16, 16), 0, 0.8)])
    assert detections.boxes[0, 2] - detections.boxes[0, 0] > 32
    assert scored(Coco(CLASSES), [(target, detections)]).metrics["ap_small"].value == pytest.approx(0.5)


def test_the_options_of_a_data_set_may_define_area_ranges():
    ranges = {"small": [0, 50], "medium": [50, 200], "large": [200, 1e10]}
    metric = Coco(CLASSES, area_ranges=ranges, ignore_index=255)
    figures = scored(metric, [(annotations_of([OBJECT]), detections_of([((0, 0, 10, 10), 0, 0.9)]))]).metrics
    assert figures["ap_medium"].value == pytest.approx(1)
    assert figures["ap_small"].value is None
    assert "areas:small:0-50,medium:50-200,large:200-1e+10" in figures["ap"].signature


@pytest.mark.parametrize(
    "ranges", [{"small": [0, 9]}, {"small": [9, 0], "medium": [0, 1], "large": [0, 1]}, {"huge": [0, 1]}]
)
def test_wrong_area_ranges_are_rejected(ranges):
    with pytest.raises(UsageError, match="area_ranges"):
        Coco(CLASSES, area_ranges=ranges)


@pytest.mark.parametrize("iou", [0, -0.5, 1.5])
def test_a_threshold_outside_0_to_1_is_rejected(iou):
    with pytest.raises(UsageError, match="iou"):
        Voc07(CLASSES, iou=iou)


def test_a_class_has_its_own_figures_which_are_undefined_if_it_is_absent():
    target = annotations_of([OBJECT, ((50, 0, 10, 10), 1, False, None)])
    scores = scored(Coco(CLASSES), [(target, detections_of([((0, 0, 10, 10), 0, 0.9)]))])
    values = {label: {name: f.value for name, f in row.items()} for label, row in scores.per_class.items()}
    assert values == {
        "a": {"ap": pytest.approx(1), "ap50": pytest.approx(1)},
        "b": {"ap": 0, "ap50": 0},
        "c": {"ap": None, "ap50": None},
    }
    assert scores.metrics["ap"].value == pytest.approx(0.5)


@pytest.mark.parametrize("metric", [Coco(CLASSES), Voc07(CLASSES), Voc10(CLASSES), Coco(())])
@pytest.mark.parametrize("pairs", [[], [(annotations_of([]), detections_of([]))] * 2])
def test_without_objects_every_figure_is_undefined(metric, pairs):
    scores = scored(metric, pairs)
    assert tuple(scores.metrics) == metric.names
    assert {(figure.value, figure.low, figure.n) for figure in scores.metrics.values()} == {
        (None, None, len(pairs))
    }
