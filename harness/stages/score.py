"""Score: predictions and targets → figures with intervals; no model, no GPU."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from harness.datasets.dataset import Dataset
from harness.errors import InfrastructureError
from harness.metrics.metric import METRICS, Metric
from harness.task import Prediction, Scores


def make_metrics(names: Iterable[str], dataset: Dataset) -> list[Metric]:
    """The metrics with what the data set prescribes."""
    return [METRICS.get(name)(dataset.classes, **dataset.metric_options) for name in names]


def score(
    dataset: Dataset, size: int, predictions: Iterable[tuple[str, Prediction]], names: Iterable[str]
) -> Scores:
    """Figures over the first `size` samples; each sample is in memory once.

    Raises:
        InfrastructureError: a prediction is missing or belongs to another sample; never scored as empty.
    """
    metrics = make_metrics(names, dataset)
    statistics: list[list[Any]] = [[] for _ in metrics]
    count = 0
    for index, (sample_id, prediction) in enumerate(predictions):
        sample = dataset[index]
        if sample.id != sample_id:
            raise InfrastructureError(f"prediction {index} is of sample {sample_id}, expected {sample.id}")
        for metric, collected in zip(metrics, statistics, strict=True):
            collected.append(metric.statistics(sample.target, prediction))
        count += 1
    if count != size:
        raise InfrastructureError(f"{size - count} of {size} predictions are missing")
    merged = Scores({}, {})
    for metric, collected in zip(metrics, statistics, strict=True):
        scores = metric.summarise(collected)
        merged.metrics.update(scores.metrics)
        for name, values in scores.per_class.items():
            merged.per_class.setdefault(name, {}).update(values)
    return merged
