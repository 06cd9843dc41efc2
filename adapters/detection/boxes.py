"""Geometry of boxes (x1, y1, x2, y2)."""

import torch
from torch import Tensor


def area(boxes: Tensor) -> Tensor:
    """Return the areas of boxes: […, 4] → […]."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Return the intersection over union of broadcast boxes: […, 4], […, 4] → […]; 0 if both are empty.

    For all pairs of [n, 4] and [m, 4], use `iou(first[:, None], second)`: [n, m].
    """
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    sides = (high - low).clamp(min=0)
    intersection = sides[..., 0] * sides[..., 1]
    union = area(first) + area(second) - intersection
    return torch.where(intersection > 0, intersection / union, 0.0)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Clip boxes to an image of size (height, width): […, 4] → […, 4]."""
    height, width = size
    return torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))


def large_enough(boxes: Tensor, min_side: float) -> Tensor:
    """Return whether both sides of each box have at least `min_side` px: […, 4] → […]."""
    return ((boxes[..., 2:] - boxes[..., :2]) >= min_side).all(dim=-1)
