"""Precision–recall curves of a whole data set, and of many resamples of it at once.

A resample draws image i w_i times, so a curve of the resample is a curve of the data set whose every
detection counts w_i times. Precision rises only at correct detections: it is evaluated there alone, and
the detections between two of them enter as one sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from harness.metrics.matching import Matches

Levels = Callable[[NDArray[np.int64], NDArray[np.int32]], NDArray[np.float64]]
"""(correct so far [m, R], positives [R]) → the share of recall levels reached [m, R], 0–1."""

CELLS = 2**18  # of one block [m, resamples]: 2 MiB of doubles stay in the cache


@dataclass(frozen=True, eq=False)
class Curves:
    """One class's detections that met an annotation, in descending order of score over all images.

    n = number of images, m = number of these detections, A = area ranges, T = IoU thresholds.
    """

    images: NDArray[np.int64]  # [m]
    correct: NDArray[np.bool_]  # [A, T, m]
    kept: NDArray[np.bool_]  # [A, T, m], correct or a false positive: not ignored
    background: list[csr_array]  # A × [m, n]: false positives between the previous detection and this one
    positives: csr_array  # [A, n]
    found: csr_array  # [limits, n], correct detections within the limit, summed over thresholds


def pool(statistics: Sequence[Matches], classes: int, limits: Sequence[tuple[int, int]]) -> list[Curves]:
    """Join the images' matches into the curves of each class.

    Args:
        statistics: in order of image id, which decides ties of score.
        limits: (area range, most detections per image) of each recall to be computed.
    """
    labels = np.concatenate([image.labels for image in statistics])
    sizes = [len(image.labels) for image in statistics]
    images = np.repeat(np.arange(len(statistics)), sizes)
    counted = np.concatenate([image.counted for image in statistics])
    offsets = np.cumsum([0, *sizes[:-1]])
    row = np.full(len(labels), -1)  # where a matched detection stands in the arrays of matched ones
    matched = np.concatenate([image.matched + at for image, at in zip(statistics, offsets, strict=True)])
    row[matched] = np.arange(len(matched))
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
        own = order[bounds[label] : bounds[label + 1]]
        hits = row[own] >= 0
        rows = row[own[hits]]
        following = np.cumsum(hits)  # index of the next matched detection
        noise = ~hits & (following < len(rows))
        kept = correct[rows] | (counted[own[hits]][:, :, None] & ~absorbed[rows])
        in_class = annotation_labels == label
        within = [correct[rows, area].sum(axis=1) * (ranks[rows] < limit) for area, limit in limits]
        curves.append(
            Curves(
                images=images[own[hits]],
                correct=np.ascontiguousarray(correct[rows].transpose(1, 2, 0)),
                kept=np.ascontiguousarray(kept.transpose(1, 2, 0)),
                background=[
                    _count(following[at], images[own[at]], (len(rows), len(statistics)))
                    for at in (noise & counted[own, area] for area in range(counted.shape[1]))
                ],
                positives=_rows(positive[in_class].T, annotated[in_class], len(statistics)),
                found=_rows(
                    np.array(within).reshape(len(limits), len(rows)), images[own[hits]], len(statistics)
                ),
            )
        )
    return curves


def average_precision(curves: Curves, weights: NDArray[np.int32], levels: Levels) -> NDArray[np.float64]:
    """Interpolated precision averaged over recall levels, in each of R resamples.

    AP = Σ over correct detections of max{precision at this or a later one} · recall levels gained.

    Args:
        weights: [n, R], how often each resample drew each image.

    Returns:
        [A, T, R]; NaN where a resample holds no annotation of the class.
    """
    blocks = -(-len(curves.images) * weights.shape[1] // CELLS)
    if blocks > 1 and weights.shape[1] > 1:
        columns = np.array_split(weights, min(blocks, weights.shape[1]), axis=1)
        return np.concatenate([average_precision(curves, block, levels) for block in columns], axis=2)
    positives = curves.positives @ weights  # [A, R]
    drawn = weights[curves.images]  # [m, R]
    result = np.zeros((*curves.correct.shape[:2], weights.shape[1]))
    for area, background in enumerate(curves.background):
        noise = np.cumsum(background @ weights, axis=0)  # [m, R]
        for threshold, (correct, kept) in enumerate(
            zip(curves.correct[area], curves.kept[area], strict=True)
        ):
            shown = np.cumsum(drawn[kept], axis=0)[correct[kept]] + noise[correct]
            found = np.cumsum(drawn[correct], axis=0)
            precision = found / np.maximum(shown, 1)  # 0 before the first image drawn
            gained = levels(found, np.maximum(positives[area], 1))
            gained[1:] -= gained[:-1].copy()
            envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
            result[area, threshold] = np.einsum("mr,mr->r", envelope, gained)
    result[np.broadcast_to(positives[:, None] == 0, result.shape)] = np.nan
    return result


def recall(
    curves: Curves, weights: NDArray[np.int32], limits: Sequence[tuple[int, int]]
) -> NDArray[np.float64]:
    """Share of the positives found, averaged over IoU thresholds: [limits, R]; NaN without positives."""
    positives = (curves.positives @ weights)[[area for area, _ in limits]]
    found = curves.found @ weights / curves.correct.shape[1]
    return np.where(positives > 0, found / np.maximum(positives, 1), np.nan)


def _count(rows: NDArray[np.int64], columns: NDArray[np.int64], shape: tuple[int, int]) -> csr_array:
    """How often each (row, column) occurs."""
    return csr_array((np.ones(len(rows), dtype=np.int32), (rows, columns)), shape=shape)


def _rows(values: NDArray[np.generic], images: NDArray[np.int64], n: int) -> csr_array:
    """Sums of values [k, items] by the items' image: [k, n]."""
    rows, items = np.nonzero(values)
    counts = values[rows, items].astype(np.int32)
    return csr_array((counts, (rows, images[items])), shape=(len(values), n))
