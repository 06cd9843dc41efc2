"""Speed figures from raw measurements: throughput of windows, percentiles of latencies."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, stdtrit

from harness.task import Figure

CONFIDENCE = 0.95
EARLY_STOPPING_CONFIDENCE = 0.99  # MLPerf Inference rules, early stopping criterion: d = 0.01
LENGTHS = (1, 6, 11, 21, 31, 41, 51, 101)  # tokens at which a bucket of latency by length begins
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
    margin = _margin(rates)
    value = samples / seconds
    unit_of = "processes" if len(totals) > 1 else "windows"
    signature = f"offline|windows:{len(windows)}|processes:{len(totals)}|interval:t over {unit_of}"
    return Figure(value, max(0.0, value - margin), value + margin, samples, "samples/s", signature)


def in_units(throughput: Figure, counts: Sequence[int], name: str) -> Figure:
    """Throughput in another unit than samples.

    Exact, since a window is always whole passes over the samples that `counts` are of.
    """
    mean = sum(counts) / len(counts)
    bounds = (throughput.value, throughput.low, throughput.high)
    value, low, high = (None if bound is None else bound * mean for bound in bounds)
    unit = f"{name.replace('_', ' ')}/s"
    return Figure(value, low, high, round(throughput.n * mean), unit, throughput.signature)


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


def latency(percentile: float, processes: Sequence[Sequence[float]]) -> Figure | None:
    """A percentile of latencies in seconds, by process, as a process shows it on average.

    Latencies of a process are more alike than those of several, so that pooled they are no independent
    sample: of several processes the value is the mean of their percentiles and the interval Student's t
    over these. Of one process it is the distribution-free interval from order statistics, which cannot
    see what changes between processes; the signature says which it is.

    None where a process has fewer than `least_queries`: its percentile would say nothing.
    """
    if min(map(len, processes)) < least_queries(percentile):
        return None
    ordered = [np.sort(np.asarray(latencies, dtype=np.float64)) for latencies in processes]
    # ⌈p·n⌉ in integers: .999 · 7000 is above 6993
    shown = np.array([own[-(-round(percentile * 1000) * len(own) // 100_000) - 1] for own in ordered])
    value, n, k = float(shown.mean()), sum(map(len, ordered)), len(ordered)
    if k > 1:
        margin = _margin(shown)
        low, high, interval = max(0.0, value - margin), value + margin, "t over processes"
    else:
        from scipy.stats import binom  # takes 1.5 s to import, and few need it

        # P(X_(j) ≤ quantile) depends on the binomial distribution of how many of n fall below it.
        tail = (1 - CONFIDENCE) / 2
        below = max(int(binom.ppf(tail, n, percentile / 100)) - 1, 0)
        above = min(int(binom.ppf(1 - tail, n, percentile / 100)), n - 1)
        low, high, interval = float(ordered[0][below]), float(ordered[0][above]), "order statistics"
    return Figure(value, low, high, n, "s", f"p{percentile:g}|processes:{k}|interval:{interval}")


def median_by_length(
    processes: Sequence[Sequence[float]], indices: Sequence[Sequence[int]], lengths: Sequence[int]
) -> list[tuple[int, int | None, Figure]]:
    """Median latency of samples of similar length, by process.

    Args:
        processes: latencies in seconds.
        indices: the sample that each latency is of.
        lengths: of the samples, ≥ 1.

    Returns:
        Shortest and longest length (None: no limit) of each bucket, and its median (see `latency`); buckets
        with too few latencies for one are left out.
    """
    bucket_of = np.searchsorted(LENGTHS, lengths, side="right") - 1
    buckets = []
    for bucket, shortest in enumerate(LENGTHS):
        own = [
            np.asarray(latencies)[bucket_of[np.asarray(measured, dtype=np.int64)] == bucket].tolist()
            for latencies, measured in zip(processes, indices, strict=True)
        ]
        median = latency(50.0, own)
        if median is not None:
            longest = LENGTHS[bucket + 1] - 1 if bucket + 1 < len(LENGTHS) else None
            buckets.append((shortest, longest, median))
    return buckets


def _margin(values: NDArray[np.float64]) -> float:
    """Half of Student's t interval of the mean of at least two values."""
    return float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2) * values.std(ddof=1) / np.sqrt(len(values)))


def mean_duration(seconds: Sequence[float], phase: str) -> Figure:
    """Mean of repeated durations in seconds, with Student's t interval.

    Raises:
        ValueError: fewer than two durations.
    """
    values = np.asarray(seconds, dtype=np.float64)
    if len(values) < 2:
        raise ValueError("an interval needs at least two durations")
    margin = _margin(values)
    mean = float(values.mean())
    return Figure(mean, max(0.0, mean - margin), mean + margin, len(values), "s", f"{phase}|mean|t")
