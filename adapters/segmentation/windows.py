"""Sliding windows: the class map of a large image from the scores of overlapping windows, row by row."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class WindowGrid:
    """Windows of one size that cover an image. Each top edge (in px) is combined with each left edge."""

    height: int  # of a window
    width: int
    tops: tuple[int, ...]  # ascending; the last window ends where the image ends
    lefts: tuple[int, ...]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the image in px."""
        return self.tops[-1] + self.height, self.lefts[-1] + self.width

    def __iter__(self) -> Iterator[tuple[slice, slice]]:
        """Iterate over the rows and columns of each window, row by row."""
        for top in self.tops:
            for left in self.lefts:
                yield slice(top, top + self.height), slice(left, left + self.width)

    def __len__(self) -> int:
        return len(self.tops) * len(self.lefts)


def window_grid(height: int, width: int, side: int | None, overlap: float) -> WindowGrid:
    """Cover an image with the fewest windows of `side` px, evenly spread.

    Neighbouring windows share at least the fraction `overlap` of a side. Along an axis no longer than `side`,
    or if `side` is None, windows have the size of the image.
    """
    window_height, window_width = min(side or height, height), min(side or width, width)
    return WindowGrid(
        window_height,
        window_width,
        _starts(height, window_height, overlap),
        _starts(width, window_width, overlap),
    )


def _starts(length: int, side: int, overlap: float) -> tuple[int, ...]:
    """Return the first pixel of each window along one axis."""
    largest_step = max(1, int(side * (1 - overlap)))
    steps = -(-(length - side) // largest_step)
    return (0, *((length - side) * k // steps for k in range(1, steps + 1)))


def class_map(grid: WindowGrid, scores: Iterator[Tensor]) -> Tensor:
    """Return the class of the highest mean score at each pixel: [N, H, W], uint8.

    Only the score sums of one row of windows are in memory: the classes of pixels that no later row covers
    are decided at once. Sums replace means, because the class with the highest sum is the same. The scores
    are [N, C, h, w] per window, in the order of the grid.
    """
    if len(grid) == 1:
        return next(scores).argmax(dim=1).byte()
    height, width = grid.image_size
    first = next(scores)
    classes = torch.empty(len(first), height, width, dtype=torch.uint8, device=first.device)
    sums = torch.zeros(*first.shape[:2], grid.height, width, device=first.device)  # of one row of windows
    scores = chain([first], scores)
    del first
    for top, next_top in zip(grid.tops, [*grid.tops[1:], height], strict=True):
        for left in grid.lefts:
            sums[..., left : left + grid.width] += next(scores)
        classes[:, top:next_top] = sums[:, :, : next_top - top].argmax(dim=1)
        sums = nn.functional.pad(sums[:, :, next_top - top :], (0, 0, 0, next_top - top))
    return classes
