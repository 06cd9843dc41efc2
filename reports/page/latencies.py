"""How the latencies of a trial are distributed, from the raw ones that its directory keeps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.files import read_json
from harness.rundir.results import TrialRecord

BINS = 40


@dataclass(frozen=True)
class Distribution:
    """Counts of latencies in bins of equal width on a log scale, of all processes together."""

    edges: tuple[float, ...]  # s, ascending, one more than counts
    counts: tuple[int, ...]
    queries: int
    slowest: float  # s


def distribution(latencies: NDArray[np.float64]) -> Distribution:
    """At least one latency in seconds, all positive."""
    low, high = float(latencies.min()), float(latencies.max())
    low, high = (low, high) if high > low * 1.02 else (low / 1.01, high * 1.01)
    edges = np.geomspace(low, high, BINS + 1)
    # A rounded outer edge must not lose the fastest or the slowest query.
    counts, _ = np.histogram(np.clip(latencies, edges[0], edges[-1]), edges)
    return Distribution(tuple(edges.tolist()), tuple(counts.tolist()), len(latencies), float(latencies.max()))


def read_latencies(run_dir: Path, trial: TrialRecord) -> dict[str, Distribution]:
    """Scenario → distribution, of the scenarios that time single queries; empty where raw files are gone."""
    found = {}
    for scenario in trial.speed:
        raw = read_json(run_dir / "trials" / trial.id / "speed" / f"{scenario}.json") or {}
        processes = [process.get("latencies_ns", []) for process in raw.get("processes", [])]
        latencies = np.array([ns for own in processes for ns in own if ns > 0], dtype=np.float64) / 1e9
        if len(latencies):
            found[scenario] = distribution(latencies)
    return found
