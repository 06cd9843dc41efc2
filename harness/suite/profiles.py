"""Speed profiles: how long speed is measured, and what a timed trial has to itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Profile:
    """How long is long enough."""

    seconds: float
    queries: int
    processes: int
    warmup_seconds: float = 2.0
    warmup_cap: float = 30.0
    gates: bool = True


# Minimum seconds, queries and fresh processes by purpose. `mlperf` takes its query count and duration from
# the MLPerf Inference rules (offline: 24,576 samples; 600 s), `release` and `ci` the least queries that
# support p99 and p90 (harness.metrics.speed.least_queries). A batch counts as one query, so that offline runs
# ask for more samples than those rules do. `smoke` shows that it works and never gates.
PROFILES = {
    "smoke": Profile(1, 11, 1, warmup_seconds=0.5, warmup_cap=5.0, gates=False),
    "ci": Profile(5, 64, 6),
    "release": Profile(60, 662, 10),
    "mlperf": Profile(600, 24_576, 1),
}


Exclusive = Literal["node", "gpu"]
GATING = frozenset(name for name, profile in PROFILES.items() if profile.gates)
