"""Speed figures from raw timings: throughput from windows, percentiles of latencies."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, stdtrit

from harness.scenarios.scenario import LatencyByLength
from harness.task import Figure

CONFIDENCE = 0.95
EARLY_STOPPING_CONFIDENCE = 0.99  # MLPerf Inference rules, early stopping criterion: d = 0.01
LENGTHS = (1, 6, 11, 21, 31, 41, 51, 101)  # shortest length of each bucket of latency by length, in tokens
PERCENTILES = (50.0, 90.0, 95.0, 97.0, 99.0, 99.9)


def throughput(processes: Sequence[Sequence[tuple[int, float]]]) -> Figure:
    """Compute samples per second from windows of (samples, seconds), grouped by process.

    The value is the total of samples divided by the total of seconds. The interval is Student's t over
    processes if there are several, otherwise over the windows of the one process. The latter does not include
    variation between processes. The signature names the kind of interval.

    Raises:
        ValueError: There are fewer than two windows in total.
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
    """Convert a throughput from samples per second to another unit per second.

    The conversion is exact, because every window consists of whole passes over the samples.

    Args:
        counts: Units per sample.
        name: Name of the unit, such as `source_tokens`.
    """
    mean = sum(counts) / len(counts)
    bounds = (throughput.value, throughput.low, throughput.high)
    value, low, high = (None if bound is None else bound * mean for bound in bounds)
    unit = f"{name.replace('_', ' ')}/s"
    return Figure(value, low, high, round(throughput.n * mean), unit, throughput.signature)


@lru_cache
def least_queries(percentile: float, confidence: float = EARLY_STOPPING_CONFIDENCE) -> int:
    """Return how many queries are needed to estimate a percentile.

    This is the early stopping criterion of the MLPerf Inference rules at t = 1. One query may be slower than
    the estimate per h queries that are not, where h is the smallest number with I_p(h, 2) ≤ 1 − c
    (regularised incomplete beta function).
    """
    p = percentile / 100
    h = 1
    while betainc(h, 2, p) > 1 - confidence:
        h += 1
    return h + 1


def latency(percentile: float, processes: Sequence[Sequence[float]]) -> Figure | None:
    """Compute a percentile of latencies in seconds, grouped by process.

    Latencies of one process resemble each other more than those of different processes, so pooled latencies
    are not an independent sample. With several processes, the value is therefore the mean of their
    percentiles and the interval is Student's t over these percentiles. With one process, the interval is the
    distribution-free one from order statistics, which does not include variation between processes. The
    signature names the kind of interval.

    Returns:
        The figure, or None if a process has fewer than `least_queries` latencies.
    """
    if min(map(len, processes)) < least_queries(percentile):
        return None
    ordered = [np.sort(np.asarray(latencies, dtype=np.float64)) for latencies in processes]
    percentiles = np.array([process[_rank(percentile, len(process))] for process in ordered])
    value, n, k = float(percentiles.mean()), sum(map(len, ordered)), len(ordered)
    if k > 1:
        margin = _margin(percentiles)
        low, high, interval = max(0.0, value - margin), value + margin, "t over processes"
    else:
        from scipy.stats import binom  # takes 1.5 s to import and is rarely needed

        # P(X_(j) ≤ quantile) follows from the number of the n latencies below it, which is binomial.
        tail = (1 - CONFIDENCE) / 2
        below = max(int(binom.ppf(tail, n, percentile / 100)) - 1, 0)
        above = min(int(binom.ppf(1 - tail, n, percentile / 100)), n - 1)
        low, high, interval = float(ordered[0][below]), float(ordered[0][above]), "order statistics"
    return Figure(value, low, high, n, "s", f"p{percentile:g}|processes:{k}|interval:{interval}")


def _rank(percentile: float, n: int) -> int:
    """Return the index ⌈p·n⌉ − 1 of a percentile among n sorted values.

    The product is computed in integers, because in floating point .999 · 7000 is above 6993.
    """
    return -(-round(percentile * 1000) * n // 100_000) - 1


def median_by_length(
    processes: Sequence[Sequence[float]], indices: Sequence[Sequence[int]], lengths: Sequence[int]
) -> list[LatencyByLength]:
    """Compute the median latency (see `latency`) of samples of similar length.

    Args:
        processes: Latencies in seconds, grouped by process.
        indices: Index of the sample of each latency, in the same grouping.
        lengths: Length of each sample, ≥ 1.

    Returns:
        One entry per bucket of `LENGTHS` that has enough latencies in every process.
    """
    bucket_of = np.searchsorted(LENGTHS, lengths, side="right") - 1
    by_length = []
    for bucket, shortest in enumerate(LENGTHS):
        inside = [
            np.asarray(latencies)[bucket_of[np.asarray(samples, dtype=np.int64)] == bucket].tolist()
            for latencies, samples in zip(processes, indices, strict=True)
        ]
        median = latency(50.0, inside)
        if median is not None:
            longest = LENGTHS[bucket + 1] - 1 if bucket + 1 < len(LENGTHS) else None
            by_length.append(LatencyByLength(shortest=shortest, longest=longest, median=median))
    return by_length


def _margin(values: NDArray[np.float64]) -> float:
    """Return half the width of Student's t interval of the mean of at least two values."""
    return float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2) * values.std(ddof=1) / np.sqrt(len(values)))


def mean_duration(seconds: Sequence[float], phase: str) -> Figure:
    """Compute the mean of repeated durations in seconds, with Student's t interval.

    Raises:
        ValueError: There are fewer than two durations.
    """
    values = np.asarray(seconds, dtype=np.float64)
    if len(values) < 2:
        raise ValueError("an interval needs at least two durations")
    margin = _margin(values)
    mean = float(values.mean())
    return Figure(mean, max(0.0, mean - margin), mean + margin, len(values), "s", f"{phase}|mean|t")
