"""Confusion matrices as the page shows them: counts, and fractions of the annotated class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

READABLE_CLASSES = 24  # with more, the page lists the largest confusions in place of a matrix
LARGEST = 20  # confusions listed


@dataclass(frozen=True)
class Cell:
    """The number of predictions of one annotated class as one class."""

    annotated: str
    predicted: str
    count: int
    share: float  # fraction of the annotated class; 0 if it has no annotation
    correct: bool


def matrix(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> list[list[Cell]]:
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
