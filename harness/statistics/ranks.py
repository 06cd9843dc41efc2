"""Rank estimates of a location and of a shift, which one odd value among several hardly moves.

The intervals are exact: they invert the null distribution of the Wilcoxon signed-rank statistic and of the
Mann-Whitney statistic, or count signs (Hollander, Wolfe & Chicken 2014, *Nonparametric Statistical Methods*,
§3.3, §4.3, §3.6).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A value with its interval. The bounds are None if there are too few values for the confidence."""

    value: float
    low: float | None
    high: float | None

    def mapped(self, function: Callable[[float], float]) -> "Estimate":
        """Return the estimate with an increasing function applied to its value and bounds."""
        low, high = (None if bound is None else float(function(bound)) for bound in (self.low, self.high))
        return Estimate(float(function(self.value)), low, high)


def location(values: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Return the Hodges-Lehmann estimate of the centre of values, with the signed-rank interval.

    That is the median of the means of all pairs, each value with itself included. The interval assumes a
    symmetric distribution. Six values are enough for 95%, eight for 99%.
    """
    x = np.asarray(values, dtype=np.float64)
    first, second = np.triu_indices(len(x))
    return _estimate((x[first] + x[second]) / 2, _signed_rank(len(x)), confidence)


def shift(base: ArrayLike, head: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Return the Hodges-Lehmann estimate of head − base, with the Mann-Whitney interval.

    That is the median of the differences of all pairs. The interval assumes that the distributions have one
    shape. Four values per side are enough for 95%.
    """
    x, y = np.asarray(base, dtype=np.float64), np.asarray(head, dtype=np.float64)
    return _estimate((y[:, None] - x[None, :]).ravel(), _mann_whitney(len(x), len(y)), confidence)


def median(values: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Return the median of values, with the interval of their population's median by order statistics.

    It needs no symmetry, and a few values far away hardly widen it. Six values are enough for 95%.
    """
    x = np.asarray(values, dtype=np.float64)
    return _estimate(x, np.array([math.comb(len(x), k) for k in range(len(x) + 1)]) / 2 ** len(x), confidence)


def _estimate(values: Floats, probabilities: Floats, confidence: float) -> Estimate:
    """Return the median of values, and those of them that bound the interval.

    Args:
        probabilities: Null distribution of the number of values above 0.
    """
    ordered = np.sort(values)
    # The largest number of values that may be left out at either end.
    cut = int(np.searchsorted(np.cumsum(probabilities), (1 - confidence) / 2 * (1 + 1e-12), side="right")) - 1
    low, high = (None, None) if cut < 0 else (float(ordered[cut]), float(ordered[-1 - cut]))
    return Estimate(float(np.median(ordered)), low, high)


@lru_cache
def _signed_rank(n: int) -> Floats:
    """Return the probability of each sum of ranks, 0 to n(n + 1)/2, if each of n signs is a fair coin."""
    probabilities = np.ones(1)
    for rank in range(1, n + 1):
        without = np.pad(probabilities, (0, rank))
        probabilities = (without + np.roll(without, rank)) / 2
    return probabilities


@lru_cache
def _mann_whitney(m: int, n: int) -> Floats:
    """Return the probability of each number, 0 to m·n, of pairs in which the second of two samples is larger.

    The numbers of arrangements are the coefficients of a Gaussian binomial: ∏ (1 − xⁿ⁺ⁱ) / (1 − xⁱ) for i = 1
    to m. Python's integers keep them exact.
    """
    counts = [1] + [0] * (m * n)
    for i in range(1, m + 1):
        for power in range(m * n, n + i - 1, -1):
            counts[power] -= counts[power - n - i]
        for power in range(i, m * n + 1):
            counts[power] += counts[power - i]
    total = sum(counts)
    return np.array([count / total for count in counts])
