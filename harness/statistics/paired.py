"""The difference of two models on the same samples, with one interval and one p-value that agree.

The samples are paired: the same groups of them are left out for both models, so that samples that are hard
for both cancel. A model may have been trained several times with different seeds. Trainings are not paired,
and the spread between them is a second source of uncertainty; the variances of both sources add up. With one
training per model, the difference applies to these trainings; other seeds may give another. The bias of a
figure cancels in a difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harness.statistics.jackknife import (
    Estimate,
    JackknifedFigure,
    defined_or_none,
    root_mean_square_error,
    standard_error,
    student,
)
from harness.task import Figure


@dataclass(frozen=True)
class PairedDifference:
    """head − base of one figure."""

    difference: Figure
    estimate: Estimate | None
    """The same with its standard error; None if there is no interval."""

    @property
    def p(self) -> float | None:
        """The two-sided p-value of no difference; None if there is no interval."""
        return self.estimate.p if self.estimate else None


def difference(base: Sequence[JackknifedFigure], head: Sequence[JackknifedFigure]) -> PairedDifference:
    """Return head − base, each the mean over its trainings.

    p is at least 2^(1 − G) for G groups of samples: if nothing but chance decided which model is better on
    each group, all groups would favour the same one with this probability. With fewer than six groups, it is
    above 5%, so the interval contains 0.
    """
    value = _mean_value(head) - _mean_value(base)
    estimate = _student(value, _mean_replicates(head) - _mean_replicates(base), [base, head])
    bounds = (head[0].bounds[0] - base[0].bounds[1], head[0].bounds[1] - base[0].bounds[0])
    low, high = _interval(estimate, bounds)
    figure = replace(
        base[0].figure, value=defined_or_none(value), low=low, high=high, note=head[0].figure.note
    )
    return PairedDifference(figure, estimate)


def mean(trainings: Sequence[JackknifedFigure]) -> Figure:
    """Return a model's mean figure over its trainings; its interval covers samples and seeds."""
    low, high = _interval(mean_estimate(trainings), trainings[0].bounds)
    value = defined_or_none(_mean_value(trainings))
    return replace(trainings[0].figure, value=value, low=low, high=high)


def mean_estimate(trainings: Sequence[JackknifedFigure]) -> Estimate | None:
    """Return a model's mean figure over its trainings with its standard error, if it has an interval.

    Its p-values are not below those that the number of groups supports, as in `difference`.
    """
    estimate = _student(_mean_value(trainings), _mean_replicates(trainings), [trainings])
    return estimate and replace(estimate, least_p=2.0 ** (1 - len(trainings[0].replicates)))


def _interval(estimate: Estimate | None, bounds: tuple[float, float]) -> tuple[float | None, float | None]:
    """Return the part of an interval that is possible."""
    if estimate is None:
        return None, None
    low, high = estimate.interval()
    return max(low, bounds[0]), min(high, bounds[1])


def _student(
    value: float, replicates: NDArray[np.float64], models: Sequence[Sequence[JackknifedFigure]]
) -> Estimate | None:
    """Return the estimate of a value that combines the means of one or two models, if it has an interval."""
    is_difference = len(models) > 1
    error = standard_error(replicates) if is_difference else root_mean_square_error(value, replicates)
    if np.isnan(value + error):
        return None
    groups = len(replicates)
    variances = [(error**2, groups - 1.0)]
    for trainings in models:
        if len(trainings) > 1:
            spread = float(np.var([figure.value for figure in trainings], ddof=1))
            variances.append((spread / len(trainings), len(trainings) - 1.0))
    return student(value, variances, 2.0 ** (1 - groups) if is_difference else 0.0)


def _mean_value(trainings: Sequence[JackknifedFigure]) -> float:
    return float(np.mean([figure.value for figure in trainings]))


def _mean_replicates(trainings: Sequence[JackknifedFigure]) -> NDArray[np.float64]:
    return np.asarray(np.mean([figure.replicates for figure in trainings], axis=0))
