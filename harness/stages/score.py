"""Score: predictions and targets → figures with intervals; no model, no GPU."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.datasets.dataset import Dataset
from harness.errors import InfrastructureError
from harness.metrics.metric import METRICS, Metric
from harness.task import Prediction, Sample, Scores

Observer = Callable[[Sample, Prediction], None]
"""Given every sample with its target and a model's prediction, in order."""


@dataclass(frozen=True)
class Scored:
    """Figures of one metric, and the statistics of samples that they follow from, ready to be stored.

    A comparison with another run needs these and neither data set nor predictions.
    """

    scores: Scores
    statistics: dict[str, NDArray[Any]]


def restored(name: str, arrays: Mapping[str, NDArray[Any]]) -> tuple[Metric, list[Any]]:
    """A metric and the statistics of samples that `score` gave under its name."""
    about = json.loads(arrays["metric"].item())
    metric = METRICS.get(name)(about["classes"], **about["options"])
    return metric, metric.unpack(arrays)


def make_metrics(names: Iterable[str], dataset: Dataset) -> list[Metric]:
    """The metrics with what the data set prescribes."""
    return [METRICS.get(name)(dataset.classes, **dataset.metric_options) for name in names]


def score(
    dataset: Dataset,
    size: int,
    predictions: Iterable[tuple[str, Prediction]],
    names: Sequence[str],
    observer: Observer | None = None,
) -> dict[str, Scored]:
    """Figures of each metric over the first `size` samples; each sample is in memory once.

    Making a sample may take longer than all that is then done with it, so that an observer sees it here.

    Raises:
        InfrastructureError: a prediction is missing or belongs to another sample; never scored as empty.
    """
    metrics = make_metrics(names, dataset)
    (statistics,) = sample_statistics(dataset, size, [predictions], metrics, [observer])
    about = np.array(json.dumps({"classes": dataset.classes, "options": dataset.metric_options}))
    return {
        name: Scored(metric.summarise(collected), {"metric": about, **metric.pack(collected)})
        for name, metric, collected in zip(names, metrics, statistics, strict=True)
    }


def sample_statistics(
    dataset: Dataset,
    size: int,
    models: Sequence[Iterable[tuple[str, Prediction]]],
    metrics: Sequence[Metric],
    observers: Sequence[Observer | None] = (),
) -> list[list[list[Any]]]:
    """Sufficient statistics of several models' predictions of the same samples: [model][metric][sample].

    Args:
        observers: one a model, or none at all.

    Raises:
        InfrastructureError: a prediction is missing or belongs to another sample.
    """
    found: list[list[list[Any]]] = [[[] for _ in metrics] for _ in models]
    readers = [iter(predictions) for predictions in models]
    watching = observers or [None] * len(models)
    for index in range(size):
        sample = dataset[index]
        for reader, statistics, observe in zip(readers, found, watching, strict=True):
            following = next(reader, None)
            if following is None:
                raise InfrastructureError(f"{size - index} of {size} predictions are missing")
            sample_id, prediction = following
            if sample_id != sample.id:
                raise InfrastructureError(
                    f"prediction {index} is of sample {sample_id}, expected {sample.id}"
                )
            for metric, collected in zip(metrics, statistics, strict=True):
                collected.append(metric.statistics(sample.target, prediction))
            if observe is not None:
                observe(sample, prediction)
    return found
