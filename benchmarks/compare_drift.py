"""Measure how often `harness compare` reports a slowdown if the machine drifts between two runs.

    python benchmarks/compare_drift.py

In the simulation, the processes of a run differ by `--spread` (standard deviation, normal), and the whole
second run by the drift and by the true slowdown. Intervals and verdicts are those of `harness compare`. The
output is Markdown.
"""

from __future__ import annotations

import argparse

import numpy as np

from harness.compare.speed import time_difference
from harness.compare.speed_verdict import decide

PROCESSES = 6  # as in profile `ci`
DRIFTS = (0.0, 0.01, 0.02, 0.03, 0.05)
SLOWDOWNS = {"the same speed": 1.0, "5% slower": 1.05, "10% slower": 1.1}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--comparisons", type=int, default=2000, help="comparisons per cell")
    parser.add_argument("--spread", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("| | " + " | ".join(f"drift {drift:.0%}" for drift in DRIFTS) + " |")
    print("|---" * (1 + len(DRIFTS)) + "|")
    for name, factor in SLOWDOWNS.items():
        fractions = [
            regressions(
                np.random.default_rng(options.seed), options.comparisons, options.spread, drift, factor
            )
            for drift in DRIFTS
        ]
        print(f"| {name} | " + " | ".join(f"{fraction:.1%}" for fraction in fractions) + " |")


def regressions(
    generator: np.random.Generator, comparisons: int, spread: float, drift: float, factor: float
) -> float:
    """Return the fraction of comparisons that are reported as a regression."""
    reported = 0
    for _ in range(comparisons):
        times = generator.normal(1, spread, (2, PROCESSES))
        times[1] *= factor * generator.normal(1, drift)
        difference = time_difference(*times.tolist(), "processes")
        reported += decide("ci", PROCESSES, difference)[0] == "regression"
    return reported / comparisons


if __name__ == "__main__":
    main()
