"""The difference of two models on the same samples, with one interval and one p-value that agree.

The samples are paired: the same groups of them are left out for both models, so that samples that are hard
for both cancel. A model may have been trained several times with different seeds. The spread between
trainings is a second source of uncertainty; the variances of both sources add up. Trainings are paired only
if both sides have the same weights. With one training per model, the difference applies to these trainings;
other seeds may give another. The bias of a figure cancels in a difference.
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

POWER = 1.43  # half widths of a 95% interval: (1.96 + 0.84) / 1.96, for a power of 80%


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


def difference(
    base: Sequence[JackknifedFigure], head: Sequence[JackknifedFigure], same_weights: bool = False
) -> PairedDifference:
    """Return head − base, each the mean over its trainings.

    p is at least 2^(1 − G) for G groups of samples: if nothing but chance decided which model is better on
    each group, all groups would favour the same one with this probability. With fewer than six groups, it is
    above 5%, so the interval contains 0.

    Args:
        same_weights: Both sides have the same trainings in the same order, for example at two precisions.
            The spread of their differences then counts in place of that of each side.
    """
    values = [_values(side) for side in (base, head)]
    value = float(values[1].mean() - values[0].mean())
    replicates = _mean_replicates(head) - _mean_replicates(base)
    spreads = [values[1] - values[0]] if same_weights else values
    groups = len(replicates)
    estimate = _student(value, standard_error(replicates), groups, spreads, 2.0 ** (1 - groups))
    bounds = (head[0].bounds[0] - base[0].bounds[1], head[0].bounds[1] - base[0].bounds[0])
    low, high = _interval(estimate, bounds)
    figure = replace(
        base[0].figure, value=defined_or_none(value), low=low, high=high, note=head[0].figure.note
    )
    return PairedDifference(figure, estimate)


def smallest_effect(low: float, high: float, shrinkage: float) -> float:
    """Return the smallest true difference that a test (two-sided, 5%) finds with 80% power.

    Args:
        low, high: Interval of an earlier difference.
        shrinkage: Its number of samples as a multiple of the planned number.
    """
    return float((high - low) / 2 * POWER * np.sqrt(shrinkage))


def mean(trainings: Sequence[JackknifedFigure]) -> Figure:
    """Return a model's mean figure over its trainings; its interval covers samples and seeds."""
    low, high = _interval(mean_estimate(trainings), trainings[0].bounds)
    value = defined_or_none(float(_values(trainings).mean()))
    return replace(trainings[0].figure, value=value, low=low, high=high)


def mean_estimate(trainings: Sequence[JackknifedFigure]) -> Estimate | None:
    """Return a model's mean figure over its trainings with its standard error, if it has an interval.

    Its p-values are not below those that the number of groups supports, as in `difference`.
    """
    values, replicates = _values(trainings), _mean_replicates(trainings)
    value, groups = float(values.mean()), len(replicates)
    estimate = _student(value, root_mean_square_error(value, replicates), groups, [values], 0.0)
    return estimate and replace(estimate, least_p=2.0 ** (1 - groups))


def _interval(estimate: Estimate | None, bounds: tuple[float, float]) -> tuple[float | None, float | None]:
    """Return the part of an interval that is possible."""
    if estimate is None:
        return None, None
    low, high = estimate.interval()
    return max(low, bounds[0]), min(high, bounds[1])


def _student(
    value: float, error: float, groups: int, spreads: Sequence[NDArray[np.float64]], least_p: float
) -> Estimate | None:
    """Return the estimate of a value whose error over samples is known, if it has an interval.

    Args:
        spreads: Values by training, one array per independent source.
    """
    if np.isnan(value + error):
        return None
    variances = [(error**2, groups - 1.0)]
    for values in spreads:
        if len(values) > 1:
            variances.append((float(values.var(ddof=1)) / len(values), len(values) - 1.0))
    return student(value, variances, least_p)


def _values(trainings: Sequence[JackknifedFigure]) -> NDArray[np.float64]:
    return np.array([figure.value for figure in trainings], dtype=np.float64)


def _mean_replicates(trainings: Sequence[JackknifedFigure]) -> NDArray[np.float64]:
    return np.asarray(np.mean([figure.replicates for figure in trainings], axis=0))
