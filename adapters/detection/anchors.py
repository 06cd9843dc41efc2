"""Anchors: reference boxes of several sizes and shapes, centred on every cell of a feature map.

Ren et al. 2015, "Faster R-CNN", §3.1.1; one size a map where maps form a pyramid (Lin et al. 2017, "Feature
Pyramid Networks", §4.1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def shapes(sizes: Sequence[float], aspects: Sequence[float]) -> Tensor:
    """Boxes around the origin: [aspects · sizes, 4], aspect by aspect.

    An anchor of size s and aspect a (height / width) has the area s². Corners are rounded to whole pixels,
    ties to even, as the published weights expect.
    """
    heights = torch.tensor(aspects).sqrt()
    high = (heights[:, None] * torch.tensor(sizes)).flatten()
    wide = ((1 / heights)[:, None] * torch.tensor(sizes)).flatten()
    return (torch.stack([-wide, -high, wide, high], dim=1) / 2).round()


def spread(around: Tensor, height: int, width: int, strides: tuple[int, int]) -> Tensor:
    """Put the shapes [A, 4] at every cell of a map [height, width]: [height · width · A, 4], row by row.

    Args:
        strides: px of the image between two cells, (vertical, horizontal). The first cell's anchors are
            centred on the image's corner, as in torchvision.
    """
    rows = torch.arange(height, device=around.device) * strides[0]
    columns = torch.arange(width, device=around.device) * strides[1]
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    centres = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
    return (centres + around).reshape(-1, 4)
