"""Distribution of a trial's latencies, from its raw timings."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.rundir.results import TrialRecord
from harness.rundir.speed import read_timings

BINS = 40


@dataclass(frozen=True)
class Distribution:
    """Histogram of the latencies of all processes, with bins of equal width on a log scale."""

    edges: tuple[float, ...]  # s, ascending; one more edge than counts
    counts: tuple[int, ...]
    queries: int
    slowest: float  # s


def distribution(latencies: NDArray[np.float64]) -> Distribution:
    """Compute the histogram of at least one latency in seconds; all are positive."""
    low, high = float(latencies.min()), float(latencies.max())
    low, high = (low, high) if high > low * 1.02 else (low / 1.01, high * 1.01)
    edges = np.geomspace(low, high, BINS + 1)
    # Rounding an outer edge must not exclude the fastest or slowest query.
    counts, _ = np.histogram(np.clip(latencies, edges[0], edges[-1]), edges)
    return Distribution(tuple(edges.tolist()), tuple(counts.tolist()), len(latencies), float(latencies.max()))


def read_latencies(run_dir: Path, trial: TrialRecord) -> dict[str, Distribution]:
    """Return the distribution by scenario, for those scenarios whose queries are timed one by one."""
    distributions = {}
    for scenario in trial.speed:
        timings = read_timings(run_dir / "trials" / trial.id, scenario)
        seconds = chain.from_iterable(timings.latencies()) if timings else ()
        latencies = np.array([latency for latency in seconds if latency > 0], dtype=np.float64)
        if len(latencies):
            distributions[scenario] = distribution(latencies)
    return distributions
