"""The contract of a task's analysis of one trial: collect all samples, then show a few."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from harness.analysis.record import Analysis, Role, ShownSample
from harness.task import Sample

PredictionT = TypeVar("PredictionT")
ShownT = TypeVar("ShownT", bound=ShownSample)

SHOWN_PER_ROLE: dict[Role, int] = {"worst": 4, "median": 2, "best": 2}
"""Samples shown per trial: enough to see what goes wrong, few enough for one page of many trials."""

ImageFiles: TypeAlias = dict[str, bytes]
"""Contents of image files by path relative to the trial's directory."""


@dataclass(frozen=True)
class Pick:
    """A sample chosen to be shown."""

    index: int
    """Position in the data set's split, from 0."""
    role: Role
    score: float


class Analyser(ABC, Generic[PredictionT, ShownT]):
    """Collects the counts that the analysis of one trial needs; it stores no images."""

    @abstractmethod
    def add(self, sample: Sample, prediction: PredictionT) -> None:
        """Add the next sample with its target, in order of the data set."""

    @abstractmethod
    def columns(self) -> dict[str, NDArray[np.float64]]:
        """Return a value per added sample: `score`, by which samples are ranked, and what slices are cut by.

        All of them are NumPy arrays [n] of numbers.
        """

    @abstractmethod
    def picks(self) -> list[Pick]:
        """Choose which of the added samples to show."""

    @abstractmethod
    def show(self, pick: Pick, sample: Sample, prediction: PredictionT) -> tuple[ShownT, ImageFiles]:
        """Return the record of a chosen sample, and its image files."""

    @abstractmethod
    def conclude(self, shown: Sequence[ShownT]) -> Analysis:
        """Return the analysis of all added samples, including the records of the shown ones."""


AnyAnalyser: TypeAlias = Analyser[Any, Any]
"""An analyser of any task, for code in which the data set decides the task."""


def pick_samples(scores: Sequence[float], weights: Sequence[float]) -> list[Pick]:
    """Choose the samples with the lowest, middle and highest scores; ties go to the greatest weight.

    Args:
        scores: per sample.
        weights: per sample, the amount that a model can get right or wrong. Samples of weight 0 are shown
            only if there are no others.
    """
    values, sizes = np.asarray(scores, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    eligible = (sizes > 0) | ~np.any(sizes > 0)
    ascending = np.lexsort((-sizes, values))
    ascending = ascending[eligible[ascending]]
    descending = np.lexsort((-sizes, -values))
    from_middle = np.argsort(np.abs(np.arange(len(ascending)) - (len(ascending) - 1) / 2), kind="stable")
    orders: dict[Role, NDArray[np.intp]] = {
        "worst": ascending,
        "best": descending[eligible[descending]],
        "median": ascending[from_middle],
    }
    roles: dict[int, Role] = {}
    for role, order in orders.items():
        free = [index for index in order.tolist() if index not in roles]
        roles |= dict.fromkeys(free[: SHOWN_PER_ROLE[role]], role)
    ranked = sorted(roles, key=lambda index: list(SHOWN_PER_ROLE).index(roles[index]))
    return [Pick(index, roles[index], float(values[index])) for index in ranked]
