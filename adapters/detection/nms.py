"""Greedy non-maximum suppression."""

from __future__ import annotations

import torch
from torch import Tensor

from adapters.detection.boxes import iou
from adapters.detection.torchvision_ops import operator

# Up to so many boxes, all classes are suppressed in one call; torchvision's limits. A call's work grows with
# the square of the boxes, but on a GPU a call a class costs more: each waits for the one before.
TOGETHER = {"cpu": 1000, "cuda": 5000}


def suppress_per_class(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """`suppress` in which boxes of different labels never suppress each other."""
    if len(boxes) <= TOGETHER.get(boxes.device.type, 0):
        return _together(boxes, scores, labels, threshold)
    kept = []
    for label in labels.unique():
        own = (labels == label).nonzero()[:, 0]
        kept.append(own[suppress(boxes[own], scores[own], threshold)])
    found = torch.cat(kept).sort().values  # by index, so that ties of the score keep this order
    return found[scores[found].argsort(descending=True, stable=True)]


def _together(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Each label's boxes are moved to a place of their own, by whole px in float64: no digit is lost."""
    if not len(boxes):
        return torch.empty(0, dtype=torch.int64, device=boxes.device)
    apart = (boxes.amax() - boxes.amin()).ceil().double() + 1
    return suppress(boxes.double() + (labels * apart)[:, None], scores.double(), threshold)


def suppress(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Indices of the boxes kept, by descending score (ties: by index).

    A box is dropped if its IoU with a kept box of higher score is over the threshold. boxes: [n, 4],
    scores: [n]. Computed by torchvision where it is installed, else by `suppress_here`; equal results.
    """
    compiled = operator("nms")
    if compiled is None:
        return suppress_here(boxes, scores, threshold)
    kept: Tensor = compiled(boxes, scores, threshold)
    return kept


def suppress_here(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """The same in tensor operations.

    keepⱼ = no i < j with keepᵢ and IoUᵢⱼ > threshold, iterated to its fixed point, which is unique and
    what the greedy loop gives (Cluster-NMS, Zheng et al. 2020 §3.3): passes as many as the longest chain
    of suppressions, not as boxes.
    """
    order = scores.argsort(descending=True, stable=True)
    ordered = boxes[order]
    over = (iou(ordered[:, None], ordered) > threshold).triu(diagonal=1)
    keep = torch.ones_like(order, dtype=torch.bool)
    while True:
        kept = ~(over & keep[:, None]).any(dim=0)
        if torch.equal(kept, keep):
            return order[keep]
        keep = kept
