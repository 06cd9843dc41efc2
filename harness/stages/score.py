"""Score: predictions and targets → figures with intervals; no model, no GPU."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from harness.datasets.dataset import Dataset
from harness.errors import InfrastructureError
from harness.metrics.metric import METRICS, Metric
from harness.task import Prediction, Scores


def make_metrics(names: Iterable[str], dataset: Dataset) -> list[Metric]:
    """The metrics with what the data set prescribes."""
    return [METRICS.get(name)(dataset.classes, **dataset.metric_options) for name in names]


def score(
    dataset: Dataset, size: int, predictions: Iterable[tuple[str, Prediction]], names: Sequence[str]
) -> dict[str, Scores]:
    """Figures of each metric over the first `size` samples; each sample is in memory once.

    Raises:
        InfrastructureError: a prediction is missing or belongs to another sample; never scored as empty.
    """
    metrics = make_metrics(names, dataset)
    (statistics,) = sample_statistics(dataset, size, [predictions], metrics)
    return {
        name: metric.summarise(collected)
        for name, metric, collected in zip(names, metrics, statistics, strict=True)
    }


def sample_statistics(
    dataset: Dataset,
    size: int,
    models: Sequence[Iterable[tuple[str, Prediction]]],
    metrics: Sequence[Metric],
) -> list[list[list[Any]]]:
    """Sufficient statistics of several models' predictions of the same samples: [model][metric][sample].

    Raises:
        InfrastructureError: a prediction is missing or belongs to another sample.
    """
    found: list[list[list[Any]]] = [[[] for _ in metrics] for _ in models]
    readers = [iter(predictions) for predictions in models]
    for index in range(size):
        sample = dataset[index]
        for reader, statistics in zip(readers, found, strict=True):
            sample_id, prediction = next(reader, (None, None))
            if sample_id is None:
                raise InfrastructureError(f"{size - index} of {size} predictions are missing")
            if sample_id != sample.id:
                raise InfrastructureError(
                    f"prediction {index} is of sample {sample_id}, expected {sample.id}"
                )
            for metric, collected in zip(metrics, statistics, strict=True):
                collected.append(metric.statistics(sample.target, prediction))
    return found
