"""The contract of a metric: one sample → small sufficient statistics; the statistics of all → figures."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from harness.registry import Registry
from harness.statistics.jackknife import (
    COUNT_GROUPS,
    UNBOUNDED,
    JackknifedFigure,
    figure,
    leave_out_groups,
    leave_out_sums,
)
from harness.task import Better, Scores, TaskName

TargetT = TypeVar("TargetT")
PredictionT = TypeVar("PredictionT")
StatisticsT = TypeVar("StatisticsT")

StoredArrays: TypeAlias = Mapping[str, NDArray[Any]]
"""The arrays of a statistics file by name; each has its own type."""

Groups: TypeAlias = NDArray[np.intp] | None
"""[n], the group with which each sample is left out; None if only the values of all samples are needed."""

Values: TypeAlias = dict[str, NDArray[np.float64]]
"""Values by name, NaN if undefined: [1 + G], first of all samples, then without each of G groups."""

FEW = 10  # samples; where fewer carry a class, no interval is right (measured: docs/metrics.md)
NAMED = 5  # classes at most that a note names


@dataclass(frozen=True, eq=False)
class Computed:
    """The values that a metric computes from the statistics of a data set."""

    figures: Values
    by_class: Values = field(default_factory=dict)
    """Figure of a class → [classes, 1 + G], like the figures."""
    carriers: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    """Figure that averages over classes → [classes], the number of samples in which each is annotated."""


class Metric(ABC, Generic[TargetT, PredictionT, StatisticsT]):
    """A family of figures computed together, such as COCO's twelve or the figures of a confusion matrix."""

    task: ClassVar[TaskName]
    names: ClassVar[tuple[str, ...]]
    """The figures that `compute` returns, the headline first."""
    unit: ClassVar[str] = "fraction"
    bounds: ClassVar[tuple[float, float]] = UNBOUNDED
    """The smallest and largest possible value; intervals do not exceed them."""
    lower_is_better: ClassVar[frozenset[str]] = frozenset()
    """The figures of which a lower value is better, such as an error rate."""
    max_groups: ClassVar[int] = 200
    """Samples are left out one by one up to this number of samples, and in this number of groups above."""

    def __init__(self, classes: Sequence[str] = (), **options: object) -> None:  # noqa: ARG002
        """Accept the data set's `metric_options`; a metric uses the options that it knows."""
        self.classes = tuple(classes)

    @abstractmethod
    def statistics(self, target: TargetT, prediction: PredictionT) -> StatisticsT:
        """Return the sufficient statistics of one sample: small, picklable, and additive or concatenable."""

    @abstractmethod
    def compute(self, statistics: Sequence[StatisticsT], groups: Groups) -> Computed:
        """Compute each figure of all samples, in order of id and at least one, and without each group."""

    @abstractmethod
    def signature(self, name: str, statistics: Sequence[StatisticsT]) -> str:
        """Return every choice that changes the value of a figure, such as `tok:13a|smooth:exp`."""

    @abstractmethod
    def pack(self, statistics: Sequence[StatisticsT]) -> StoredArrays:
        """Return the statistics as a few arrays to be stored."""

    @abstractmethod
    def unpack(self, arrays: StoredArrays) -> list[StatisticsT]:
        """Return the statistics from the arrays of `pack`."""

    def summarise(
        self,
        statistics: Sequence[StatisticsT],
        intervals: bool = True,
        origins: Sequence[str] | None = None,
    ) -> Scores:
        """Return the figures, overall with 95% intervals over samples, and per class.

        `origins` is the group that each sample comes from, such as a video; see `Sample.group`.
        """
        jackknifed, computed = self._jackknife(statistics, intervals, origins)
        everywhere = np.full(len(self.classes), len(statistics))
        carriers = next(iter(computed.carriers.values()), everywhere)  # of the first figure: all sizes
        per_class = {
            label: {
                name: figure(values[index], int(carriers[index]), self.unit, "", self.bounds)
                for name, values in computed.by_class.items()
            }
            for index, label in enumerate(self.classes if computed.by_class else ())
        }
        return Scores({name: entry.figure for name, entry in jackknifed.items()}, per_class)

    def jackknife(
        self, statistics: Sequence[StatisticsT], origins: Sequence[str] | None = None
    ) -> dict[str, JackknifedFigure]:
        """Return each figure with its replicates, for pairing with another model on the same samples."""
        return self._jackknife(statistics, True, origins)[0]

    def _jackknife(
        self, statistics: Sequence[StatisticsT], intervals: bool, origins: Sequence[str] | None
    ) -> tuple[dict[str, JackknifedFigure], Computed]:
        n = len(statistics)
        groups = leave_out_groups(n, self.max_groups, origins) if intervals and n > 1 else None
        undefined = Computed(dict.fromkeys(self.names, np.array([np.nan])))
        computed = self.compute(statistics, groups) if n else undefined
        method = "jackknife" if groups is None or groups.max() == n - 1 else f"jackknife-{groups.max() + 1}"
        figures = {}
        for name in self.names:
            signature = f"{self.signature(name, statistics)}|interval:{method}"
            better: Better = "lower" if name in self.lower_is_better else "higher"
            values, note = computed.figures[name], self._note(computed.carriers.get(name))
            estimate = figure(values, n, self.unit, signature, self.bounds, better, note)
            figures[name] = JackknifedFigure(estimate, values[1:], self.bounds)
        return figures, computed

    def _note(self, carriers: NDArray[np.int64] | None) -> str | None:
        """Name the classes that too few samples carry, rarest first: their interval may be wrong."""
        if carriers is None:
            return None
        rare = [index for index in np.argsort(carriers, kind="stable") if 0 < carriers[index] < FEW]
        if not rare:
            return None
        names = [f"{self.classes[index]} ({carriers[index]})" for index in rare[:NAMED]]
        more = [f"{len(rare) - NAMED} more"] if len(rare) > NAMED else []
        return f"classes in fewer than {FEW} samples: {', '.join(names + more)}"


class CountMetric(Metric[TargetT, PredictionT, NDArray[np.int64]]):
    """A metric whose statistics are counts: one integer array of the same shape per sample.

    Its figures follow from the sums of the counts over samples.
    """

    max_groups = COUNT_GROUPS

    @abstractmethod
    def figures(self, sums: NDArray[np.int64]) -> Values:
        """Compute each figure [R] from R sums of counts [R, …]; NaN where undefined."""

    def class_figures(self, sums: NDArray[np.int64]) -> Values:  # noqa: ARG002
        """Compute figures of each class [R, classes] from R sums of counts; none by default."""
        return {}

    def compute(self, statistics: Sequence[NDArray[np.int64]], groups: Groups) -> Computed:
        sums = leave_out_sums(np.stack(statistics), groups)
        by_class = {name: values.T for name, values in self.class_figures(sums).items()}
        return Computed(self.figures(sums), by_class)

    def pack(self, statistics: Sequence[NDArray[np.int64]]) -> StoredArrays:
        return {"rows": np.array(statistics, dtype=np.int64)}

    def unpack(self, arrays: StoredArrays) -> list[NDArray[np.int64]]:
        return list(arrays["rows"])


AnyMetric: TypeAlias = Metric[Any, Any, Any]
"""A metric of any task, for code in which the data set decides the task."""

METRICS: Registry[type[AnyMetric]] = Registry(
    "metric",
    "harness.metrics",
    {
        "bleu": "harness.metrics.bleu:Bleu",
        "chrf": "harness.metrics.bleu:Chrf",
        "ter": "harness.metrics.bleu:Ter",
        "coco": "harness.metrics.average_precision:Coco",
        "voc07": "harness.metrics.average_precision:Voc07",
        "voc10": "harness.metrics.average_precision:Voc10",
        "iou": "harness.metrics.iou:Iou",
    },
)
