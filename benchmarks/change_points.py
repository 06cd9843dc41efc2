"""Measure how often `harness.compare.trend` finds a planted step, and one that is not there.

    python benchmarks/change_points.py [--series 1000] [--seed 7]

A step of 3% is planted at a random run of 30, not among the first or last five. It counts as found if a
change point is at most one run away. A flat series has 100 runs. The noise has a standard deviation of 1%:
independent and normal, which is the assumption behind `PENALTY`, and three kinds that violate it.
"""

import argparse

import numpy as np
from numpy.typing import NDArray

from harness.compare.trend import change_points

NOISE = 0.01  # standard deviation, as a fraction of the figure
STEP = 0.03
Series = NDArray[np.float64]


def normal(generator: np.random.Generator, runs: int) -> Series:
    """Return independent normal noise."""
    return NOISE * generator.standard_normal(runs)


def heavy_tails(generator: np.random.Generator, runs: int) -> Series:
    """Return independent noise of Student's t with three degrees of freedom."""
    return NOISE / np.sqrt(3) * generator.standard_t(3, runs)


def one_slow_run_in_fifty(generator: np.random.Generator, runs: int) -> Series:
    """Return normal noise in which 2% of the runs are 12% off."""
    return normal(generator, runs) + 0.12 * (generator.random(runs) < 0.02)


def correlated(generator: np.random.Generator, runs: int) -> Series:
    """Return normal noise in which successive runs have a correlation of 0.3."""
    noise = normal(generator, runs)
    for run in range(1, runs):
        noise[run] = 0.3 * noise[run - 1] + np.sqrt(1 - 0.3**2) * noise[run]
    return noise


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the finding of change points.")
    parser.add_argument("--series", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    generator = np.random.default_rng(arguments.seed)
    for noise in (normal, heavy_tails, one_slow_run_in_fifty, correlated):
        false = sum(bool(change_points(1 + noise(generator, 100))) for _ in range(arguments.series))
        found = 0
        for _ in range(arguments.series):
            start = int(generator.integers(5, 26))
            series = 1 + noise(generator, 30)
            series[start:] *= 1 + generator.choice([-STEP, STEP])
            found += any(abs(point - start) <= 1 for point in change_points(series))
        rates = (100 * count / arguments.series for count in (found, false))
        print("{}: {:.1f}% of steps found, {:.1f}% of flat series with a step".format(noise.__name__, *rates))


if __name__ == "__main__":
    main()
