"""Precision–recall curves of a whole data set, and of many weightings of it at once.

Where image i counts w_i times, for example 0 times because it is left out, so does each of its detections.
Precision rises only at correct detections. It is therefore evaluated only there, and the false positives
between two of them enter as one sum.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from harness.metrics.matching import Matches

RecallLevels: TypeAlias = Callable[[NDArray[np.int64], NDArray[np.int32]], NDArray[np.float64]]
"""(correct detections so far [m, R], positives [R]) → the fraction of recall levels reached [m, R], 0–1."""

CELLS = 2**18  # cells of one block [m, weightings]: 2 MiB of doubles stay in the cache


@dataclass(frozen=True, eq=False)
class Curves:
    """One class's detections that match an annotation, in descending order of score over all images.

    n = images, m = these detections, A = area ranges, T = IoU thresholds.
    """

    images: NDArray[np.int64]  # [m]
    correct: NDArray[np.bool_]  # [A, T, m]
    counted: NDArray[np.bool_]  # [A, T, m], correct or a false positive: not ignored
    background: list[csr_array]  # A × [m, n]: false positives between the previous detection and this one
    positives: csr_array  # [A, n]
    recalled: csr_array  # [limits, n], correct detections within the limit, summed over thresholds

    @property
    def carriers(self) -> NDArray[np.int64]:
        """Return the number of images with annotations of the class that count: [A]."""
        ends: NDArray[np.int64] = np.asarray(self.positives.indptr, dtype=np.int64)
        return ends[1:] - ends[:-1]


def build_curves(
    statistics: Sequence[Matches], classes: int, limits: Sequence[tuple[int, int]]
) -> list[Curves]:
    """Join the images' matches into the curves of each class.

    Args:
        statistics: in order of image id, which breaks ties of score.
        limits: (index of the area range, most detections per image) of each recall to be computed.
    """
    labels = np.concatenate([image.labels for image in statistics])
    sizes = [len(image.labels) for image in statistics]
    images = np.repeat(np.arange(len(statistics)), sizes)
    counted = np.concatenate([image.counted for image in statistics])
    offsets = np.cumsum([0, *sizes[:-1]])
    match_row = np.full(len(labels), -1)  # row of each detection in the arrays of matched detections, or −1
    matched = np.concatenate(
        [image.matched + offset for image, offset in zip(statistics, offsets, strict=True)]
    )
    match_row[matched] = np.arange(len(matched))
    correct = np.concatenate([image.correct for image in statistics])
    absorbed = np.concatenate([image.absorbed for image in statistics])
    ranks = np.concatenate([image.ranks for image in statistics])
    annotated = np.repeat(np.arange(len(statistics)), [len(image.positives) for image in statistics])
    annotation_labels = np.concatenate([image.positives for image in statistics])
    positive = np.concatenate([image.positive for image in statistics])

    scores = np.concatenate([image.scores for image in statistics])
    order = np.lexsort((-scores, labels))  # stable: ties by image, then as reported
    bounds = np.searchsorted(labels[order], np.arange(classes + 1))
    curves = []
    for label in range(classes):
        members = order[bounds[label] : bounds[label + 1]]
        hits = match_row[members] >= 0
        rows = match_row[members[hits]]
        following = np.cumsum(hits)  # index of the next matched detection
        unmatched = ~hits & (following < len(rows))
        in_class = annotation_labels == label
        recalled = [correct[rows, area].sum(axis=1) * (ranks[rows] < limit) for area, limit in limits]
        matches_counted = correct[rows] | (counted[members[hits]][:, :, None] & ~absorbed[rows])
        curves.append(
            Curves(
                images=images[members[hits]],
                correct=np.ascontiguousarray(correct[rows].transpose(1, 2, 0)),
                counted=np.ascontiguousarray(matches_counted.transpose(1, 2, 0)),
                background=[
                    _count_pairs(following[false], images[members[false]], (len(rows), len(statistics)))
                    for false in (unmatched & counted[members, area] for area in range(counted.shape[1]))
                ],
                positives=_sum_by_image(positive[in_class].T, annotated[in_class], len(statistics)),
                recalled=_sum_by_image(
                    np.array(recalled).reshape(len(limits), len(rows)), images[members[hits]], len(statistics)
                ),
            )
        )
    return curves


def average_precision(
    curves: Curves, weights: NDArray[np.int32], levels: RecallLevels
) -> NDArray[np.float64]:
    """Average the interpolated precision over recall levels, under each of R weightings.

    AP = Σ over correct detections of max{precision at this or a later one} · recall levels gained.
    The weights [n, R] are how often each image counts. Return [A, T, R], 0–1; NaN where no annotation of the
    class counts.
    """
    blocks = -(-len(curves.images) * weights.shape[1] // CELLS)
    if blocks > 1 and weights.shape[1] > 1:
        columns = np.array_split(weights, min(blocks, weights.shape[1]), axis=1)
        return np.concatenate([average_precision(curves, block, levels) for block in columns], axis=2)
    positives = curves.positives @ weights  # [A, R]
    drawn = weights[curves.images]  # [m, R]
    result = np.zeros((*curves.correct.shape[:2], weights.shape[1]))
    for area, background in enumerate(curves.background):
        false_positives = np.cumsum(background @ weights, axis=0)  # [m, R], of the background
        for threshold, (correct, counted) in enumerate(
            zip(curves.correct[area], curves.counted[area], strict=True)
        ):
            detected = np.cumsum(drawn[counted], axis=0)[correct[counted]] + false_positives[correct]
            true_positives = np.cumsum(drawn[correct], axis=0)
            precision = true_positives / np.maximum(detected, 1)  # 0 before the first image drawn
            gained = levels(true_positives, np.maximum(positives[area], 1))
            gained[1:] -= gained[:-1].copy()
            envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
            result[area, threshold] = np.einsum("mr,mr->r", envelope, gained)
    result[np.broadcast_to(positives[:, None] == 0, result.shape)] = np.nan
    return result


def average_recall(
    curves: Curves, weights: NDArray[np.int32], limits: Sequence[tuple[int, int]]
) -> NDArray[np.float64]:
    """Average the recall over IoU thresholds, under each of R weightings.

    `weights` [n, R] are how often each image counts, and `limits` are as given to `build_curves`.
    Return [limits, R], 0–1; NaN where no annotation of the class counts.
    """
    positives = (curves.positives @ weights)[[area for area, _ in limits]]
    recalled = curves.recalled @ weights / curves.correct.shape[1]
    return np.where(positives > 0, recalled / np.maximum(positives, 1), np.nan)


def _count_pairs(rows: NDArray[np.int64], columns: NDArray[np.int64], shape: tuple[int, int]) -> csr_array:
    """Count how often each (row, column) occurs."""
    return csr_array((np.ones(len(rows), dtype=np.int32), (rows, columns)), shape=shape)


def _sum_by_image(values: NDArray[np.generic], images: NDArray[np.int64], n: int) -> csr_array:
    """Sum values [k, items] over the items of each image: [k, n]."""
    rows, items = np.nonzero(values)
    counts = values[rows, items].astype(np.int32)
    return csr_array((counts, (rows, images[items])), shape=(len(values), n))
