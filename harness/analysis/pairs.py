"""Two models on the same samples: by how much the second is better, and whether that could be chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.metrics.metric import Metric
from harness.statistics.bootstrap import figure
from harness.statistics.seeds import Trainings, difference
from harness.task import Figure


@dataclass(frozen=True)
class Standing:
    """One model's figure with what is needed to pair it."""

    figure: Figure
    trainings: Trainings


@dataclass(frozen=True)
class Difference:
    """Of one figure: second − first."""

    difference: Figure
    p: float | None
    """Two-sided, of no difference; None where the figure is undefined."""


def standings(metric: Metric, statistics: Sequence[Any]) -> dict[str, Standing]:
    """A model's figures and their bootstrap resamples, from its statistics of samples."""
    values = metric.summarise(statistics, resamples=0).metrics
    resampled = metric.resample(statistics)
    return {
        name: Standing(
            found,
            Trainings(
                name, np.array([np.nan if found.value is None else found.value]), resampled[name][None]
            ),
        )
        for name, found in values.items()
    }


def paired(first: Standing, second: Standing) -> Difference:
    """The paired bootstrap: both were drawn the same resamples of the same samples.

    The interval is the percentile method's. p takes the difference as normal with the resamples' standard
    error (Efron & Tibshirani 1993, ch. 13), not the share of resamples beyond 0: that has no value below 1 in
    1,000, and could never survive the adjustment for the dozens of pairs that a suite may have.
    """
    before, after = first.trainings, second.trainings
    about = first.figure
    value = float(after.values[0] - before.values[0])
    differences = after.resampled[0] - before.resampled[0]
    defined = ~np.isnan(differences)
    p = None
    if not np.isnan(value) and defined.sum() > 1 and about.n > 1:
        sides = (Trainings(each.name, each.values, each.resampled[:, defined]) for each in (before, after))
        p = difference(*sides).p
    return Difference(figure(value, differences, about.n, about.unit, about.signature), p)
