"""Speed figures from raw timings: throughput, and percentiles of latencies, over processes."""

from bisect import bisect
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.special import betainc, stdtrit

from harness.statistics.ranks import Estimate, location
from harness.task import Figure

CONFIDENCE = 0.95
EARLY_STOPPING_CONFIDENCE = 0.99  # MLPerf Inference rules, early stopping criterion: d = 0.01
PERCENTILES = (50.0, 90.0, 95.0, 97.0, 99.0, 99.9)


def over_processes(values: Sequence[float], n: int, unit: str, signature: str) -> Figure:
    """Return a typical value, given a positive one per process, with an interval over the processes.

    Processes of one model differ in speed for life, and an occasional one is far slower. The value is
    therefore the Hodges-Lehmann estimate on logarithms. Six or more processes have the exact signed-rank
    interval, two to five Student's t on logarithms. One process has no interval, because it does not show how
    much processes vary.

    Args:
        n: Number of measurements from which the values were computed.
        signature: Names the statistic; the number of processes and the kind of interval are appended.
    """
    logs = np.log(values)
    estimate, kind = location(logs, CONFIDENCE), "signed rank over processes"
    if len(logs) > 1 and estimate.low is None:
        margin = stdtrit(len(logs) - 1, (1 + CONFIDENCE) / 2) * logs.std(ddof=1) / np.sqrt(len(logs))
        kind = "t over processes"
        estimate = Estimate(estimate.value, logs.mean() - margin, logs.mean() + margin)
    typical = estimate.mapped(np.exp)
    if len(logs) == 1:
        typical, kind = Estimate(float(values[0]), None, None), "none, one process"
    signature = f"{signature}|processes:{len(logs)}|interval:{kind}"
    return Figure(typical.value, typical.low, typical.high, n, unit, signature)


def throughput(seconds_per_sample: Sequence[float], samples: int) -> Figure:
    """Compute samples per second from the median time per sample of each process, over all timed samples."""
    rates = [1 / seconds for seconds in seconds_per_sample]
    return over_processes(rates, samples, "samples/s", "offline|median per window")


def in_units(throughput: Figure, counts: Sequence[int], name: str) -> Figure:
    """Convert a throughput to another unit per second, such as `source_tokens`, given the units per sample.

    The conversion is exact, because throughput is that of whole passes over the samples.
    """
    mean = sum(counts) / len(counts)
    numbers = (throughput.value, throughput.low, throughput.high)
    value, low, high = (None if number is None else number * mean for number in numbers)
    unit = f"{name.replace('_', ' ')}/s"
    return Figure(value, low, high, round(throughput.n * mean), unit, throughput.signature)


@lru_cache
def rank_of_bound(percentile: float, queries: int) -> int:
    """Return t if the t-th largest of so many latencies is an upper bound of a percentile, or 0 if none is.

    This is the early stopping criterion of the MLPerf Inference rules. At most t queries may be slower than
    the bound per h(t) that are not, where h(t) is the smallest number with I_p(h, t + 1) ≤ 1 − c (regularised
    incomplete beta function). The rank is the largest t with h(t) + t ≤ `queries`.
    """
    slower = np.arange(queries)
    luck = betainc(queries - slower, slower + 1, percentile / 100)  # rises with t
    return max(0, int(np.searchsorted(luck, 1 - EARLY_STOPPING_CONFIDENCE, side="right")) - 1)


@lru_cache
def least_queries(percentile: float) -> int:
    """Return how many queries are needed to estimate a percentile: the fewest that bound it (t = 1)."""
    return bisect(range(20_000), 0, key=lambda queries: rank_of_bound(percentile, queries))


def latency(percentile: float, processes: Sequence[Sequence[float]]) -> Figure | None:
    """Compute a percentile of latencies in seconds, grouped by process; None with fewer than `least_queries`.

    Latencies of one process resemble each other more than those of different processes, so value and interval
    are over the percentiles of the processes.
    """
    if min(map(len, processes)) < least_queries(percentile):
        return None
    # The index ⌈p·n⌉ − 1 is computed in integers, because in floating point .999 · 7000 is above 6993.
    per_mille = round(percentile * 1000)
    percentiles = [sorted(times)[-(-per_mille * len(times) // 100_000) - 1] for times in processes]
    return over_processes(percentiles, sum(map(len, processes)), "s", f"p{percentile:g}")


def duration(seconds: Sequence[float], phase: str) -> Figure:
    """Compute the typical duration in seconds of a phase, given that of each process."""
    return over_processes(seconds, len(seconds), "s", f"{phase}|median")


def energy(joules: Sequence[float | None]) -> Figure | None:
    """Compute the energy per sample from that of each process, or None unless every process knows it."""
    known = [value for value in joules if value]
    if not known or len(known) < len(joules):
        return None
    return over_processes(known, len(known), "J", "energy")
