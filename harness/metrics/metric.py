"""A metric is two pure functions: one sample → small sufficient statistics; all of these → figures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from harness.registry import Registry
from harness.task import Scores, TaskName

RESAMPLES = 1000  # bootstrap resamples of every accuracy interval
SEED = 0


class Metric(ABC):
    """A family of figures computed together (BLEU; the twelve of COCO; those of a confusion matrix)."""

    task: ClassVar[TaskName]
    names: ClassVar[tuple[str, ...]]
    """The figures that `summarise` returns, the headline first."""
    reflected: ClassVar[frozenset[str]] = frozenset()
    """Those whose interval is the basic bootstrap's, which covers more there.

    Measured by benchmarks/interval_coverage.py.
    """

    def __init__(self, classes: Sequence[str] = (), **options: Any) -> None:  # noqa: ARG002
        """`options` is the data set's `metric_options`; a metric takes those it knows."""
        self.classes = tuple(classes)

    @abstractmethod
    def statistics(self, target: Any, prediction: Any) -> Any:
        """Sufficient statistics of one sample: small, picklable, additive or concatenable."""

    @abstractmethod
    def summarise(self, statistics: Sequence[Any], resamples: int = RESAMPLES, seed: int = SEED) -> Scores:
        """Figures with 95% bootstrap intervals over samples, from statistics in order of sample id."""

    @abstractmethod
    def resample(
        self, statistics: Sequence[Any], resamples: int = RESAMPLES, seed: int = SEED
    ) -> dict[str, NDArray[np.float64]]:
        """The figures of every bootstrap resample, by name: [resamples]; NaN where undefined.

        Equally many samples and the same seed draw the same samples, so that two models' resamples on
        one data set are pairs, and their differences the paired bootstrap.
        """

    def pack(self, statistics: Sequence[Any]) -> dict[str, NDArray[Any]]:
        """Statistics as a few arrays to be stored; here those whose every sample is an array of one shape."""
        return {"rows": np.array(statistics, dtype=np.int64)}

    def unpack(self, arrays: Mapping[str, NDArray[Any]]) -> list[Any]:
        """The inverse of `pack`."""
        return list(arrays["rows"])


METRICS: Registry[type[Metric]] = Registry(
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
