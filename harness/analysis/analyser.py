"""What an analysis of one trial is, whatever the task: a collector of samples, and the samples it shows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from harness.analysis.record import Analysis, Role, ShownSample
from harness.task import Sample

SHOWN: dict[Role, int] = {"worst": 4, "median": 2, "best": 2}
"""Samples shown of a trial: enough to see what goes wrong, few enough for one page of many trials."""

Pictures: TypeAlias = dict[str, bytes]
"""Path relative to the trial's directory → the file's content."""


@dataclass(frozen=True)
class Pick:
    """A sample to be shown."""

    index: int
    role: Role
    score: float


class Analyser(ABC):
    """Collects what is to be known of one trial; keeps counts, no pictures."""

    @abstractmethod
    def add(self, sample: Sample, prediction: Any) -> None:
        """The next sample, with its target, in order of the data set."""

    @abstractmethod
    def picks(self) -> list[Pick]:
        """Which of the samples added are to be shown."""

    @abstractmethod
    def show(self, pick: Pick, sample: Sample, prediction: Any) -> tuple[ShownSample, Pictures]:
        """A picked sample as it is recorded, and its pictures."""

    @abstractmethod
    def conclude(self, shown: Sequence[Any]) -> Analysis:
        """The analysis of all samples added, with those that are shown."""


def pick(scores: Sequence[float], weights: Sequence[float]) -> list[Pick]:
    """The worst, the middle and the best samples; of equal scores those of the most weight.

    Args:
        scores, weights: of each sample; a weight says how much there was to get right or wrong, and samples
            of weight 0 are shown only where there are no others.
    """
    values, sizes = np.asarray(scores, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    telling = (sizes > 0) | ~np.any(sizes > 0)
    ascending = np.lexsort((-sizes, values))
    ascending = ascending[telling[ascending]]
    best = np.lexsort((-sizes, -values))
    middle = np.argsort(np.abs(np.arange(len(ascending)) - (len(ascending) - 1) / 2), kind="stable")
    orders: dict[Role, NDArray[np.intp]] = {
        "worst": ascending,
        "best": best[telling[best]],
        "median": ascending[middle],
    }
    found: dict[int, Role] = {}
    for role, order in orders.items():
        free = [index for index in order.tolist() if index not in found]
        found |= dict.fromkeys(free[: SHOWN[role]], role)
    ranked = sorted(found, key=lambda index: list(SHOWN).index(found[index]))
    return [Pick(index, found[index], float(values[index])) for index in ranked]
