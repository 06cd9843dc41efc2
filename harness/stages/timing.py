"""The timed loop: warm-up, windows, raw latencies. Clock and work are passed in; nothing is logged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from harness.suite.profiles import Profile

Clock = Callable[[], int]
"""Nanoseconds, monotonic."""


WARMUP_ITERATIONS = 10
STABLE_WINDOWS = 3
STABLE_RATIO = 1.05  # three windows within 5%: steady state, as Traini et al. 2023 define it in spirit
LEAST_WINDOWS = 5  # for a usable t interval


@dataclass(frozen=True)
class WarmUp:
    """How steady state was reached, or not."""

    iterations: int
    seconds: float
    stable: bool


def permutations(count: int, seed: int) -> Iterator[list[int]]:
    """Endless seeded permutations: every sample is used equally often, never in a learnt order."""
    generator = np.random.default_rng(seed)
    while True:
        yield generator.permutation(count).tolist()


def batches(order: Sequence[int], size: int) -> Iterator[list[int]]:
    """Consecutive groups of `size`; the order's length is a multiple of it."""
    for first in range(0, len(order), size):
        yield list(order[first : first + size])


def warm_up(run_pass: Callable[[], int], clock: Clock, profile: Profile) -> WarmUp:
    """Run passes over the samples until three in a row take the same time within 5%, or the cap is hit.

    A pass runs every sample once and returns how many queries that was.
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
        last = durations[-STABLE_WINDOWS:]
        stable = len(last) == STABLE_WINDOWS and max(last) <= STABLE_RATIO * min(last)
        enough = iterations >= WARMUP_ITERATIONS and elapsed >= profile.warmup_seconds
        if (stable and enough) or elapsed >= profile.warmup_cap:
            return WarmUp(iterations, elapsed, stable)


def offline(
    run: Callable[[list[int]], object],
    synchronise: Callable[[], None],
    clock: Clock,
    profile: Profile,
    count: int,
    batch_size: int,
    orders: Iterator[list[int]],
) -> list[tuple[int, float]]:
    """Windows of (samples, seconds), each one pass over all samples, synchronised at its ends only."""
    windows: list[tuple[int, float]] = []
    queries = 0
    total = 0.0
    while queries < profile.queries or total < profile.seconds or len(windows) < LEAST_WINDOWS:
        groups = list(batches(next(orders), batch_size))
        synchronise()
        start = clock()
        for group in groups:
            run(group)
        synchronise()
        seconds = (clock() - start) / 1e9
        windows.append((count, seconds))
        queries += len(groups)
        total += seconds
    return windows


def single_stream(
    run: Callable[[list[int]], object],
    synchronise: Callable[[], None],
    clock: Clock,
    profile: Profile,
    orders: Iterator[list[int]],
) -> list[int]:
    """Latencies in ns, one sample after the other, whole passes only."""
    latencies: list[int] = []
    total = 0
    while len(latencies) < profile.queries or total < profile.seconds * 1e9:
        for index in next(orders):
            synchronise()
            start = clock()
            run([index])
            synchronise()
            latencies.append(clock() - start)
            total += latencies[-1]
    return latencies
