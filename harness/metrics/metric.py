"""The contract of a metric: one sample → small sufficient statistics; the statistics of all → figures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from harness.registry import Registry
from harness.statistics.bootstrap import RESAMPLES, SEED, ResampledFigure
from harness.task import Scores, TaskName

TargetT = TypeVar("TargetT")
PredictionT = TypeVar("PredictionT")
StatisticsT = TypeVar("StatisticsT")

StoredArrays: TypeAlias = Mapping[str, NDArray[Any]]
"""The arrays of a statistics file by name; each has its own type."""

Resampled: TypeAlias = dict[str, NDArray[np.float64]]
"""Figures by name, the value in each resample: [R]."""


class Metric(ABC, Generic[TargetT, PredictionT, StatisticsT]):
    """A family of figures computed together, such as COCO's twelve or the figures of a confusion matrix."""

    task: ClassVar[TaskName]
    names: ClassVar[tuple[str, ...]]
    """The figures that `summarise` returns, the headline first."""
    reflected: ClassVar[frozenset[str]] = frozenset()
    """The figures whose interval is that of the basic bootstrap, which covers their true value more often.

    Measured by benchmarks/interval_coverage.py.
    """

    def __init__(self, classes: Sequence[str] = (), **options: object) -> None:  # noqa: ARG002
        """Accept the data set's `metric_options`; a metric uses the options that it knows."""
        self.classes = tuple(classes)

    @abstractmethod
    def statistics(self, target: TargetT, prediction: PredictionT) -> StatisticsT:
        """Return the sufficient statistics of one sample: small, picklable, and additive or concatenable."""

    @abstractmethod
    def summarise(
        self, statistics: Sequence[StatisticsT], resamples: int = RESAMPLES, seed: int = SEED
    ) -> Scores:
        """Compute the figures with their 95% bootstrap intervals over samples.

        Args:
            statistics: in order of sample id.
            resamples: 0 gives figures without intervals.
        """

    @abstractmethod
    def resample(
        self, statistics: Sequence[StatisticsT], resamples: int = RESAMPLES, seed: int = SEED
    ) -> Resampled:
        """Compute each figure in every bootstrap resample: [resamples], NaN if undefined.

        The same number of samples and the same seed draw the same samples. The resamples of two models on one
        data set are therefore pairs, and their differences are the paired bootstrap.
        """

    @abstractmethod
    def pack(self, statistics: Sequence[StatisticsT]) -> StoredArrays:
        """Return the statistics as a few arrays to be stored."""

    @abstractmethod
    def unpack(self, arrays: StoredArrays) -> list[StatisticsT]:
        """Return the statistics from the arrays of `pack`."""

    def resampled_figures(
        self, statistics: Sequence[StatisticsT], resamples: int = RESAMPLES
    ) -> dict[str, ResampledFigure]:
        """Return each figure with its resamples, for pairing with another model's."""
        figures = self.summarise(statistics, resamples=0).metrics
        resampled = self.resample(statistics, resamples)
        return {name: ResampledFigure(figure, resampled[name]) for name, figure in figures.items()}


class CountMetric(Metric[TargetT, PredictionT, NDArray[np.int64]]):
    """A metric whose statistics are counts: one integer array of the same shape per sample."""

    def pack(self, statistics: Sequence[NDArray[np.int64]]) -> StoredArrays:
        """Stack the samples' counts into one array, `rows`."""
        return {"rows": np.array(statistics, dtype=np.int64)}

    def unpack(self, arrays: StoredArrays) -> list[NDArray[np.int64]]:
        """Return the samples' counts."""
        return list(arrays["rows"])


AnyMetric: TypeAlias = Metric[Any, Any, Any]
"""A metric of any task, for code in which the data set decides the task."""

METRICS: Registry[type[AnyMetric]] = Registry(
    "metric",
    "harness.metrics",
    {
        "bleu": "harness.metrics.bleu:Bleu",
        "chrf": "harness.metrics.bleu:Chrf",
        "coco": "harness.metrics.average_precision:Coco",
        "voc07": "harness.metrics.average_precision:Voc07",
        "voc10": "harness.metrics.average_precision:Voc10",
        "iou": "harness.metrics.iou:Iou",
    },
)
