"""Regions of interest of any size → grids of one size: RoI pooling and its successor, RoIAlign.

Both take features [N, C, H, W], regions [R, 4] (corners in px of the image) and, for each region, the
image that it is in, [R]; `scale` is features a pixel. Both give [R, C, size, size]. They are computed by
torchvision's operators where these are installed, else here, with equal results, and in the type of the
regions: bfloat16 cannot tell places that are a pixel apart from 256 px on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from adapters.detection.torchvision_ops import operator

SAMPLES = 2  # a side of each bin, He et al. 2017 ("Mask R-CNN") §3: four points, exact number not critical
AT_ONCE = 128  # regions that tensor operations compute together, which bounds memory


def pool(features: Tensor, regions: Tensor, images: Tensor, size: int, scale: float) -> Tensor:
    """RoI pooling (Girshick 2015, "Fast R-CNN", §2.1): the window is cut into size × size bins, each gives
    the maximum of every channel by itself; 0 where a bin is outside the map."""
    features = features.to(regions.dtype)
    if operator("roi_pool") is None:
        return _in_parts(pool_here, features, regions, images, size, scale)
    pooled: Tensor = _Pool.apply(features, _rows(regions, images), size, scale)
    return pooled


def align(features: Tensor, regions: Tensor, images: Tensor, size: int, scale: float) -> Tensor:
    """RoIAlign (He et al. 2017 §3): no rounding; a bin is the mean of SAMPLES² bilinear samples.

    Without the half-pixel shift of later versions (torchvision's `aligned=False`).
    """
    features = features.to(regions.dtype)
    if operator("roi_align") is None:
        return _in_parts(align_here, features, regions, images, size, scale)
    aligned: Tensor = _Align.apply(features, _rows(regions, images), size, scale)
    return aligned


class _Pool(torch.autograd.Function):
    """The compiled operator with its gradient, which torchvision (0.29) ties to it only when the
    package is imported: without it, none reaches the features."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, rows: Tensor, size: int, scale: float) -> Tensor:
        pooled: Tensor
        pooled, largest = torch.ops.torchvision.roi_pool(features, rows, scale, size, size)
        ctx.save_for_backward(rows, largest)
        ctx.settings = (scale, size, size, *features.shape)
        return pooled

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        rows, largest = ctx.saved_tensors
        return (
            torch.ops.torchvision._roi_pool_backward(gradient, rows, largest, *ctx.settings),
            None,
            None,
            None,
        )


class _Align(torch.autograd.Function):
    """As `_Pool`."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, rows: Tensor, size: int, scale: float) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.settings = (scale, size, size, *features.shape, SAMPLES, False)
        aligned: Tensor = torch.ops.torchvision.roi_align(features, rows, scale, size, size, SAMPLES, False)
        return aligned

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (rows,) = ctx.saved_tensors
        return torch.ops.torchvision._roi_align_backward(gradient, rows, *ctx.settings), None, None, None


def pool_here(features: Tensor, regions: Tensor, images: Tensor, size: int, scale: float) -> Tensor:
    """`pool` in tensor operations.

    A window's corners are rounded, halves away from zero, both ends belong to it, and it is at least 1×1;
    bin i of a window of length n is [⌊i·n / size⌋, ⌈(i + 1)·n / size⌉) from its start, cut to the map.
    """
    height, width = features.shape[2:]
    scaled = regions * scale
    corners = (scaled.abs() + 0.5).floor() * scaled.sign()
    start, stop = corners[:, :2], corners[:, 2:]
    length = (stop - start + 1).clamp(min=1)
    steps = torch.arange(size + 1, device=regions.device)
    edges = steps[:, None] * (length / size)[:, None]  # [R, size + 1, 2], in float32 as the operators
    first = (edges[:, :-1].floor() + start[:, None]).long()
    last = (edges[:, 1:].ceil() + start[:, None]).long()
    limit = torch.tensor([width, height], device=regions.device)
    first, last = first.clamp(min=0).minimum(limit), last.clamp(min=0).minimum(limit)
    rows = _range_maximum(features.movedim(2, 0), first[..., 1], last[..., 1], images)  # [R, size, C, W]
    own = torch.arange(len(regions), device=regions.device)
    found = _range_maximum(rows.movedim(3, 0), first[..., 0], last[..., 0], own)  # [R, bins x, bins y, C]
    return found.movedim((3, 2), (1, 2))


def _range_maximum(values: Tensor, first: Tensor, last: Tensor, owners: Tensor) -> Tensor:
    """Maxima over ranges of the first axis: values [L, N, …], first and last [R, B], owners [R] in 0…N−1
    → [R, B, …]; 0 for an empty range.

    Maxima of all runs of 1, 2, 4 … places are made once; any range is covered by two of them.
    """
    length = len(values)
    tables = [values]
    while 2 ** len(tables) <= length:
        shorter, step = tables[-1], 2 ** (len(tables) - 1)
        longer = torch.maximum(shorter[:-step], shorter[step:])
        tables.append(torch.cat([longer, shorter[-step:]]))  # keeps the length; the tail is not used
    table = torch.stack(tables)
    count = last - first
    level = count.clamp(min=1).float().log2().floor().long()
    owner = owners[:, None].expand_as(first)
    left = table[level, first.clamp(max=length - 1), owner]
    right = table[level, (last - 2**level).clamp(0, length - 1), owner]
    empty = (count <= 0).reshape(*count.shape, *[1] * (left.ndim - 2))
    return torch.maximum(left, right).masked_fill(empty, 0.0)


def align_here(features: Tensor, regions: Tensor, images: Tensor, size: int, scale: float) -> Tensor:
    """`align` in tensor operations: each sample is a sum of the four features around it."""
    low, high = regions[:, :2] * scale, regions[:, 2:] * scale
    step = (high - low).clamp(min=1) / size  # a region is at least one feature wide
    down = _neighbours(low[:, 1], step[:, 1], size, features.shape[2])
    right = _neighbours(low[:, 0], step[:, 0], size, features.shape[3])
    by_place = features.permute(0, 2, 3, 1)
    samples = features.new_zeros(())  # [R, size · SAMPLES, size · SAMPLES, C]
    for rows, above in down:
        for columns, beside in right:
            seen = by_place[images[:, None, None], rows[:, :, None], columns[:, None]]
            samples = samples + seen * (above[:, :, None] * beside[:, None])[..., None]
    bins = samples.unflatten(2, (size, SAMPLES)).unflatten(1, (size, SAMPLES)).mean(dim=(2, 4))
    return bins.permute(0, 3, 1, 2)


def _neighbours(low: Tensor, step: Tensor, size: int, length: int) -> list[tuple[Tensor, Tensor]]:
    """For the samples of regions along an axis, [R, size · SAMPLES], the places before and after them and
    these places' weights."""
    offsets = (torch.arange(size * SAMPLES, device=low.device) + 0.5) / SAMPLES
    points = low[:, None] + offsets * step[:, None]
    inside = (points >= -1) & (points <= length)  # samples further out count as 0
    points = points.clamp(0, length - 1)
    before = points.floor().long()
    share = points - before
    return [(before, (1 - share) * inside), ((before + 1).clamp(max=length - 1), share * inside)]


def _in_parts(
    function: Callable[..., Tensor],
    features: Tensor,
    regions: Tensor,
    images: Tensor,
    size: int,
    scale: float,
) -> Tensor:
    parts = zip(regions.split(AT_ONCE), images.split(AT_ONCE), strict=True)
    return torch.cat([function(features, own, of, size, scale) for own, of in parts])


def _rows(regions: Tensor, images: Tensor) -> Tensor:
    return torch.cat([images[:, None].to(regions), regions], dim=1)
