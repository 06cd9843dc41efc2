"""Precision–recall curves: a class's curve as COCO interpolates it, and the areas."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.metrics.average_precision import COCO_RECALLS, Coco, coco_levels
from harness.metrics.matching import Matches
from harness.metrics.precision_recall import average_precision, build_curves
from harness.statistics.jackknife import leave_out_groups, leave_out_weights


def average_precisions(matches: Sequence[Matches], classes: int) -> NDArray[np.float64]:
    """Compute COCO's AP over all sizes of the data set, then without each group: [classes, T, 1 + G]."""
    n = len(matches)
    weights = leave_out_weights(n, leave_out_groups(n, Coco.max_groups))
    curves = build_curves(matches, classes, ())
    return np.stack([average_precision(curve, weights, coco_levels)[0] for curve in curves])


@dataclass(frozen=True, eq=False)
class InterpolatedCurve:
    """One class's precision at COCO's recall levels."""

    positives: int
    precision: NDArray[np.float64]  # [101], 0 if the recall is not reached
    scores: NDArray[np.float64]  # [101], the score that reaches the recall, NaN if none does


def interpolate_precision(images: Sequence[Matches], label: int, threshold: int) -> InterpolatedCurve:
    """Interpolate as COCO does: at each level the highest precision at this or a higher recall.

    `label` and `threshold` are the indices of the class and of the IoU threshold in the matches.
    """
    outcomes = [_outcomes(image, label, threshold) for image in images]
    scores, correct = (np.concatenate(parts) for parts in zip(*outcomes, strict=True))
    order = np.argsort(-scores, kind="stable")
    scores, true_positives = scores[order], np.cumsum(correct[order])
    positives = sum(int((image.positive[:, 0] & (image.positives == label)).sum()) for image in images)
    precision = true_positives / np.arange(1, len(true_positives) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    # The first detection that reaches each level; the padding is the value of levels that none reaches.
    first = np.searchsorted(true_positives / max(positives, 1), COCO_RECALLS, side="left")
    return InterpolatedCurve(positives, np.append(envelope, 0.0)[first], np.append(scores, np.nan)[first])


def _outcomes(image: Matches, label: int, threshold: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the scores of a class's detections that are not ignored [d], and which are correct [d]."""
    correct, counted = np.zeros(len(image.scores), dtype=bool), image.counted[:, 0].copy()
    correct[image.matched] = image.correct[:, 0, threshold]
    counted[image.matched] |= image.correct[:, 0, threshold]
    counted[image.matched] &= ~image.absorbed[:, 0, threshold]
    members = counted & (image.labels == label)
    return image.scores[members], correct[members]
