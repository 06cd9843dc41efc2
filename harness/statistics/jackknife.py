"""95% intervals by the jackknife: what a figure becomes when some of its samples are left out (Tukey 1958).

The samples are divided into G groups: of one sample each, or, if there are many samples, at random into
groups of equal size. θ is the figure, and θ_g the figure without group g. The jackknife estimates

    squared standard error = (G − 1)/G · Σ (θ_g − mean θ_g)²        bias = (G − 1) · (mean θ_g − θ)

(Efron & Tibshirani 1993, ch. 11; Shao & Tu 1995, §2.3). The interval is Student's with G − 1 degrees of
freedom, from the root mean square error: with few images, interpolated average precision is too high by up
to half a standard error. For a mean, which has no bias, this is exactly the interval of the t test.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit  # scipy.stats takes 1.5 s to import

from harness.task import Better, Figure

CONFIDENCE = 0.95
SEED = 0  # of the random groups
COUNT_GROUPS = 2000  # groups at most, where a figure follows from sums of counts
UNBOUNDED = (-np.inf, np.inf)


def leave_out_groups(n: int, limit: int, origins: Sequence[str] | None = None) -> NDArray[np.intp]:
    """Assign n samples to at most `limit` groups: [n], the group of each sample, from 0.

    The groups depend only on the arguments, so the replicates of two models on the same samples are pairs.
    They are random, so that an ordered data set does not bias them, and differ in size by one at most.

    Args:
        origins: [n], such as videos or documents; samples of one origin are left out together.
    """
    units = np.arange(n) if origins is None else np.unique(np.array(origins), return_inverse=True)[1]
    count = int(units.max(initial=-1)) + 1
    if count <= limit:
        return units
    groups = np.random.default_rng(SEED).permutation(count) % limit
    return np.asarray(groups[units], dtype=np.intp)


def leave_out_sums(counts: NDArray[np.int64], groups: NDArray[np.intp] | None) -> NDArray[np.int64]:
    """Sum counts [n, …] over all samples, then without each of the groups [n], if any: [1 + G, …]."""
    total: NDArray[np.int64] = counts.sum(axis=0)
    if groups is None:
        return total[None]
    sums = np.zeros((int(groups.max(initial=-1)) + 2, *counts.shape[1:]), dtype=counts.dtype)
    np.add.at(sums, groups + 1, counts)
    return np.subtract(total, sums, out=sums)


def leave_out_weights(n: int, groups: NDArray[np.intp] | None) -> NDArray[np.int32]:
    """Return whether each of n samples counts, 1 or 0: in the whole, then without each group; [n, 1 + G]."""
    weights = np.ones((n, 1 if groups is None else int(groups.max(initial=-1)) + 2), dtype=np.int32)
    if groups is not None:
        weights[np.arange(n), groups + 1] = 0
    return weights


@dataclass(frozen=True, eq=False)
class JackknifedFigure:
    """A model's figure with its replicates, which allow pairing it with another model's figure."""

    figure: Figure
    replicates: NDArray[np.float64]  # [G], without each group; NaN where undefined
    bounds: tuple[float, float] = UNBOUNDED
    """Smallest and largest possible value."""

    @property
    def value(self) -> float:
        """Return the figure's value, NaN if undefined."""
        return np.nan if self.figure.value is None else self.figure.value

    def scaled(self, factor: float) -> "JackknifedFigure":
        """Return a multiple of the figure, such as 98% of it, for comparison with another one."""
        value = None if self.figure.value is None else self.figure.value * factor
        low, high = sorted(bound * factor if factor else 0.0 for bound in self.bounds)
        figure = replace(self.figure, value=value)
        return replace(self, figure=figure, replicates=self.replicates * factor, bounds=(low, high))

    def minus(self, other: "JackknifedFigure") -> "JackknifedFigure":
        """Return the difference to another figure of the same model and samples, as a figure of its own."""
        (low, high), (other_low, other_high) = self.bounds, other.bounds
        return replace(
            self,
            figure=replace(self.figure, value=defined_or_none(self.value - other.value)),
            replicates=self.replicates - other.replicates,
            bounds=(low - other_high, high - other_low),
        )


def figure(
    values: NDArray[np.float64],
    n: int,
    unit: str,
    signature: str,
    bounds: tuple[float, float] = UNBOUNDED,
    better: Better | None = None,
    note: str | None = None,
) -> Figure:
    """Return a figure with its 95% interval.

    Without at least two groups there is no interval, nor if the figure is undefined without one of the
    groups: it then depends on this group alone.

    Args:
        values: [1 + G], the value (NaN if undefined) followed by its replicates.
        n: number of samples.
        bounds: smallest and largest possible value; the interval does not exceed them.
    """
    value = float(values[0])
    low = high = None
    error = root_mean_square_error(value, values[1:])
    if not np.isnan(value + error):
        low, high = student(value, [(error**2, len(values) - 2)]).interval()
        low, high = max(low, min(bounds[0], value)), min(high, max(bounds[1], value))
    return Figure(defined_or_none(value), low, high, n, unit, signature, better, note)


def mean_of(values: Sequence[float], unit: str, signature: str) -> JackknifedFigure:
    """Return the mean of one value per sample with its replicates."""
    n, x = len(values), np.array(values)
    replicates = (x.sum() - x) / (n - 1) if n > 1 else np.empty(0)
    return JackknifedFigure(figure(np.array([x.mean(), *replicates]), n, unit, signature), replicates)


def root_mean_square_error(value: float, replicates: NDArray[np.float64]) -> float:
    """Return what standard error and bias make together; NaN where the standard error is."""
    bias = (len(replicates) - 1) * (replicates - value).mean() if len(replicates) else np.nan
    return float(np.hypot(standard_error(replicates), bias))


def standard_error(replicates: NDArray[np.float64]) -> float:
    """Return the jackknife's standard error from G replicates; NaN if G < 2 or one of them is undefined."""
    groups = len(replicates)
    if groups < 2:
        return np.nan
    # Equal replicates must give 0, although their mean may differ from them in the last digit.
    deviations = replicates - replicates[0]
    return float(np.sqrt((groups - 1) / groups * ((deviations - deviations.mean()) ** 2).sum()))


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error; its interval and its p-values are Student's t and agree."""

    value: float
    error: float
    freedom: float
    least_p: float = 0.0
    """Smallest two-sided p-value that the samples support."""

    def interval(self) -> tuple[float, float]:
        """Return the 95% bounds."""
        margin = float(stdtrit(self.freedom, (1 + CONFIDENCE) / 2) * self.error) if self.error else 0.0
        return self.value - margin, self.value + margin

    def p_above(self, bound: float) -> float:
        """Return the one-sided p-value of the hypothesis that the quantity is at most `bound`."""
        if self.error == 0:
            return self.least_p / 2 if self.value > bound else 1.0
        return max(float(stdtr(self.freedom, (bound - self.value) / self.error)), self.least_p / 2)

    def p_below(self, bound: float) -> float:
        """Return the one-sided p-value of the hypothesis that the quantity is at least `bound`."""
        return Estimate(-self.value, self.error, self.freedom, self.least_p).p_above(-bound)

    @property
    def p(self) -> float:
        """The two-sided p-value of 0, below .05 if and only if the interval excludes 0."""
        return min(1.0, 2 * min(self.p_above(0), self.p_below(0)))


def student(value: float, variances: Sequence[tuple[float, float]], least_p: float = 0.0) -> Estimate:
    """Return the estimate whose variance is the sum of the variances of independent sources.

    The degrees of freedom are Welch and Satterthwaite's (Welch 1947).

    Args:
        variances: (variance, degrees of freedom) of each source.
        least_p: smallest p-value that the samples support. If it is above 5%, the standard error is raised
            until the interval contains 0.
    """
    error = float(np.sqrt(sum(variance for variance, _ in variances)))
    spread = sum(variance**2 / freedom for variance, freedom in variances)
    freedom = float(error**4 / spread if spread else min((f for _, f in variances), default=1))
    if least_p > 1 - CONFIDENCE:
        error = max(error, float(abs(value) / -stdtrit(freedom, least_p / 2)))
    return Estimate(value, error, freedom, least_p)


def defined_or_none(value: float) -> float | None:
    """Return None for NaN, which stands for an undefined value in arithmetic."""
    return None if np.isnan(value) else float(value)


def mean_defined(values: NDArray[np.float64], axis: int | tuple[int, ...]) -> NDArray[np.float64]:
    """Average over the axes, ignoring NaN; NaN if no value is defined."""
    defined = ~np.isnan(values)
    count = defined.sum(axis=axis)
    total = np.where(defined, values, 0.0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
