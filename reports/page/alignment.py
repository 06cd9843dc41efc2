"""Heat maps of attention weights: the positions of cells and tokens, in px."""

from __future__ import annotations

from dataclasses import dataclass

from harness.analysis.record import ShownAlignment
from reports.text import display

CELL = 18  # px
TOKEN = 16  # characters of a token that are shown
CHARACTER = 6.6  # px per character of a label (11 px, proportional font)
LEAST_WEIGHT = 0.02  # a lighter cell looks empty


@dataclass(frozen=True)
class HeatMap:
    """A heat map with source tokens along the top and target tokens down the left side."""

    width: float
    height: float
    left: float  # px before the first column
    top: float  # px above the first row
    source: tuple[str, ...]
    target: tuple[str, ...]
    cells: tuple[tuple[int, int, float], ...]  # column, row, weight 0–1


def heat_map(alignment: ShownAlignment) -> HeatMap:
    """Lay out every visible weight."""
    source, target = (
        [display(token, TOKEN) for token in tokens] for tokens in (alignment.source, alignment.target)
    )
    left, top = (12 + CHARACTER * max(map(len, tokens), default=0) for tokens in (target, source))
    cells = [
        (column, row, min(weight, 1.0))
        for row, weights in enumerate(alignment.weights)
        for column, weight in enumerate(weights)
        if weight >= LEAST_WEIGHT
    ]
    # The last label is slanted: it extends to the right by about half its height.
    width = left + CELL * len(source) + 0.6 * top
    return HeatMap(width, top + CELL * len(target), left, top, tuple(source), tuple(target), tuple(cells))
