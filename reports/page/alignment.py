"""Alignment heat maps: where each cell and token of attention weights is drawn, in px."""

from __future__ import annotations

from dataclasses import dataclass

from harness.analysis.record import ShownAlignment
from reports.text import display

CELL = 18
TOKEN = 16  # characters shown of a token
CHARACTER = 6.6  # px a character takes at the size of the labels (11 px, proportional face)
LEAST = 0.02  # a lighter cell would not be told from an empty one


@dataclass(frozen=True)
class HeatMap:
    """Source tokens along the top, target tokens down the left side."""

    width: float
    height: float
    left: float  # px before the first column
    top: float  # px above the first row
    source: tuple[str, ...]
    target: tuple[str, ...]
    cells: tuple[tuple[int, int, float], ...]  # column, row, weight 0–1


def heat_map(alignment: ShownAlignment) -> HeatMap:
    """Every weight that can be seen."""
    source, target = (
        [display(token, TOKEN) for token in each] for each in (alignment.source, alignment.target)
    )
    left, top = (12 + CHARACTER * max(map(len, each), default=0) for each in (target, source))
    cells = [
        (column, row, min(weight, 1.0))
        for row, weights in enumerate(alignment.weights)
        for column, weight in enumerate(weights)
        if weight >= LEAST
    ]
    # The last label leans out to the right by half of what it rises.
    width = left + CELL * len(source) + 0.6 * top
    return HeatMap(width, top + CELL * len(target), left, top, tuple(source), tuple(target), tuple(cells))
