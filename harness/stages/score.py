"""Scoring: figures with intervals from predictions and targets, without a model or a GPU."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from harness.datasets.dataset import Dataset
from harness.errors import InfrastructureError, UsageError
from harness.metrics.metric import METRICS, AnyMetric, StoredArrays
from harness.statistics.jackknife import JackknifedFigure
from harness.task import Prediction, Sample, Scores

Observer: TypeAlias = Callable[[Sample, Prediction], None]
"""Receives every sample with its target and a model's prediction, in order."""
Statistics: TypeAlias = list[object]
"""Sufficient statistics of one metric, one entry per sample; their type is known to the metric."""


@dataclass(frozen=True)
class ScoredMetric:
    """The figures of one metric, and the sample statistics from which they are computed.

    Besides the figures, a comparison with another run needs only these statistics.
    """

    scores: Scores
    statistics: StoredArrays


@dataclass(frozen=True)
class StoredMetric:
    """A metric with the sample statistics that `score` stored under its name."""

    metric: AnyMetric
    statistics: Statistics
    origins: list[str] | None

    def figures(self, members: Iterable[int] | None = None) -> dict[str, JackknifedFigure]:
        """Compute the metric's figures again, for all samples or for those at the given positions."""
        if members is None:
            return self.metric.jackknife(self.statistics, self.origins)
        chosen = list(members)
        origins = None if self.origins is None else [self.origins[index] for index in chosen]
        return self.metric.jackknife([self.statistics[index] for index in chosen], origins)


def restore(name: str, arrays: StoredArrays) -> StoredMetric:
    """Return a metric and its sample statistics from the arrays that `score` stored."""
    settings = json.loads(arrays["metric"].item())
    metric = METRICS.get(name)(settings["classes"], **settings["options"])
    origins = arrays["origins"].tolist() if "origins" in arrays else None
    return StoredMetric(metric, metric.unpack(arrays), origins)


def make_metrics(names: Iterable[str], dataset: Dataset) -> list[AnyMetric]:
    """Return metrics by name, with the classes and the options that the data set prescribes."""
    return [METRICS.get(name)(dataset.classes, **dataset.metric_options) for name in names]


def score(
    dataset: Dataset,
    size: int,
    predictions: Iterable[tuple[str, Prediction]],
    names: Sequence[str],
    observer: Observer | None = None,
) -> dict[str, ScoredMetric]:
    """Score predictions of the first `size` samples with each of the named metrics.

    Every sample is read once, and only one is in memory at a time.

    Args:
        predictions: Pairs of sample id and prediction, in the order of the data set.
        observer: Receives the samples as they are read, because reading may cost more than scoring.

    Raises:
        InfrastructureError: A prediction is missing or belongs to another sample.
        UsageError: A prediction does not fit its target, such as a mask of another size.
    """
    metrics = make_metrics(names, dataset)
    statistics: list[Statistics] = [[] for _ in metrics]
    groups: list[str | None] = []
    rows = iter(predictions)
    for index in range(size):
        sample = dataset[index]
        row = next(rows, None)
        if row is None:
            raise InfrastructureError(f"{size - index} of {size} predictions are missing")
        sample_id, prediction = row
        if sample_id != sample.id:
            raise InfrastructureError(
                f"prediction {index} belongs to sample {sample_id}, expected {sample.id}"
            )
        try:
            for metric, values in zip(metrics, statistics, strict=True):
                values.append(metric.statistics(sample.target, prediction))
        except UsageError as error:
            raise UsageError(f"sample {sample.id}: {error}") from error
        groups.append(sample.group)
        if observer is not None:
            observer(sample, prediction)
    # A sample without a group is a group of its own.
    origins = [group or f"#{index}" for index, group in enumerate(groups)] if any(groups) else None
    shared = {
        "metric": np.array(json.dumps({"classes": dataset.classes, "options": dataset.metric_options})),
        **({"origins": np.array(origins)} if origins else {}),
    }
    return {
        name: ScoredMetric(metric.summarise(values, origins=origins), {**shared, **metric.pack(values)})
        for name, metric, values in zip(names, metrics, statistics, strict=True)
    }
