"""Analysis of detection: curves against pycocotools, TIDE's errors by hand and in plain loops."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from PIL import Image
from pycocotools.cocoeval import COCOeval
from test_average_precision import CLASSES, indexed

from harness.analysis.detection import DetectionAnalyser
from harness.analysis.images import image_file, shown_size
from harness.analysis.tide import ERRORS, STATES, classify_errors, error_effects
from harness.metrics.average_precision import Coco
from harness.metrics.matching import match_coco
from harness.task import Annotations, Detections, Sample

SHIFTS = {.9: 2 / 38, .5: 20 / 3, .3: 140 / 13}  # fmt: skip
"""IoU → px by which a 20×20 box is shifted: IoU = (20 − x) / (20 + x)."""


def annotated(*objects, crowd=(), difficult=()):
    """Return annotations of 20×20 objects, given as (x, y, label)."""
    plain = Annotations.of_boxes(
        [(x, y, x + 20, y + 20) for x, y, _ in objects], [label for *_, label in objects]
    )
    flags = [np.isin(np.arange(len(objects)), indices) for indices in (crowd, difficult)]
    return Annotations(plain.boxes, plain.labels, plain.areas, *flags)


def detected(*reported):
    """Return 20×20 detections, given as (x, y, label, score)."""
    boxes = np.array([(x, y, x + 20, y + 20) for x, y, *_ in reported], dtype=np.float32).reshape(-1, 4)
    return Detections(
        boxes, np.array([f[3] for f in reported], dtype=np.float32), np.array([f[2] for f in reported], int)
    )


def states(target, detections):
    """Return the state of each detection as reported, and whether each annotation is missed."""
    image = classify_errors(target, detections)
    by_row = dict(zip(image.order.tolist(), (STATES[state] for state in image.states), strict=True))
    return [by_row[row] for row in range(len(by_row))], image.missed().tolist()


def random_images(seed, count=30):
    """Return objects with detections near them (displaced, of other classes, duplicated) and elsewhere."""
    generator = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        n = generator.integers(0, 6)
        boxes = np.concatenate(
            [(corner := generator.uniform(0, 80, (n, 2))), corner + generator.uniform(10, 40, (n, 2))], 1
        )
        labels = generator.integers(0, 3, n)
        flags = [generator.random(n) < share for share in (0.1, 0.1)]
        target = Annotations(boxes, labels, (boxes[:, 2:] - boxes[:, :2]).prod(axis=1), *flags)
        near = boxes[generator.integers(0, n, 8)] + generator.normal(0, 6, (8, 4)) if n else np.empty((0, 4))
        far = generator.uniform(0, 60, (3, 4)) + np.array([0, 0, 60, 60])
        detected_boxes = np.concatenate([near, far]).astype(np.float32)
        other = generator.integers(0, 3, len(detected_boxes))
        guesses = np.where(
            generator.random(len(detected_boxes)) < 0.4,
            other,
            other if not n else labels[generator.integers(0, n, len(detected_boxes))],
        )
        scores = generator.choice(np.linspace(0.05, 0.95, 12), len(detected_boxes), replace=False).astype(
            np.float32
        )
        pairs.append((target, Detections(detected_boxes, scores, guesses)))
    return pairs


def analysed(pairs):
    analyser = DetectionAnalyser(CLASSES)
    for index, (target, detections) in enumerate(pairs):
        analyser.add(Sample(str(index), np.zeros((8, 8, 3), np.uint8), target), detections)
    return analyser.conclude([])


class TestCurves:
    def pycocotools(self, pairs):
        truths, results = [], []
        for image, (target, detections) in enumerate(pairs, start=1):
            for box, label, area, crowd in zip(
                target.boxes, target.labels, target.areas, target.crowd, strict=True
            ):
                sides = [*box[:2], *(box[2:] - box[:2])]
                truths.append(
                    {
                        "id": len(truths) + 1,
                        "image_id": image,
                        "category_id": int(label),
                        "bbox": sides,
                        "area": area,
                        "iscrowd": int(crowd),
                    }
                )
            for box, label, score in zip(
                detections.boxes.astype(float), detections.labels, detections.scores, strict=True
            ):
                sides = [*box[:2], *(box[2:] - box[:2])]
                results.append(
                    {
                        "id": len(results) + 1,
                        "image_id": image,
                        "category_id": int(label),
                        "bbox": sides,
                        "area": sides[2] * sides[3],
                        "score": score,
                        "iscrowd": 0,
                    }
                )
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(indexed(truths, len(pairs)), indexed(results, len(pairs)), "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
        return evaluation.eval

    @pytest.mark.parametrize("seed", range(4))
    def test_precision_and_scores_equal_pycocotools(self, seed):
        pairs = [
            (Annotations(t.boxes, t.labels, t.areas, t.crowd, np.zeros_like(t.crowd)), d)
            for t, d in random_images(seed)
        ]
        expected = self.pycocotools(pairs)
        for curve in analysed(pairs).curves:
            if curve.label is None:
                continue
            index = (0 if curve.iou == 0.5 else 5, slice(None), CLASSES.index(curve.label), 0, 2)
            np.testing.assert_allclose(curve.precision, expected["precision"][index], atol=5e-5)
            scores = [0.0 if score is None else score for score in curve.scores]
            np.testing.assert_allclose(scores, expected["scores"][index], atol=5e-5)

    def test_areas_and_intervals_equal_those_of_the_metric(self):
        pairs = random_images(9)
        metric = Coco(CLASSES)
        expected = metric.summarise([metric.statistics(*pair) for pair in pairs])
        curves = {(curve.iou, curve.label): curve for curve in analysed(pairs).curves}
        for iou, name in ((0.5, "ap50"), (0.75, "ap75")):
            ap, reference = curves[iou, None].ap, expected.metrics[name]
            assert (ap.value, ap.low, ap.high, ap.n) == pytest.approx(
                (reference.value, reference.low, reference.high, reference.n)
            )
            assert np.mean(curves[iou, None].precision) == pytest.approx(ap.value, abs=1e-4)
        for label in CLASSES:
            assert curves[0.5, label].ap.value == pytest.approx(expected.per_class[label]["ap50"].value)

    def test_a_class_without_annotations_has_no_curve(self):
        analysis = analysed([(annotated((0, 0, 0)), detected((0, 0, 0, 0.9), (50, 50, 1, 0.8)))])
        curves = {curve.label: curve for curve in analysis.curves if curve.iou == 0.5}
        assert curves["b"].precision is None and curves["b"].ap.value is None
        assert set(curves[None].precision) == {1.0}


class TestErrorTypes:
    """States of detections near an object of class 0 at the origin, sometimes with one of class 1."""

    def test_correct(self):
        assert states(annotated((0, 0, 0)), detected((SHIFTS[0.9], 0, 0, 0.5))) == (["correct"], [False])

    def test_a_wrong_class_at_an_object_is_classification_and_the_object_not_missed(self):
        assert states(annotated((0, 0, 0)), detected((1, 0, 1, 0.5))) == (["classification"], [False])

    def test_the_right_class_between_the_thresholds_is_localisation_and_the_object_not_missed(self):
        assert states(annotated((0, 0, 0)), detected((SHIFTS[0.3], 0, 0, 0.5))) == (["localisation"], [False])

    def test_a_wrong_class_between_the_thresholds_is_both_and_the_object_missed(self):
        assert states(annotated((0, 0, 0)), detected((SHIFTS[0.3], 0, 1, 0.5))) == (["both"], [True])

    def test_a_second_detection_of_a_found_object_is_a_duplicate(self):
        state, missed = states(annotated((0, 0, 0)), detected((1, 0, 0, 0.5), (0, 0, 0, 0.9)))
        assert (state, missed) == (["duplicate", "correct"], [False])

    def test_a_detection_far_from_objects_is_background_and_the_object_missed(self):
        assert states(annotated((0, 0, 0)), detected((50, 50, 0, 0.9))) == (["background"], [True])

    def test_an_image_without_objects_has_background_only(self):
        assert states(annotated(), detected((0, 0, 0, 0.9))) == (["background"], [])

    def test_an_image_without_detections_has_missed_objects_only(self):
        assert states(annotated((0, 0, 0)), detected()) == ([], [True])

    def test_an_iou_of_exactly_the_threshold_is_a_match(self):
        """Half the width and the same height: IoU ½."""
        narrow = Detections(
            np.array([[0, 0, 10, 20]], np.float32), np.array([0.9], np.float32), np.array([0])
        )
        assert states(annotated((0, 0, 0)), narrow) == (["correct"], [False])

    def test_difficult_and_crowd_objects_are_neither_found_nor_missed(self):
        target = annotated((0, 0, 0), (40, 0, 0), crowd=[0], difficult=[1])
        detections = detected((0, 0, 0, 0.9), (1, 0, 0, 0.8), (40, 0, 0, 0.7), (41, 0, 0, 0.6))
        # A crowd absorbs any number; a difficult object one, as in COCO.
        assert states(target, detections) == (["ignored", "ignored", "ignored", "background"], [False, False])

    def test_localisation_takes_precedence_over_classification(self):
        """As in the authors' toolbox; the paper does not define the order."""
        target = annotated((0, 0, 0), (SHIFTS[0.3], 0, 1))
        assert states(target, detected((SHIFTS[0.3], 0, 0, 0.5)))[0] == ["localisation"]


class TestErrorEffects:
    """dAP from the definition of AP; the oracle's result is written by hand."""

    @staticmethod
    def average_precision(correct, positives):
        """Compute AP of detections in descending order of score, at COCO's levels (linspace)."""
        true_positives = np.cumsum(correct)
        precision, recall = true_positives / np.arange(1, len(correct) + 1), true_positives / positives
        return np.mean([max(precision[recall >= level], default=0.0) for level in np.linspace(0, 1, 101)])

    def effects(self, *pairs, classes=1):
        images = [classify_errors(*pair) for pair in pairs]
        effects, positives, negatives = error_effects(images, classes, 0.0)
        return {name: effect.dap.value for name, effect in effects.items()}, positives.value, negatives.value

    def test_every_type_in_one_class(self):
        """One object is found twice, one badly localised twice, one missed; one detection is background."""
        target = annotated((0, 0, 0), (50, 0, 0), (100, 0, 0))
        detections = detected(
            (0, 0, 0, 0.9),  # correct
            (200, 0, 0, 0.8),  # background
            (1, 0, 0, 0.7),  # duplicate
            (50 + SHIFTS[0.3], 0, 0, 0.6),  # localisation
            (50 - SHIFTS[0.3], 0, 0, 0.5),  # localisation of the same object
        )
        dap, false_positives, false_negatives = self.effects((target, detections))
        ap = self.average_precision
        base = ap([1, 0, 0, 0, 0], 3)
        assert dap["localisation"] == pytest.approx(ap([1, 0, 0, 1], 3) - base), (
            "one is fixed, the other removed"
        )
        assert dap["duplicate"] == pytest.approx(ap([1, 0, 0, 0], 3) - base)
        assert dap["background"] == pytest.approx(ap([1, 0, 0, 0], 3) - base)
        assert dap["missed"] == pytest.approx(ap([1, 0, 0, 0, 0], 2) - base), "two objects are left"
        assert dap["classification"] == dap["both"] == 0
        assert false_positives == pytest.approx(ap([1], 3) - base)
        assert false_negatives == pytest.approx(ap([1, 0, 0, 0, 0], 1) - base)

    def test_a_fixed_classification_error_moves_the_detection_to_the_right_class(self):
        target = annotated((0, 0, 0), (50, 0, 1))
        detections = detected((0, 0, 0, 0.6), (50, 0, 0, 0.9), (51, 0, 0, 0.8))
        dap, *_ = self.effects((target, detections), classes=2)
        base = (self.average_precision([0, 0, 1], 1) + 0) / 2
        assert dap["classification"] == pytest.approx((1 + 1) / 2 - base)

    def test_a_class_without_any_object_left_counts_as_zero(self):
        """All objects of class 1 are missed: removing them must not remove the class from the mean."""
        dap, _, false_negatives = self.effects(
            (annotated((0, 0, 0), (50, 0, 1)), detected((0, 0, 0, 0.9))), classes=2
        )
        assert dap["missed"] == false_negatives == 0

    @pytest.mark.parametrize("seed", range(5))
    def test_effects_on_random_images_equal_the_definitions_in_plain_loops(self, seed):
        pairs = random_images(seed)
        images = [classify_errors(*pair) for pair in pairs]
        effects, false_positives, _ = error_effects(images, 3, 0.5)
        naive = Naive(pairs)
        assert {name: effect.count for name, effect in effects.items()} == {
            name: naive.count(name) for name in ERRORS
        }
        confident = Naive(pairs, min_score=0.5)
        assert {name: effect.shown for name, effect in effects.items()} == {
            name: confident.count(name) for name in ERRORS
        }
        for name, effect in effects.items():
            assert effect.dap.value == pytest.approx(naive.fixed(name) - naive.fixed(None), abs=1e-9), name
            assert effect.dap.low <= effect.dap.value <= effect.dap.high
        assert false_positives.value == pytest.approx(naive.fixed("all") - naive.fixed(None), abs=1e-9)


def iou(a, b, crowd=False):
    width, height = (min(a[2 + i], b[2 + i]) - max(a[i], b[i]) for i in (0, 1))
    shared = max(width, 0) * max(height, 0)
    area, other = ((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return shared / (area if crowd else area + other - shared)


class Naive:
    """TIDE in plain loops over dictionaries: one list of detections and one of objects."""

    def __init__(self, pairs, min_score=0.0):
        self.detections, self.objects = [], []
        for image, (target, detections) in enumerate(pairs):
            objects = [
                {
                    "box": target.boxes[i],
                    "label": target.labels[i],
                    "crowd": target.crowd[i],
                    "ignored": target.crowd[i] or target.difficult[i],
                    "by": None,
                    "near": False,
                }
                for i in range(len(target.boxes))
            ]
            order = sorted(range(len(detections.scores)), key=lambda i: (-detections.scores[i], i))
            entries = [
                {
                    "box": detections.boxes[i].astype(float),
                    "label": detections.labels[i],
                    "score": float(detections.scores[i]),
                    "image": image,
                }
                for i in order
                if detections.scores[i] >= min_score
            ]
            for detection in entries:
                self.classify(detection, objects)
            self.detections += entries
            self.objects += [o for o in objects if not o["ignored"]]

    def classify(self, detection, objects):
        for ignored in (False, True):
            free = [
                (iou(detection["box"], o["box"], o["crowd"]), k)
                for k, o in enumerate(objects)
                if o["label"] == detection["label"]
                and o["ignored"] == ignored
                and (o["by"] is None or o["crowd"])
            ]
            best, index = max(free, default=(0, None))
            if best >= 0.5:
                objects[index]["by"] = detection
                detection["state"] = "ignored" if ignored else "correct"
                return
        counted = [(iou(detection["box"], o["box"]), k, o) for k, o in enumerate(objects) if not o["ignored"]]
        same = max(
            ((v, -k, o) for v, k, o in counted if o["label"] == detection["label"]),
            default=(0, 0, None),
            key=lambda t: t[:2],
        )
        other = max(
            ((v, -k, o) for v, k, o in counted if o["label"] != detection["label"]),
            default=(0, 0, None),
            key=lambda t: t[:2],
        )
        if 0.1 <= same[0] < 0.5:
            detection["state"], detection["aim"] = "localisation", same[2]
        elif other[0] >= 0.5:
            detection["state"], detection["aim"] = "classification", other[2]
        elif same[0] >= 0.5:
            detection["state"] = "duplicate"
        else:
            detection["state"] = "background" if max(same[0], other[0]) <= 0.1 else "both"
        if "aim" in detection:
            detection["aim"]["near"] = True

    def missed(self, o):
        return o["by"] is None and not o["near"]

    def count(self, error):
        if error == "missed":
            return sum(map(self.missed, self.objects))
        return sum(detection["state"] == error for detection in self.detections)

    def fixed(self, error):
        """Return the mAP without errors of one type, with all (None), or without false positives (all)."""
        rows = {label: [] for label in range(3)}
        served = set()
        for detection in sorted(self.detections, key=lambda e: -e["score"]):
            label, state = detection["label"], detection["state"]
            wrong = state not in ("correct", "ignored")
            if state == "ignored" or (wrong and error == "all"):
                continue
            correct = state == "correct"
            if wrong and state == error:
                aim = detection.get("aim")
                if aim is None or aim["by"] is not None or id(aim) in served:
                    continue
                served.add(id(aim))
                label, correct = aim["label"], True
            rows[label].append((detection["score"], correct, detection["image"]))
        values = []
        for label, detections in rows.items():
            positives = [o for o in self.objects if o["label"] == label]
            left = [o for o in positives if not (error == "missed" and self.missed(o))]
            detections.sort(key=lambda row: -row[0])
            correct = [c for _, c, _ in detections]
            if positives:
                values.append(
                    TestErrorEffects.average_precision(correct, len(left)) if correct and left else 0.0
                )
        return np.mean(values)


@pytest.mark.parametrize("seed", range(5))
def test_correct_detections_equal_those_of_average_precision(seed):
    for target, detections in random_images(seed):
        matches = match_coco(target, detections, np.array([[0, 1e10]]))
        correct = np.zeros(len(matches.scores), dtype=bool)
        correct[matches.matched] = matches.correct[:, 0, 0]
        image = classify_errors(target, detections)
        np.testing.assert_array_equal(image.states == STATES.index("correct"), correct)


class TestOperatingPoint:
    def test_no_other_threshold_has_a_higher_f1(self):
        pairs = random_images(3)
        point = analysed(pairs).operating_point
        images = [classify_errors(*pair) for pair in pairs]

        def f1(threshold):
            shown = [image.states[image.scores >= threshold] for image in images]
            correct = sum((states == STATES.index("correct")).sum() for states in shown)
            counted = sum((states != STATES.index("ignored")).sum() for states in shown)
            return 2 * correct / (counted + sum(image.counted.sum() for image in images))

        thresholds = {float(score) for image in images for score in image.scores}
        assert point.f1.value == pytest.approx(max(map(f1, thresholds)))
        assert f1(point.score) == pytest.approx(point.f1.value)
        assert point.f1.low < point.f1.value < point.f1.high

    def test_detections_of_one_score_are_taken_together(self):
        """Correct at .95 and .9, two background detections at .9, correct at .5; three objects.

        F1 from .95: 2/4; from .9: 4/7, though between its detections 4/5; from .5: 6/8.
        """
        target = annotated((0, 0, 0), (50, 0, 0), (100, 0, 0))
        background = [(200, 0, 0, 0.9), (300, 0, 0, 0.9)]
        detections = detected((0, 0, 0, 0.95), (50, 0, 0, 0.9), *background, (100, 0, 0, 0.5))
        point = analysed([(target, detections)]).operating_point
        assert (point.score, point.f1.value) == (0.5, 0.75)

    def test_without_a_correct_detection_there_is_no_operating_point(self):
        point = analysed([(annotated((0, 0, 0)), detected((90, 90, 0, 0.9)))]).operating_point
        assert (point.score, point.precision.value, point.recall.value) == (None, None, 0.0)

    def test_confusion_by_hand(self):
        """A 0 is found, a 1 detected as 2, another 1 undetected; a 2 is background; low scores ignored."""
        target = annotated((0, 0, 0), (50, 0, 1), (100, 0, 1))
        detections = detected(
            (0, 0, 0, 0.9), (50, 0, 2, 0.8), (200, 0, 2, 0.7), (100, 0, 0, 0.1), (300, 0, 0, 0.1)
        )
        # F1 at .9: 2/4; at .8: 2/5: the threshold is .9; other images move it to .7.
        confident = [(annotated((0, 0, 0)), detected((0, 0, 0, 0.7)))] * 9
        analysis = analysed([(target, detections), *confident])
        assert analysis.operating_point.score == pytest.approx(0.7)
        assert analysis.confusion == [[10, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 1, 0]]

    @pytest.mark.parametrize("seed", range(3))
    def test_confusion_counts_every_object_and_detection_once(self, seed):
        pairs = random_images(seed)
        analysis = analysed(pairs)
        matrix, point = np.array(analysis.confusion), analysis.operating_point
        objects = np.concatenate([t.labels[~(t.crowd | t.difficult)] for t, _ in pairs])
        assert matrix.sum(axis=1)[:3].tolist() == np.bincount(objects, minlength=3).tolist()
        correct = matrix.diagonal()[:3].sum()
        assert point.recall.value == pytest.approx(correct / len(objects))
        assert point.precision.value == pytest.approx(correct / matrix[:, :3].sum())


class TestSamples:
    def test_the_worst_image_has_the_lowest_f1_and_its_boxes_have_their_errors(self):
        good = (annotated((0, 0, 0), (50, 0, 1)), detected((0, 0, 0, 0.9), (50, 0, 1, 0.9)))
        bad = (annotated((0, 0, 0), (50, 0, 1)), detected((0, 0, 1, 0.9), (90, 90, 0, 0.95)))
        pairs = [good] * 10 + [bad]
        analyser = DetectionAnalyser(CLASSES)
        image = np.zeros((100, 200, 3), np.uint8)
        samples = [Sample(f"s{index}", image, target) for index, (target, _) in enumerate(pairs)]
        for sample, (_, detections) in zip(samples, pairs, strict=True):
            analyser.add(sample, detections)
        worst, *others = analyser.picks()
        assert (worst.index, worst.role, worst.score) == (10, "worst", 0.0)
        assert [pick.role for pick in others] == ["worst"] * 3 + ["median"] * 2 + ["best"] * 2
        shown, images = analyser.show(worst, samples[10], bad[1])
        assert [(box.label, box.state) for box in shown.annotations] == [("a", "missed"), ("b", "missed")]
        assert sorted((box.label, box.state) for box in shown.detections) == [
            ("a", "background"),
            ("b", "classification"),
        ]
        assert (shown.width, shown.height, list(images)) == (200, 100, [shown.image])

    def test_images_keep_their_proportions_and_are_never_enlarged(self):
        assert shown_size(100, 200) == (200, 100)
        assert shown_size(1000, 4000) == (256, 64)
        assert shown_size(1, 5000) == (256, 1)
        stored = Image.open(io.BytesIO(image_file(np.full((600, 300, 3), 200, np.uint8))))
        assert (stored.size, stored.format) == ((128, 256), "WEBP")
        assert abs(np.asarray(stored).astype(int) - 200).max() <= 3
