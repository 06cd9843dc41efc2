"""Geometry of boxes (x1, y1, x2, y2)."""

from __future__ import annotations

import torch
from torch import Tensor


def area(boxes: Tensor) -> Tensor:
    """[…, 4] → […]."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes that broadcast: […, 4], […, 4] → […]; 0 where both are empty.

    All pairs of [n, 4] and [m, 4]: `iou(first[:, None], second)`, [n, m].
    """
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    sides = (high - low).clamp(min=0)
    intersection = sides[..., 0] * sides[..., 1]
    union = area(first) + area(second) - intersection
    return torch.where(intersection > 0, intersection / union, 0.0)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut to an image of (height, width): […, 4] → […, 4]."""
    height, width = size
    return torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))


def large_enough(boxes: Tensor, side: float) -> Tensor:
    """Whether both sides have at least so many px: […, 4] → […]."""
    return ((boxes[..., 2:] - boxes[..., :2]) >= side).all(dim=-1)
