"""Precision–recall curves, which class is taken for which, kinds of error, and images ranked by their F1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.analysis import tide
from harness.analysis.analyser import Analyser, Pick, Pictures, pick
from harness.analysis.curves import average_precisions, precision_recall
from harness.analysis.images import image_file
from harness.analysis.ratios import ratios
from harness.analysis.record import (
    DetectionAnalysis,
    OperatingPoint,
    PrecisionRecall,
    ShownBox,
    ShownDetections,
)
from harness.analysis.tide import CORRECT, IGNORED, STATES, Examined, examine
from harness.metrics.average_precision import COCO_AREAS
from harness.metrics.matching import IOU_THRESHOLDS, MAX_DETECTIONS, Matches, match_coco
from harness.statistics.bootstrap import figure, mean_defined
from harness.task import Annotations, Detections, Sample

VERSION = 1  # of the signatures; raise it with any change of what a figure means
DRAWN = (0, 5)  # of COCO's ten thresholds: IoU .5, where boxes are found at all, and .75, where they fit
SIGNATURE = f"coco|recalls:101|maxdets:{MAX_DETECTIONS}|interval:basic"
ALL_SIZES = np.array([[0.0, COCO_AREAS["large"][1]]])  # px²


class DetectionAnalyser(Analyser):
    """Detections under COCO's rules, as average precision sees them, and at one operating point."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = tuple(classes)
        self._matches: list[Matches] = []
        self._images: list[Examined] = []

    def add(self, sample: Sample, prediction: Detections) -> None:
        target: Any = sample.target
        found = match_coco(target, prediction, ALL_SIZES)
        drawn = {part: getattr(found, part)[:, :, DRAWN] for part in ("correct", "absorbed")}
        self._matches.append(replace(found, **drawn))
        self._images.append(examine(target, prediction))

    def picks(self) -> list[Pick]:
        counts = np.array([counts_at(image, self._least) for image in self._images])
        correct, objects = counts[:, 0], counts[:, 1] + counts[:, 2]
        # An image with nothing to find, where nothing was found, has nothing wrong.
        f1 = np.divide(2 * correct, objects, out=np.ones(len(counts)), where=objects > 0)
        return pick(f1.tolist(), objects.tolist())

    def show(self, pick: Pick, sample: Sample, prediction: Detections) -> tuple[ShownDetections, Pictures]:
        image: Any = sample.input
        target: Any = sample.target
        path = f"samples/{pick.index:08d}.webp"
        annotations, detections = self._boxes(target, prediction)
        shown = ShownDetections(
            index=pick.index,
            id=sample.id,
            role=pick.role,
            score=pick.score,
            width=image.shape[1],
            height=image.shape[0],
            image=path,
            annotations=annotations,
            detections=detections,
        )
        return shown, {path: image_file(image)}

    def conclude(self, shown: Sequence[ShownDetections]) -> DetectionAnalysis:
        errors, false_positives, false_negatives = tide.error_effects(
            self._images, len(self._classes), self._least
        )
        return DetectionAnalysis(
            n=len(self._images),
            ranked_by="F1 of the image at the operating point",
            classes=list(self._classes),
            curves=self._curves(),
            operating_point=self._operating_point(),
            confusion=confusion(self._images, len(self._classes), self._least).tolist(),
            errors=errors,
            false_positives=false_positives,
            false_negatives=false_negatives,
            samples=list(shown),
        )

    @cached_property
    def _least(self) -> float:
        """The score of the operating point."""
        return best_f1(self._images)

    def _curves(self) -> list[PrecisionRecall]:
        classes = range(len(self._classes))
        ap = average_precisions(self._matches, len(classes))  # [classes, T, 1 + R]
        found = []
        for threshold, place in enumerate(DRAWN):
            iou = float(IOU_THRESHOLDS[place])
            about = (len(self._matches), "fraction", f"{SIGNATURE}|iou:{iou:g}|v:{VERSION}")
            curves = [precision_recall(self._matches, label, threshold) for label in classes]
            annotated = [curve.precision for curve in curves if curve.positives]
            mean = mean_defined(ap[:, threshold], 0)
            found.append(
                PrecisionRecall(
                    iou=iou,
                    ap=figure(mean[0], mean[1:], *about, reflected=True),
                    positives=sum(curve.positives for curve in curves),
                    precision=np.mean(annotated, axis=0).round(4).tolist() if annotated else None,
                )
            )
            for label, curve in zip(classes, curves, strict=True):
                own = ap[label, threshold]
                found.append(
                    PrecisionRecall(
                        label=self._classes[label],
                        iou=iou,
                        ap=figure(own[0], own[1:], *about, reflected=True),
                        positives=curve.positives,
                        precision=curve.precision.round(4).tolist() if curve.positives else None,
                        scores=[None if np.isnan(s) else round(float(s), 4) for s in curve.scores],
                    )
                )
        return found

    def _operating_point(self) -> OperatingPoint:
        counts = np.array([counts_at(image, self._least) for image in self._images])
        correct, detected, annotated = counts.T[:, :, None]
        about = f"iou:{tide.FOREGROUND}|score:best F1|v:{VERSION}"
        precision, recall, f1 = (
            ratios(part, whole, f"{name}|{about}")[0]
            for name, part, whole in (
                ("precision", correct, detected),
                ("recall", correct, annotated),
                ("f1", 2 * correct, detected + annotated),
            )
        )
        least = None if np.isinf(self._least) else self._least
        return OperatingPoint(score=least, precision=precision, recall=recall, f1=f1)

    def _boxes(self, target: Annotations, prediction: Detections) -> tuple[list[ShownBox], list[ShownBox]]:
        image = examine(target, prediction)
        shown = image.scores >= self._least
        found = np.zeros(len(image.positives), dtype=bool)
        found[image.aims[shown & (image.states == CORRECT)]] = True
        annotations = [
            ShownBox(
                box=_rounded(box),
                label=self._classes[label],
                state="ignored" if not counted else "correct" if hit else "missed",
            )
            for box, label, counted, hit in zip(
                target.boxes, target.labels, image.counted, found, strict=True
            )
        ]
        detections = [
            ShownBox(
                box=_rounded(prediction.boxes[image.order[row]]),
                label=self._classes[image.labels[row]],
                score=round(float(image.scores[row]), 4),
                state=STATES[image.states[row]],
            )
            for row in np.flatnonzero(shown)
        ]
        return annotations, detections


def best_f1(images: Sequence[Examined]) -> float:
    """The score that gives the highest F1 over all classes and images; infinite where none is correct."""
    kept = [image.states != IGNORED for image in images]
    scores = np.concatenate([image.scores[keep] for image, keep in zip(images, kept, strict=True)])
    correct = np.concatenate(
        [image.states[keep] == CORRECT for image, keep in zip(images, kept, strict=True)]
    )
    if not correct.any():
        return np.inf
    order = np.argsort(-scores, kind="stable")
    scores, found = scores[order], np.cumsum(correct[order])
    positives = sum(int(image.counted.sum()) for image in images)
    f1 = 2 * found / (np.arange(1, len(found) + 1) + positives)
    last = np.append(scores[1:] < scores[:-1], True)  # of equal scores all are taken
    return float(scores[np.where(last, f1, -1.0).argmax()])


def counts_at(image: Examined, least: float) -> tuple[int, int, int]:
    """Detections that are correct, all but ignored ones, and annotations."""
    shown = image.scores >= least
    correct = shown & (image.states == CORRECT)
    return (
        int(correct.sum()),
        int((shown & (image.states != IGNORED)).sum()),
        int(image.counted.sum()),
    )


def confusion(images: Sequence[Examined], classes: int, least: float) -> NDArray[np.int64]:
    """[annotated][detected] among detections of at least this score; the last row and column: background.

    Correct detections first, as COCO matches them. Then each other detection, the highest score first, takes
    the free annotation of another class that it overlaps most, at IoU .5 or more. What is left over is
    detected background, or an annotation that went undetected.
    """
    matrix = np.zeros((classes + 1, classes + 1), dtype=np.int64)
    for image in images:
        shown = image.scores >= least
        free_detections = shown & (image.states != IGNORED)
        free_annotations = image.counted.copy()
        correct = np.flatnonzero(shown & (image.states == CORRECT))
        pairs = [*zip(correct.tolist(), image.aims[correct].tolist(), strict=True), *image.rivals.tolist()]
        for detection, annotation in pairs:
            if free_detections[detection] and free_annotations[annotation]:
                matrix[image.positives[annotation], image.labels[detection]] += 1
                free_detections[detection] = free_annotations[annotation] = False
        matrix[-1, :-1] += np.bincount(image.labels[free_detections], minlength=classes)
        matrix[:-1, -1] += np.bincount(image.positives[free_annotations], minlength=classes)
    return matrix


def _rounded(box: NDArray[Any]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (round(float(value), 2) for value in box)
    return x1, y1, x2, y2
