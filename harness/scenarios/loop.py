"""Common parts of the scenarios' timed loops: the workload, the order of its samples, and the warm-up."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from harness.files import StrictModel
from harness.scenarios.settings import Profile

Clock = Callable[[], int]
"""Monotonic clock in nanoseconds."""

WARMUP_ITERATIONS = 10
STABLE_PASSES = 3
STABLE_RATIO = 1.05  # three passes within 5%: steady state in the sense of Traini et al. 2023


class WarmUp(StrictModel):
    """The duration of a process's warm-up, and whether it reached a steady state."""

    iterations: int = Field(description="queries")
    seconds: float
    stable: bool


@dataclass(frozen=True)
class Workload:
    """Samples, and how the model runs them on its device.

    Nothing is logged while it is timed.
    """

    predict: Callable[[list[int]], object]
    """Runs the samples with these indices as one batch."""
    synchronise: Callable[[], None]
    """Waits until the device has finished its queued work."""
    samples: int
    batch_size: int
    """Samples per query; `samples` is a multiple of it."""
    orders: Iterator[list[int]]
    """One permutation of the samples per pass."""
    clock: Clock = time.perf_counter_ns


def permutations(count: int, seed: int) -> Iterator[list[int]]:
    """Yield seeded permutations without end; samples are used equally often, in no fixed order."""
    generator = np.random.default_rng(seed)
    while True:
        yield generator.permutation(count).tolist()


def batches(order: Sequence[int], size: int) -> Iterator[list[int]]:
    """Yield consecutive groups of `size` indices; the length of `order` is a multiple of it."""
    for first in range(0, len(order), size):
        yield list(order[first : first + size])


def warm_up(run_pass: Callable[[], int], clock: Clock, profile: Profile) -> WarmUp:
    """Run passes until three in a row take the same time within 5%, or the profile's cap is reached.

    Args:
        run_pass: Runs every sample once and returns the number of queries.
    """
    start = clock()
    iterations = 0
    durations: list[int] = []
    while True:
        before = clock()
        iterations += run_pass()
        after = clock()
        durations.append(after - before)
        elapsed = (after - start) / 1e9
        last = durations[-STABLE_PASSES:]
        stable = len(last) == STABLE_PASSES and max(last) <= STABLE_RATIO * min(last)
        enough = iterations >= WARMUP_ITERATIONS and elapsed >= profile.warmup_seconds
        if (stable and enough) or elapsed >= profile.warmup_cap:
            return WarmUp(iterations=iterations, seconds=elapsed, stable=stable)
