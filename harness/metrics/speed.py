"""Speed figures from raw measurements: throughput of windows, percentiles of latencies."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.special import betainc
from scipy.stats import binom, t

from harness.task import Figure

CONFIDENCE = 0.95
EARLY_STOPPING_CONFIDENCE = 0.99  # MLPerf Inference rules, early stopping criterion: d = 0.01
PERCENTILES = (50.0, 90.0, 95.0, 97.0, 99.0, 99.9)


def throughput(processes: Sequence[Sequence[tuple[int, float]]]) -> Figure:
    """Samples per second over windows of (samples, seconds), by process.

    The value is all samples over all seconds. The interval is Student's t over processes where there are
    several, else over the windows of the one process; the latter cannot see what changes between
    processes, and the signature says which it is.

    Raises:
        ValueError: fewer than two windows in all.
    """
    windows = [window for process in processes for window in process]
    totals = [(sum(n for n, _ in process), sum(s for _, s in process)) for process in processes]
    groups = totals if len(totals) > 1 else windows
    if len(groups) < 2:
        raise ValueError("an interval needs at least two windows")
    samples, seconds = sum(n for n, _ in totals), sum(s for _, s in totals)
    rates = np.array([n / s for n, s in groups])
    margin = float(t.ppf((1 + CONFIDENCE) / 2, len(rates) - 1) * rates.std(ddof=1) / np.sqrt(len(rates)))
    value = samples / seconds
    unit_of = "processes" if len(totals) > 1 else "windows"
    signature = f"offline|windows:{len(windows)}|processes:{len(totals)}|interval:t over {unit_of}"
    return Figure(value, max(0.0, value - margin), value + margin, samples, "samples/s", signature)


@lru_cache
def least_queries(percentile: float, confidence: float = EARLY_STOPPING_CONFIDENCE) -> int:
    """How many queries a percentile needs before anything may be said of it.

    MLPerf's early stopping at t = 1: one query may exceed the bound if h further ones do not, with h the
    smallest number for which I_p(h, 2) ≤ 1 − c (regularised incomplete beta function).
    """
    p = percentile / 100
    h = 1
    while betainc(h, 2, p) > 1 - confidence:
        h += 1
    return h + 1


def latency(percentile: float, latencies: Sequence[float]) -> Figure | None:
    """A percentile of latencies in seconds, with its distribution-free interval from order statistics.

    None below `least_queries`: such a number would say nothing.
    """
    n = len(latencies)
    if n < least_queries(percentile):
        return None
    p = percentile / 100
    ordered = np.sort(np.asarray(latencies, dtype=np.float64))
    tail = (1 - CONFIDENCE) / 2
    # P(X_(j) ≤ quantile) depends on the binomial distribution of how many of n fall below it.
    below = max(int(binom.ppf(tail, n, p)) - 1, 0)
    above = min(int(binom.ppf(1 - tail, n, p)), n - 1)
    rank = -(-round(percentile * 1000) * n // 100_000)  # ⌈p·n⌉ in integers: .999 · 7000 is above 6993
    value = float(ordered[rank - 1])
    return Figure(
        value, float(ordered[below]), float(ordered[above]), n, "s", f"p{percentile:g}|order statistics"
    )


def mean_duration(seconds: Sequence[float], phase: str) -> Figure:
    """Mean of repeated durations in seconds, with Student's t interval.

    Raises:
        ValueError: fewer than two durations.
    """
    values = np.asarray(seconds, dtype=np.float64)
    if len(values) < 2:
        raise ValueError("an interval needs at least two durations")
    margin = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    mean = float(values.mean())
    return Figure(mean, max(0.0, mean - margin), mean + margin, len(values), "s", f"{phase}|mean|t")
