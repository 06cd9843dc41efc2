"""A metric is two pure functions: one sample → small sufficient statistics; all of these → figures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from harness.registry import Registry
from harness.task import Scores, TaskName

RESAMPLES = 1000  # bootstrap resamples of every accuracy interval
SEED = 0


class Metric(ABC):
    """A family of figures computed together (BLEU; the twelve of COCO; those of a confusion matrix)."""

    task: ClassVar[TaskName]
    names: ClassVar[tuple[str, ...]]
    """The figures that `summarise` returns, the headline first."""

    def __init__(self, classes: Sequence[str] = (), **options: Any) -> None:  # noqa: ARG002
        """`options` is the data set's `metric_options`; a metric takes those it knows."""
        self.classes = tuple(classes)

    @abstractmethod
    def statistics(self, target: Any, prediction: Any) -> Any:
        """Sufficient statistics of one sample: small, picklable, additive or concatenable."""

    @abstractmethod
    def summarise(self, statistics: Sequence[Any], resamples: int = RESAMPLES, seed: int = SEED) -> Scores:
        """Figures with 95% bootstrap intervals over samples, from statistics in order of sample id."""


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
