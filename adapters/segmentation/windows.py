"""Sliding windows: a large image's class map from scores of overlapping parts, a band in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Grid:
    """Windows of one size over an image: every pair of a top and a left edge, px."""

    height: int  # of a window
    width: int
    tops: tuple[int, ...]  # ascending; the last window ends where the image ends
    lefts: tuple[int, ...]

    @property
    def covered(self) -> tuple[int, int]:
        """Height and width of the image, px."""
        return self.tops[-1] + self.height, self.lefts[-1] + self.width

    def __iter__(self) -> Iterator[tuple[slice, slice]]:
        """Rows and columns of each window, row by row."""
        for top in self.tops:
            for left in self.lefts:
                yield slice(top, top + self.height), slice(left, left + self.width)

    def __len__(self) -> int:
        return len(self.tops) * len(self.lefts)


def lay(height: int, width: int, side: int | None, overlap: float) -> Grid:
    """Windows of `side` px that cover the image; one of the image's size where it is no larger, or no side.

    Neighbours share at least the fraction `overlap` of a side: the fewest windows that do, evenly spread.
    """
    high, wide = min(side or height, height), min(side or width, width)
    return Grid(high, wide, _starts(height, high, overlap), _starts(width, wide, overlap))


def _starts(length: int, side: int, overlap: float) -> tuple[int, ...]:
    step = max(1, int(side * (1 - overlap)))
    count = -(-(length - side) // step)  # steps from the first window to the last
    return (0, *((length - side) * k // count for k in range(1, count + 1)))


def class_map(grid: Grid, scores: Iterator[Tensor]) -> Tensor:
    """Classes of the highest mean score: [N, H, W], uint8.

    Args:
        scores: of one window after another in the grid's order, [N, C, h, w].

    Only sums of one row of windows are kept: pixels that no later row covers are decided at once. Sums
    stand for means, since a pixel's highest class is the same in both.
    """
    if len(grid) == 1:
        return next(scores).argmax(dim=1).byte()
    height, width = grid.covered
    first = next(scores)
    classes = torch.empty(len(first), height, width, dtype=torch.uint8, device=first.device)
    sums = torch.zeros(*first.shape[:2], grid.height, width, device=first.device)  # of the row
    scores = chain([first], scores)
    del first
    for top, end in zip(grid.tops, [*grid.tops[1:], height], strict=True):
        for left in grid.lefts:
            sums[..., left : left + grid.width] += next(scores)
        classes[:, top:end] = sums[:, :, : end - top].argmax(dim=1)
        sums = nn.functional.pad(sums[:, :, end - top :], (0, 0, 0, end - top))
    return classes
