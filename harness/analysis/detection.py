"""Analysis of detection: precision–recall curves, confusion, types of error, and images ranked by F1."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import cast

import numpy as np
from numpy.typing import NDArray

from harness.analysis import record, tide
from harness.analysis.analyser import Analyser, ImageFiles, Pick, ratios
from harness.analysis.curves import average_precisions, interpolate_precision
from harness.analysis.images import image_file
from harness.analysis.record import ShownDetections
from harness.analysis.tide import CORRECT, IGNORED, STATES, ImageErrors, classify_errors
from harness.metrics.average_precision import COCO_AREAS
from harness.metrics.matching import IOU_THRESHOLDS, MAX_DETECTIONS, Matches, match_coco
from harness.statistics.jackknife import figure, mean_defined
from harness.task import Annotations, Detections, Figure, Image, Sample

VERSION = 1  # of the signatures; raise it when the meaning of a figure changes
# Indices into COCO's ten thresholds of the curves that are drawn: IoU .5, at which a box counts as detected,
# and .75, at which it also fits closely.
CURVE_THRESHOLDS = (0, 5)
SIGNATURE = f"coco|recalls:101|maxdets:{MAX_DETECTIONS}|interval:jackknife"
ALL_SIZES = np.array([[0.0, COCO_AREAS["large"][1]]])  # px²


class DetectionAnalyser(Analyser[Detections, ShownDetections]):
    """Collects the matches of each image by COCO's rules, and its errors.

    The confusion matrix and the shown detections are those at one operating point: detections with at least
    the score that gives the highest F1.
    """

    def __init__(self, classes: Sequence[str], min_score: float | None = None) -> None:
        """Start without images; `min_score` replaces the score of the operating point."""
        self._classes = tuple(classes)
        self._known_score = min_score
        self._matches: list[Matches] = []
        self._images: list[ImageErrors] = []

    def add(self, sample: Sample, prediction: Detections) -> None:
        target = cast(Annotations, sample.target)
        matches = match_coco(target, prediction, ALL_SIZES)
        correct, absorbed = (part[:, :, CURVE_THRESHOLDS] for part in (matches.correct, matches.absorbed))
        self._matches.append(replace(matches, correct=correct, absorbed=absorbed))
        self._images.append(classify_errors(target, prediction))

    def columns(self) -> dict[str, NDArray[np.float64]]:
        """Return the number of annotations that count, in each image."""
        counts = np.array([counts_at(image, self._min_score) for image in self._images]).reshape(-1, 3)
        correct, objects = counts[:, 0], counts[:, 1] + counts[:, 2]
        # An image with neither annotations nor detections has no errors: its F1 is 1.
        f1 = np.divide(2 * correct, objects, out=np.ones(len(counts)), where=objects > 0)
        return {"score": f1, "objects": counts[:, 2].astype(np.float64), "shown": objects.astype(np.float64)}

    def show(self, pick: Pick, sample: Sample, prediction: Detections) -> tuple[ShownDetections, ImageFiles]:
        image, target = cast(Image, sample.input), cast(Annotations, sample.target)
        path = f"samples/{pick.index:08d}.webp"
        annotations, detections = self._boxes(target, prediction)
        shown = ShownDetections(
            **vars(pick),
            id=sample.id,
            width=image.shape[1],
            height=image.shape[0],
            image=path,
            annotations=annotations,
            detections=detections,
        )
        return shown, {path: image_file(image)}

    def conclude(self, shown: Sequence[ShownDetections]) -> record.DetectionAnalysis:
        errors, false_positives, false_negatives = tide.error_effects(
            self._images, len(self._classes), self._min_score
        )
        return record.DetectionAnalysis(
            n=len(self._images),
            ranked_by="F1 of the image at the operating point",
            classes=list(self._classes),
            curves=self._curves(),
            operating_point=self._operating_point(),
            confusion=confusion_matrix(self._images, len(self._classes), self._min_score).tolist(),
            errors=errors,
            false_positives=false_positives,
            false_negatives=false_negatives,
            samples=list(shown),
        )

    @cached_property
    def _min_score(self) -> float:
        """Score threshold of the operating point; infinite if no detection is correct."""
        return best_f1_score(self._images) if self._known_score is None else self._known_score

    def _curves(self) -> list[record.PrecisionRecall]:
        ap = average_precisions(self._matches, len(self._classes))  # [classes, T, 1 + G]
        records = []
        for threshold, coco_index in enumerate(CURVE_THRESHOLDS):
            iou = float(IOU_THRESHOLDS[coco_index])
            curves = [
                interpolate_precision(self._matches, label, threshold) for label in range(len(self._classes))
            ]
            annotated = [curve.precision for curve in curves if curve.positives]
            records.append(
                record.PrecisionRecall(
                    iou=iou,
                    ap=self._ap_figure(mean_defined(ap[:, threshold], 0), iou),
                    positives=sum(curve.positives for curve in curves),
                    precision=np.mean(annotated, axis=0).round(4).tolist() if annotated else None,
                )
            )
            records += [
                record.PrecisionRecall(
                    label=name,
                    iou=iou,
                    ap=self._ap_figure(class_ap, iou),
                    positives=curve.positives,
                    precision=curve.precision.round(4).tolist() if curve.positives else None,
                    scores=[None if np.isnan(s) else round(float(s), 4) for s in curve.scores],
                )
                for name, curve, class_ap in zip(self._classes, curves, ap[:, threshold], strict=True)
            ]
        return records

    def _ap_figure(self, ap: NDArray[np.float64], iou: float) -> Figure:
        """Return an AP with its interval, from the value followed by its replicates: [1 + G]."""
        signature = f"{SIGNATURE}|iou:{iou:g}|v:{VERSION}"
        return figure(ap, len(self._matches), "fraction", signature, (0.0, 1.0))

    def _operating_point(self) -> record.OperatingPoint:
        counts = np.array([counts_at(image, self._min_score) for image in self._images])
        correct, detected, annotated = counts.T[:, :, None]
        settings = f"iou:{tide.FOREGROUND}|score:best F1|v:{VERSION}"
        precision, recall, f1 = (
            ratios(part, whole, f"{name}|{settings}")[0]
            for name, part, whole in (
                ("precision", correct, detected),
                ("recall", correct, annotated),
                ("f1", 2 * correct, detected + annotated),
            )
        )
        score = None if np.isinf(self._min_score) else self._min_score
        return record.OperatingPoint(score=score, precision=precision, recall=recall, f1=f1)

    def _boxes(
        self, target: Annotations, prediction: Detections
    ) -> tuple[list[record.ShownBox], list[record.ShownBox]]:
        """Return the records of the annotations, then of the detections at the operating point."""
        image = classify_errors(target, prediction)
        shown = image.scores >= self._min_score
        hit = np.zeros(len(image.positives), dtype=bool)
        hit[image.annotations[shown & (image.states == CORRECT)]] = True
        annotations = [
            record.ShownBox(
                box=_rounded(box),
                label=self._classes[label],
                state="ignored" if not counted else "correct" if is_hit else "missed",
            )
            for box, label, counted, is_hit in zip(
                target.boxes, target.labels, image.counted, hit, strict=True
            )
        ]
        detections = [
            record.ShownBox(
                box=_rounded(prediction.boxes[image.order[row]]),
                label=self._classes[image.labels[row]],
                score=round(float(image.scores[row]), 4),
                state=STATES[image.states[row]],
            )
            for row in np.flatnonzero(shown)
        ]
        return annotations, detections


def best_f1_score(images: Sequence[ImageErrors]) -> float:
    """Return the score threshold that gives the highest F1 over all classes and images.

    It is infinite if no detection is correct.
    """
    scores = np.concatenate([image.scores[image.states != IGNORED] for image in images])
    correct = np.concatenate([image.states[image.states != IGNORED] == CORRECT for image in images])
    if not correct.any():
        return np.inf
    order = np.argsort(-scores, kind="stable")
    scores, true_positives = scores[order], np.cumsum(correct[order])
    positives = sum(int(image.counted.sum()) for image in images)
    f1 = 2 * true_positives / (np.arange(1, len(true_positives) + 1) + positives)
    last = np.append(scores[1:] < scores[:-1], True)  # a threshold takes all detections of equal score
    return float(scores[np.where(last, f1, -1.0).argmax()])


def counts_at(image: ImageErrors, min_score: float) -> tuple[int, int, int]:
    """Count the correct detections and all that are not ignored, from `min_score` on; and the annotations."""
    shown = image.scores >= min_score
    correct = shown & (image.states == CORRECT)
    return (int(correct.sum()), int((shown & (image.states != IGNORED)).sum()), int(image.counted.sum()))


def confusion_matrix(images: Sequence[ImageErrors], classes: int, min_score: float) -> NDArray[np.int64]:
    """Count annotations by class and by the class detected: [classes + 1, classes + 1].

    The last row and column are background. Correct detections are counted first, as COCO matches them. Then
    each other detection, in descending order of score, takes the free annotation of another class that it
    overlaps most, at IoU .5 or more. Each remaining detection counts as detected background, each remaining
    annotation as undetected.

    Only detections with at least `min_score` count.
    """
    matrix = np.zeros((classes + 1, classes + 1), dtype=np.int64)
    for image in images:
        shown = image.scores >= min_score
        free_detections = shown & (image.states != IGNORED)
        free_annotations = image.counted.copy()
        correct = np.flatnonzero(shown & (image.states == CORRECT))
        matches = zip(correct.tolist(), image.annotations[correct].tolist(), strict=True)
        for detection, annotation in [*matches, *image.confused.tolist()]:
            if free_detections[detection] and free_annotations[annotation]:
                matrix[image.positives[annotation], image.labels[detection]] += 1
                free_detections[detection] = free_annotations[annotation] = False
        matrix[-1, :-1] += np.bincount(image.labels[free_detections], minlength=classes)
        matrix[:-1, -1] += np.bincount(image.positives[free_annotations], minlength=classes)
    return matrix


def _rounded(box: NDArray[np.float64] | NDArray[np.float32]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (round(float(value), 2) for value in box)
    return x1, y1, x2, y2
