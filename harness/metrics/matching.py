"""Matching of the detections of an image with its annotations, by the rules of COCO and of the VOC devkit."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle

from harness.errors import UsageError
from harness.metrics.metric import StoredArrays
from harness.task import Annotations, Detections

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)  # COCO's ten, equal to the bit (pycocotools' Params)
MAX_DETECTIONS = 100  # per class and image, the largest limit in pycocotools' Params


@dataclass(frozen=True, eq=False)
class Matches:
    """The matches of one image: all that average precision and recall need to know of it.

    Detections are ordered by class, then by descending score; ties keep the order in which the model
    reported them. d = detections, m = matched detections, p = annotations, A = area ranges, T = IoU
    thresholds.
    """

    scores: NDArray[np.float64]  # [d]
    labels: NDArray[np.int32]  # [d]
    counted: NDArray[np.bool_]  # [d, A], a false positive of the range unless matched
    matched: NDArray[np.int32]  # [m], indices of the detections that match an annotation at any threshold
    ranks: NDArray[np.int32]  # [m], rank among the image's detections of the class, from 0
    correct: NDArray[np.bool_]  # [m, A, T], matched to an annotation that counts
    absorbed: NDArray[np.bool_]  # [m, A, T], matched to an ignored annotation: neither right nor wrong
    positives: NDArray[np.int32]  # [p], labels of the annotations
    positive: NDArray[np.bool_]  # [p, A], the annotation counts in the range


def join_matches(images: Sequence[Matches]) -> StoredArrays:
    """Concatenate the images' arrays; `NAME_ends` has the end of each image's part of NAME."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for name in (field.name for field in fields(Matches)):
        parts = [getattr(image, name) for image in images]
        arrays[name] = np.concatenate(parts)
        arrays[f"{name}_ends"] = np.cumsum([len(part) for part in parts])
    return arrays


def split_matches(arrays: StoredArrays) -> list[Matches]:
    """Return the images' matches from the arrays of `join_matches`."""
    names = [field.name for field in fields(Matches)]
    parts = [np.split(arrays[name], arrays[f"{name}_ends"][:-1]) for name in names]
    return [Matches(*image) for image in zip(*parts, strict=True)]


def match_coco(
    target: Annotations, detections: Detections, ranges: NDArray[np.float64], masks: bool = False
) -> Matches:
    """Match greedily at ten IoU thresholds within each area range, as COCO does (pycocotools' evaluateImg).

    In descending order of score, a detection takes the free annotation of its class with the highest IoU; of
    equal IoUs, the later one. Only if no free annotation counts does it take an ignored one: a crowd, one
    that is `difficult`, or one whose area is outside the range. A crowd stays free however often it is taken.
    Only the MAX_DETECTIONS highest scores of each class take part.

    Args:
        ranges: [A, 2], closed ranges in px², applied to an annotation's `areas` and a detection's area.
        masks: compare instance masks in place of boxes.
    """
    order, ranks = rank_detections(detections)
    order, ranks = order[ranks < MAX_DETECTIONS], ranks[ranks < MAX_DETECTIONS]
    ignored = (target.crowd | target.difficult)[:, None] | ~_within(target.areas, ranges)  # [g, A]
    if masks:
        overlap, areas = _measure_masks(target, detections, order)
    else:
        boxes = detections.boxes[order].astype(np.float64)
        same_class = detections.labels[order][:, None] == target.labels
        overlap, areas = box_iou(boxes, target.boxes, target.crowd) * same_class, _areas(boxes)
    matched = np.flatnonzero(overlap.max(axis=1, initial=0.0) >= IOU_THRESHOLDS[0])

    free = np.ones((len(target.boxes), len(ranges), len(IOU_THRESHOLDS)), dtype=bool)
    correct = np.zeros((len(matched), *free.shape[1:]), dtype=bool)
    absorbed = np.zeros_like(correct)
    for row, detection in enumerate(matched):
        unmatched = np.ones(free.shape[1:], dtype=bool)  # [A, T]
        near = np.flatnonzero(overlap[detection] >= IOU_THRESHOLDS[0])
        if len(near) > 1:  # best first; of equal IoUs the later, hence reversed before the stable sort
            near = near[::-1][np.argsort(-overlap[detection, near[::-1]], kind="stable")]
        for outcome, only_ignored in ((correct, False), (absorbed, True)):
            for annotation in near:
                reached = overlap[detection, annotation] >= IOU_THRESHOLDS
                eligible = (ignored[annotation] == only_ignored)[:, None]
                taken = unmatched & free[annotation] & reached & eligible
                outcome[row] |= taken
                unmatched ^= taken
                if not target.crowd[annotation]:
                    free[annotation] ^= taken
    return Matches(
        scores=detections.scores[order].astype(np.float64),
        labels=detections.labels[order].astype(np.int32),
        counted=_within(areas, ranges),
        matched=matched.astype(np.int32),
        ranks=ranks[matched].astype(np.int32),
        correct=correct,
        absorbed=absorbed,
        positives=target.labels.astype(np.int32),
        positive=~ignored,
    )


def _measure_masks(
    target: Annotations, detections: Detections, order: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the IoU of d masks, in the given order, with g of the same class, 0 with others, and d areas."""
    if not target.masks or not detections.masks or target.masks.size != detections.masks.size:
        raise UsageError("segm needs annotations and detections with masks of one size")
    labels = detections.labels[order]
    overlap = np.zeros((len(order), len(target.labels)))
    for label in np.intersect1d(labels, target.labels):
        rows, columns = np.flatnonzero(labels == label), np.flatnonzero(target.labels == label)
        detected, annotated = detections.masks.encoded(order[rows]), target.masks.encoded(columns)
        overlap[np.ix_(rows, columns)] = rle.iou(detected, annotated, target.crowd[columns])
    masks = detections.masks.encoded(order)  # pycocotools' `area` takes at most 255 at a time
    areas = [rle.area(masks[start : start + 255]) for start in range(0, len(masks), 255)]
    return overlap, np.concatenate([np.zeros(0), *areas])


def match_voc(target: Annotations, detections: Detections, threshold: float) -> Matches:
    """Match as the VOC devkit does (VOCevaldet.m): one area range and one threshold, A = T = 1.

    In descending order of score, a detection is compared only with the annotation of its class that it
    overlaps most (of equal overlaps, the earlier one). If the IoU reaches the threshold, the detection is
    correct when the annotation is free, a false positive when it is taken, and neither when it is difficult.
    """
    order, ranks = rank_detections(detections)
    labels = detections.labels[order]
    ignored = target.crowd | target.difficult
    overlap = box_iou(detections.boxes[order].astype(np.float64), target.boxes, np.zeros_like(target.crowd))
    overlap *= labels[:, None] == target.labels
    matched, correct = [], []
    taken = np.zeros(len(target.boxes), dtype=bool)
    for detection in np.flatnonzero(overlap.max(axis=1, initial=0.0) >= threshold):
        annotation = overlap[detection].argmax()
        if ignored[annotation] or not taken[annotation]:
            matched.append(detection)
            correct.append(not ignored[annotation])
            taken[annotation] = True
    hits = np.array(correct, dtype=bool).reshape(-1, 1, 1)
    rows = np.array(matched, dtype=np.int32)
    return Matches(
        scores=detections.scores[order].astype(np.float64),
        labels=labels.astype(np.int32),
        counted=np.ones((len(order), 1), dtype=bool),
        matched=rows,
        ranks=ranks[rows].astype(np.int32),
        correct=hits,
        absorbed=~hits,
        positives=target.labels.astype(np.int32),
        positive=~ignored[:, None],
    )


def box_iou(
    boxes: NDArray[np.float64], others: NDArray[np.float64], crowd: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return intersection over union [n, m], 0–1, of boxes [n, 4] and others [m, 4] (x1, y1, x2, y2).

    For others that are a crowd [m], the intersection is divided by the area of the box alone (pycocotools).
    VOC's inclusive pixels (x1 − 1 and x2 of its files) give the devkit's value, whose sides have a `+1`.
    """
    corner = np.maximum(boxes[:, None, :2], others[None, :, :2])
    sides = np.minimum(boxes[:, None, 2:], others[None, :, 2:]) - corner
    intersection = np.where((sides > 0).all(axis=2), sides[..., 0] * sides[..., 1], 0.0)
    areas = _areas(boxes)[:, None]
    union = np.where(crowd, areas, areas + _areas(others) - intersection)
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)


def _areas(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    # Files give x and w. Rounding recovers w from (x + w) − x, so an area on the limit of a range stays on
    # it.
    sides = np.round(boxes[:, 2:] - boxes[:, :2], 9)
    return sides[:, 0] * sides[:, 1]


def _within(areas: NDArray[np.float64], ranges: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return whether each area [n] is in each closed range [A, 2]: [n, A]."""
    return (areas[:, None] >= ranges[:, 0]) & (areas[:, None] <= ranges[:, 1])


def rank_detections(detections: Detections) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sort by class and descending score. Detections with equal scores keep their order.

    Return the detections' indices in that order [d], and the rank of each within its class, from 0 [d].
    """
    order = np.lexsort((-detections.scores, detections.labels))
    labels = detections.labels[order]
    positions = np.arange(len(order))
    starts = np.flatnonzero(np.diff(labels, prepend=labels[:1] - 1)) if len(order) else positions
    return order, positions - np.repeat(starts, np.diff(np.append(starts, len(order))))
