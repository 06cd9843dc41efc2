"""Confusion matrices as they are shown: counts with their share of the annotated class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MATRIX = 24  # classes; beyond that a matrix is no longer readable, and the largest confusions are listed
LARGEST = 20


@dataclass(frozen=True)
class Cell:
    """Annotated as one class and predicted as another, or the same."""

    annotated: str
    predicted: str
    count: int
    share: float  # of all that is annotated so; 0 where nothing is
    right: bool


def matrix(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> list[list[Cell]]:
    """A row for each annotated class; `counts` is [annotated][predicted]."""
    return [
        [
            Cell(labels[i], labels[j], count, count / total if (total := sum(row)) else 0.0, i == j)
            for j, count in enumerate(row)
        ]
        for i, row in enumerate(counts)
    ]


def largest(rows: Sequence[Sequence[Cell]]) -> list[Cell]:
    """The most frequent confusions, the most frequent first."""
    wrong = [cell for row in rows for cell in row if cell.count and not cell.right]
    return sorted(wrong, key=lambda cell: -cell.count)[:LARGEST]
