"""Greedy non-maximum suppression."""

import torch
from torch import Tensor

from adapters.detection.boxes import iou
from adapters.detection.torchvision_ops import operator

# Up to this many boxes, all classes are suppressed in one call; torchvision's limits. The work of a call
# grows with the square of the boxes, but on a GPU one call per class costs more: each waits for the previous.
SINGLE_CALL_LIMIT = {"cpu": 1000, "cuda": 5000}


def suppress_per_class(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Suppress as `suppress` does, but only between boxes of the same label."""
    if len(boxes) <= SINGLE_CALL_LIMIT.get(boxes.device.type, 0):
        return _single_call(boxes, scores, labels, threshold)
    kept_per_class = []
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        kept_per_class.append(members[suppress(boxes[members], scores[members], threshold)])
    kept = torch.cat(kept_per_class).sort().values  # by index, so that equal scores keep this order
    return kept[scores[kept].argsort(descending=True, stable=True)]


def _single_call(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Suppress within each label, by moving the boxes of each label apart.

    They move by whole pixels in float64, so coordinates stay exact.
    """
    if not len(boxes):
        return torch.empty(0, dtype=torch.int64, device=boxes.device)
    distance = (boxes.amax() - boxes.amin()).ceil().double() + 1
    return suppress(boxes.double() + (labels * distance)[:, None], scores.double(), threshold)


def suppress(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Return the indices of the boxes to keep, by descending score (ties: by index).

    A box is dropped if its IoU with a kept box of higher score exceeds the threshold. boxes: [n, 4],
    scores: [n]. torchvision's operator is used if installed, else `suppress_in_torch`; the results are equal.
    """
    compiled = operator("nms")
    if compiled is None:
        return suppress_in_torch(boxes, scores, threshold)
    return compiled(boxes, scores, threshold)


def suppress_in_torch(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Suppress as `suppress` does, with torch's own operations.

    keepⱼ = no i < j with keepᵢ and IoUᵢⱼ > threshold, iterated to its fixed point. The fixed point is unique
    and equals the result of the greedy loop (Cluster-NMS, Zheng et al. 2020 §3.3). The number of passes is
    the length of the longest chain of suppressions, not the number of boxes.
    """
    order = scores.argsort(descending=True, stable=True)
    ordered = boxes[order]
    over = (iou(ordered[:, None], ordered) > threshold).triu(diagonal=1)
    keep = torch.ones_like(order, dtype=torch.bool)
    while True:
        updated = ~(over & keep[:, None]).any(dim=0)
        if torch.equal(updated, keep):
            return order[keep]
        keep = updated
