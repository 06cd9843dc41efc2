"""Precision against recall: a class's curve as COCO interpolates it, and its area in every resample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.metrics.average_precision import COCO_RECALLS, coco_levels
from harness.metrics.matching import Matches
from harness.metrics.metric import RESAMPLES, SEED
from harness.metrics.precision_recall import average_precision, pool
from harness.statistics.bootstrap import resample_counts


def average_precisions(matches: Sequence[Matches], classes: int) -> NDArray[np.float64]:
    """COCO's AP over all sizes, of the data set, then of each bootstrap resample: [classes, T, 1 + R]."""
    curves = pool(matches, classes, ())
    n = len(matches)
    weights = [np.ones((n, 1), dtype=np.int32), *resample_counts(n, RESAMPLES, SEED)]
    parts = [
        np.stack([average_precision(curve, each, coco_levels)[0] for curve in curves]) for each in weights
    ]
    return np.concatenate(parts, axis=2)


@dataclass(frozen=True, eq=False)
class Interpolated:
    """One class's precision at COCO's recall levels."""

    positives: int
    precision: NDArray[np.float64]  # [101], 0 where the recall is not reached
    scores: NDArray[np.float64]  # [101], NaN there


def precision_recall(images: Sequence[Matches], label: int, threshold: int) -> Interpolated:
    """COCO's interpolation: at each level the highest precision at this or a higher recall."""
    rows = [_outcomes(image, label, threshold) for image in images]
    scores, correct = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    order = np.argsort(-scores, kind="stable")
    scores, found = scores[order], np.cumsum(correct[order])
    positives = sum(int((image.positive[:, 0] & (image.positives == label)).sum()) for image in images)
    precision = found / np.arange(1, len(found) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    # Where an earlier detection reaches the level, padding stands for the levels that none reaches.
    first = np.searchsorted(found / max(positives, 1), COCO_RECALLS, side="left")
    return Interpolated(positives, np.append(envelope, 0.0)[first], np.append(scores, np.nan)[first])


def _outcomes(image: Matches, label: int, threshold: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores of the detections of a class that are right or wrong, and whether they are right."""
    correct, kept = np.zeros(len(image.scores), dtype=bool), image.counted[:, 0].copy()
    correct[image.matched] = image.correct[:, 0, threshold]
    kept[image.matched] |= image.correct[:, 0, threshold]
    kept[image.matched] &= ~image.absorbed[:, 0, threshold]
    own = kept & (image.labels == label)
    return image.scores[own], correct[own]
