"""The contract of a task's analysis of one trial: collect all samples, then show a few; ratios of sums."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from harness.analysis.record import Analysis, Role, ShownSample
from harness.statistics.jackknife import COUNT_GROUPS, figure, leave_out_groups, leave_out_sums
from harness.task import Figure, Sample

PredictionT = TypeVar("PredictionT")
ShownT = TypeVar("ShownT", bound=ShownSample)

SHOWN_PER_ROLE: dict[Role, int] = {"worst": 4, "median": 2, "best": 2}
"""Samples shown per trial: enough to see what goes wrong, few enough for one page of many trials."""

Counts: TypeAlias = NDArray[np.bool_] | NDArray[np.int64] | NDArray[np.float64]
ImageFiles: TypeAlias = dict[str, bytes]  # contents of image files by path relative to the trial's directory


@dataclass(frozen=True)
class Pick:
    """A sample chosen to be shown."""

    index: int  # position in the data set's split, from 0
    role: Role
    score: float


class Analyser(ABC, Generic[PredictionT, ShownT]):
    """Collects the counts that the analysis of one trial needs; it stores no images."""

    @abstractmethod
    def add(self, sample: Sample, prediction: PredictionT) -> None:
        """Add the next sample with its target, in order of the data set."""

    weight: ClassVar[str] = "shown"
    """The column with the amount that a model can get right or wrong in each sample."""

    @abstractmethod
    def columns(self) -> dict[str, NDArray[np.float64]]:
        """Return values per added sample, each [n]: `score`, which ranks them, and what slices are cut by."""

    def picks(self) -> list[Pick]:
        """Choose which of the added samples to show."""
        columns = self.columns()
        return pick_samples(columns["score"].tolist(), columns[self.weight].tolist())

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

    A weight is the amount that a model can get right or wrong in a sample. Samples of weight 0 are shown only
    if there are no others.
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


def ratios(parts: Counts, wholes: Counts, signature: str, unit: str = "fraction") -> list[Figure]:
    """Compute Σ parts / Σ wholes over samples, for each of k columns; undefined if the denominator is 0.

    Both [n, k] are additive counts per sample.
    """
    n, columns = parts.shape
    counts = np.concatenate([parts, wholes], axis=1).astype(np.int64)
    sums = leave_out_sums(counts, leave_out_groups(n, COUNT_GROUPS))
    part, whole = sums[:, :columns], sums[:, columns:]
    values = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    bounds = (0.0, 1.0 if unit == "fraction" else np.inf)
    return [figure(column, n, unit, signature, bounds) for column in values.T]
