"""Matrices as the page shows them: confusion by class, and heat maps of attention weights."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.analysis.record import ShownAlignment
from reports.text import display

READABLE_CLASSES = 24  # with more, the page lists the largest confusions in place of a matrix
LARGEST = 20  # confusions listed
CELL = 18  # px
TOKEN = 16  # characters of a token that are shown
CHARACTER = 6.6  # px per character of a label (11 px, proportional font)
LEAST_WEIGHT = 0.02  # a lighter cell looks empty


@dataclass(frozen=True)
class Cell:
    """The number of predictions of one annotated class as one class."""

    annotated: str
    predicted: str
    count: int
    share: float  # fraction of the annotated class; 0 if it has no annotation
    correct: bool


def confusion(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> list[list[Cell]]:
    """Return one row per annotated class; `counts` is [annotated][predicted]."""
    return [
        [
            Cell(labels[i], labels[j], count, count / total if (total := sum(row)) else 0.0, i == j)
            for j, count in enumerate(row)
        ]
        for i, row in enumerate(counts)
    ]


def largest(rows: Sequence[Sequence[Cell]]) -> list[Cell]:
    """Return the LARGEST most frequent confusions, the most frequent first."""
    wrong = [cell for row in rows for cell in row if cell.count and not cell.correct]
    return sorted(wrong, key=lambda cell: -cell.count)[:LARGEST]


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
