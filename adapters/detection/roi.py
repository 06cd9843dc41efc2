"""Pooling of regions of interest of any size to grids of one size: RoI pooling and its successor, RoIAlign.

Both take features [N, C, H, W], regions [R, 4] (corners in px of the input) and the index of each region's
image, [R]; `scale` is the number of feature cells per pixel. Both return [R, C, size, size]. They use
torchvision's operators if installed, else torch's own operations, with equal results. They compute in the
type of the regions, because bfloat16 cannot represent positions one pixel apart from 256 px on.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from adapters.detection.torchvision_ops import operator

# Bilinear samples per side of each bin; He et al. 2017 ("Mask R-CNN") §3: four points, number not critical.
SAMPLING_RATIO = 2
CHUNK = 128  # regions that torch's own operations process at once, which bounds memory

RoiFunction = Callable[[Tensor, Tensor, Tensor, int, float], Tensor]


def pool(features: Tensor, regions: Tensor, image_indices: Tensor, size: int, scale: float) -> Tensor:
    """Apply RoI pooling (Girshick 2015, "Fast R-CNN", §2.1).

    The window is cut into size × size bins. Each bin gives the maximum per channel, or 0 if it is outside the
    map.
    """
    features = features.to(regions.dtype)
    if operator("roi_pool") is None:
        return _in_chunks(pool_in_torch, features, regions, image_indices, size, scale)
    pooled: Tensor = _Pool.apply(features, _rows(regions, image_indices), size, scale)
    return pooled


def align(features: Tensor, regions: Tensor, image_indices: Tensor, size: int, scale: float) -> Tensor:
    """Apply RoIAlign (He et al. 2017 §3): no rounding; a bin is the mean of SAMPLING_RATIO² bilinear samples.

    It has no half-pixel shift, unlike later versions (torchvision's `aligned=False`).
    """
    features = features.to(regions.dtype)
    if operator("roi_align") is None:
        return _in_chunks(align_in_torch, features, regions, image_indices, size, scale)
    aligned: Tensor = _Align.apply(features, _rows(regions, image_indices), size, scale)
    return aligned


class _Context(Protocol):
    """The context of an autograd function between its forward and backward pass."""

    saved_tensors: tuple[Tensor, ...]
    settings: tuple[float | bool, ...]

    def save_for_backward(self, *tensors: Tensor) -> None: ...


class _Pool(torch.autograd.Function):
    """The compiled operator with its gradient.

    torchvision (0.29) registers the gradient only when its package is imported; without it, no gradient
    reaches the features.
    """

    @staticmethod
    def forward(ctx: _Context, features: Tensor, rows: Tensor, size: int, scale: float) -> Tensor:
        pooled: Tensor
        pooled, largest = torch.ops.torchvision.roi_pool(features, rows, scale, size, size)
        ctx.save_for_backward(rows, largest)
        ctx.settings = (scale, size, size, *features.shape)
        return pooled

    @staticmethod
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        rows, largest = ctx.saved_tensors
        backward = torch.ops.torchvision._roi_pool_backward
        return backward(gradient, rows, largest, *ctx.settings), None, None, None


class _Align(torch.autograd.Function):
    """The compiled operator with its gradient, as `_Pool`."""

    @staticmethod
    def forward(ctx: _Context, features: Tensor, rows: Tensor, size: int, scale: float) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.settings = (scale, size, size, *features.shape, SAMPLING_RATIO, False)
        forward = torch.ops.torchvision.roi_align
        aligned: Tensor = forward(features, rows, scale, size, size, SAMPLING_RATIO, False)
        return aligned

    @staticmethod
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (rows,) = ctx.saved_tensors
        return torch.ops.torchvision._roi_align_backward(gradient, rows, *ctx.settings), None, None, None


def pool_in_torch(
    features: Tensor, regions: Tensor, image_indices: Tensor, size: int, scale: float
) -> Tensor:
    """Compute `pool` with torch's own operations.

    The corners of a window are rounded, halves away from zero; both corners belong to the window, which is at
    least 1×1. Bin i of a window of length n is [⌊i·n / size⌋, ⌈(i + 1)·n / size⌉) from its start, clipped to
    the map.
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
    rows = _range_maximum(features.movedim(2, 0), first[..., 1], last[..., 1], image_indices)
    region_indices = torch.arange(len(regions), device=regions.device)
    # rows: [R, size, C, W]; pooled: [R, bins in x, bins in y, C]
    pooled = _range_maximum(rows.movedim(3, 0), first[..., 0], last[..., 0], region_indices)
    return pooled.movedim((3, 2), (1, 2))


def _range_maximum(values: Tensor, first: Tensor, last: Tensor, indices: Tensor) -> Tensor:
    """Return maxima over ranges [first, last) of the first axis; 0 for an empty range.

    values [L, N, …], first and last [R, B], indices [R] into the second axis → [R, B, …]. The maxima of all
    runs of length 1, 2, 4 … are computed once; two of them cover any range.
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
    index = indices[:, None].expand_as(first)
    left = table[level, first.clamp(max=length - 1), index]
    right = table[level, (last - 2**level).clamp(0, length - 1), index]
    empty = (count <= 0).reshape(*count.shape, *[1] * (left.ndim - 2))
    return torch.maximum(left, right).masked_fill(empty, 0.0)


def align_in_torch(
    features: Tensor, regions: Tensor, image_indices: Tensor, size: int, scale: float
) -> Tensor:
    """Compute `align` with torch's own operations: each sample is a weighted sum of four cells."""
    low, high = regions[:, :2] * scale, regions[:, 2:] * scale
    step = (high - low).clamp(min=1) / size  # a region is at least one cell wide
    vertical = _neighbours(low[:, 1], step[:, 1], size, features.shape[2])
    horizontal = _neighbours(low[:, 0], step[:, 0], size, features.shape[3])
    by_position = features.permute(0, 2, 3, 1)
    samples = features.new_zeros(())  # [R, size · SAMPLING_RATIO, size · SAMPLING_RATIO, C]
    for rows, row_weights in vertical:
        for columns, column_weights in horizontal:
            cells = by_position[image_indices[:, None, None], rows[:, :, None], columns[:, None]]
            samples = samples + cells * (row_weights[:, :, None] * column_weights[:, None])[..., None]
    bins = samples.reshape(len(regions), size, SAMPLING_RATIO, size, SAMPLING_RATIO, samples.shape[-1])
    return bins.mean(dim=(2, 4)).permute(0, 3, 1, 2)


def _neighbours(low: Tensor, step: Tensor, size: int, length: int) -> list[tuple[Tensor, Tensor]]:
    """Return the cells before and after each sample along an axis, and their weights.

    All are [R, size · SAMPLING_RATIO].
    """
    offsets = (torch.arange(size * SAMPLING_RATIO, device=low.device) + 0.5) / SAMPLING_RATIO
    points = low[:, None] + offsets * step[:, None]
    inside = (points >= -1) & (points <= length)  # samples farther out count as 0
    points = points.clamp(0, length - 1)
    before = points.floor().long()
    weight = points - before
    return [(before, (1 - weight) * inside), ((before + 1).clamp(max=length - 1), weight * inside)]


def _in_chunks(
    function: RoiFunction, features: Tensor, regions: Tensor, image_indices: Tensor, size: int, scale: float
) -> Tensor:
    chunks = zip(regions.split(CHUNK), image_indices.split(CHUNK), strict=True)
    return torch.cat([function(features, *chunk, size, scale) for chunk in chunks])


def _rows(regions: Tensor, image_indices: Tensor) -> Tensor:
    """Return [R, 5]: the index of the image, then the corners, as torchvision's operators take regions."""
    return torch.cat([image_indices[:, None].to(regions), regions], dim=1)
