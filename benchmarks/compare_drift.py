"""Measure how often `harness compare` reports a slowdown if the machine drifts between two runs.

    python benchmarks/compare_drift.py

In the simulation, the processes of a run differ by `--spread` (standard deviation, normal), 6% of them are
12% slower for life, and the whole second run differs by the drift and by the true slowdown. Intervals and
verdicts are those of `harness compare`; a cell has the share of regressions and of passes. The output is
Markdown.
"""

from __future__ import annotations

import argparse

import numpy as np

from harness.compare.speed import slowdown
from harness.compare.speed_verdict import judge

PROCESSES = 7  # as in profile `ci`
SLOW_SHARE, SLOW = 0.06, 1.12  # of processes, and by how much; as found on a shared machine
DRIFTS = (0.0, 0.01, 0.02, 0.03, 0.05)
SLOWDOWNS = {"5% faster": 0.95, "the same speed": 1.0, "5% slower": 1.05, "10% slower": 1.1}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--comparisons", type=int, default=2000, help="comparisons per cell")
    parser.add_argument("--spread", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("| | " + " | ".join(f"drift {drift:.0%}" for drift in DRIFTS) + " |")
    print("|---" * (1 + len(DRIFTS)) + "|")
    for name, factor in SLOWDOWNS.items():
        cells = [
            shares(np.random.default_rng(options.seed), options.comparisons, options.spread, drift, factor)
            for drift in DRIFTS
        ]
        print(f"| {name} | " + " | ".join(f"{slower:.1%} / {passed:.1%}" for slower, passed in cells) + " |")


def shares(
    generator: np.random.Generator, comparisons: int, spread: float, drift: float, factor: float
) -> tuple[float, float]:
    """Return the shares of comparisons that are called a regression and a pass."""
    called = []
    for _ in range(comparisons):
        times = generator.normal(1, spread, (2, PROCESSES))
        times[generator.random(times.shape) < SLOW_SHARE] *= SLOW
        times[1] *= factor * generator.normal(1, drift)
        called.append(judge(slowdown(*times.tolist())).verdict)
    return called.count("regression") / comparisons, called.count("pass") / comparisons


if __name__ == "__main__":
    main()
