"""Points that no other dominates, and the probability of it, given the intervals of both axes.

Accuracies are drawn from a normal distribution whose covariances follow from the paired differences: models
that are compared on the same samples have errors in common, var(d) = var(a) + var(b) − 2 cov(a, b). Speeds
are drawn independently of each other, from a log-normal distribution.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from harness.task import Figure

DRAWS = 4000  # a probability of 97.5% then has a standard error of 0.25%
SEED = 0
_NORMAL = float(ndtri(0.975))

Floats = NDArray[np.float64]


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Return whether each (x, y) is undominated: no other is at least as high in both and higher in one."""
    order = sorted(range(len(points)), key=lambda i: points[i], reverse=True)
    undominated = [False] * len(points)
    best: tuple[float, float] | None = None  # the highest y so far, with the largest x that reached it
    for i in order:
        x, y = points[i]
        if best is None or y > best[1] or (x, y) == best:
            undominated[i] = True
            best = (x, y)
    return undominated


def probabilities(
    accuracies: Sequence[Figure],
    throughputs: Sequence[Figure],
    processes: Sequence[int],
    differences: Mapping[tuple[int, int], Figure],
) -> list[float] | None:
    """Return the probability that no other variant is better in one coordinate and at least as good in both.

    Args:
        accuracies: One per variant, with intervals.
        throughputs: Samples/s of each variant.
        processes: Number of timed processes of each variant.
        differences: (i, j) → accuracy of j − accuracy of i; of equal predictions, one has pairs.

    Returns:
        None if an interval is missing, for example because only one process was timed.
    """
    speeds = [_log_spread(figure, count) for figure, count in zip(throughputs, processes, strict=True)]
    # Of variants with the same predictions, the first has the paired differences, which hold for the others.
    origin = list(range(len(accuracies)))
    for i, j in reversed([*combinations(origin, 2)]):
        if accuracies[i] == accuracies[j] and (i, j) not in differences:
            origin[j] = i
    spreads = [_spread(accuracies[index]) for index in origin]
    if any(spread is None for spread in (*spreads, *speeds, *map(_spread, differences.values()))):
        return None
    errors = np.array(spreads, dtype=np.float64)
    covariance = np.diag(errors**2)
    for (first, second), difference in differences.items():
        i, j = origin[first], origin[second]
        spread = _spread(difference) or 0.0
        covariance[i, j] = covariance[j, i] = (errors[i] ** 2 + errors[j] ** 2 - spread**2) / 2
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.clip(values, 0.0, None))  # the estimates may not be a covariance matrix
    generator = np.random.default_rng(SEED)
    sign = np.array([-1.0 if figure.better == "lower" else 1.0 for figure in accuracies])
    centre = np.array([figure.value for figure in accuracies], dtype=np.float64)
    accuracy = (sign * (centre + generator.standard_normal((DRAWS, len(centre))) @ root.T))[:, origin]
    logs = np.log(np.array([figure.value for figure in throughputs], dtype=np.float64))
    speed = logs + generator.standard_normal(accuracy.shape) * np.array(speeds, dtype=np.float64)
    return [float(share) for share in _undominated(accuracy, speed).mean(axis=0)]


def _undominated(accuracy: Floats, speed: Floats) -> NDArray[np.bool_]:
    """Return for each draw whether each variant is undominated: [draws, variants]."""
    undominated = np.empty(accuracy.shape, dtype=np.bool_)
    for i in range(accuracy.shape[1]):
        more, fast = accuracy - accuracy[:, i : i + 1], speed - speed[:, i : i + 1]
        undominated[:, i] = ~((more >= 0) & (fast >= 0) & ((more > 0) | (fast > 0))).any(axis=1)
    return undominated


def _spread(figure: Figure) -> float | None:
    """Return the standard error behind a 95% interval."""
    return (figure.interval[1] - figure.interval[0]) / 2 / _NORMAL if figure.interval else None


def _log_spread(figure: Figure, processes: int) -> float | None:
    """Return the standard error of the logarithm; few processes have Student's interval."""
    if not figure.low or not figure.high:
        return None
    quantile = float(stdtrit(processes - 1, 0.975)) if 2 <= processes < 6 else _NORMAL
    return float(np.log(figure.high / figure.low)) / 2 / quantile
