"""Anchors: reference boxes of several sizes and aspect ratios, centred on every cell of a feature map.

Ren et al. 2015, "Faster R-CNN", §3.1.1; one size per map if the maps form a pyramid (Lin et al. 2017,
"Feature Pyramid Networks", §4.1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def cell_anchors(sizes: Sequence[float], aspect_ratios: Sequence[float]) -> Tensor:
    """Return anchors centred on the origin, ordered by aspect ratio, then size: [aspect ratios · sizes, 4].

    An anchor of size s has area s². Its aspect ratio is height / width. Corners are rounded to whole pixels,
    ties to even, as the published weights expect.
    """
    height_factors = torch.tensor(aspect_ratios).sqrt()
    heights = (height_factors[:, None] * torch.tensor(sizes)).flatten()
    widths = ((1 / height_factors)[:, None] * torch.tensor(sizes)).flatten()
    return (torch.stack([-widths, -heights, widths, heights], dim=1) / 2).round()


def grid_anchors(around: Tensor, height: int, width: int, strides: tuple[int, int]) -> Tensor:
    """Place the anchors [A, 4] at every cell of a map [height, width]: [height · width · A, 4], row by row.

    Args:
        strides: image pixels between neighbouring cells, (vertical, horizontal). The first cell's anchors are
            centred on the image's corner, as in torchvision.
    """
    rows = torch.arange(height, device=around.device) * strides[0]
    columns = torch.arange(width, device=around.device) * strides[1]
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    centres = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
    return (centres + around).reshape(-1, 4)
