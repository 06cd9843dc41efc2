"""Common parts of the scenarios' timed loops: the workload and the loop over its windows."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import log2
from typing import NamedTuple

import numpy as np

from harness.scenarios.settings import Profile, ServerSettings

Clock = Callable[[], int]
"""Monotonic clock in nanoseconds."""

POLL_NS = 1_000_000  # a sleep may end this much too late
WINDOW_SECONDS = 0.05
WASTE = 2.0  # time for disturbed windows that are timed again, as a multiple of the time that counts


class Window(NamedTuple):
    """Timing of a window, which is a fixed part of the samples."""

    position: int  # index in `Workload.windows`; windows of one position have the same samples
    samples: int
    seconds: float


class DisturbedWindow(NamedTuple):
    """A timing of a window during which something else disturbed the machine."""

    position: int
    seconds: float
    reason: str
    replaced: bool  # by another timing; False once the budget for this was spent


Query = list[int]
"""Indices of the samples that the model runs as one batch."""


def wait_until(instant: int) -> None:
    """Return as soon as `perf_counter_ns` has reached an instant: sleep, then poll the clock."""
    while (left := instant - time.perf_counter_ns()) > 0:
        if left > POLL_NS:
            time.sleep((left - POLL_NS) / 1e9)


@dataclass(frozen=True)
class Workload:
    """The queries of a pass over the samples, and how the model runs them on its device.

    A pass has the same queries, in the same windows, every time. Only the order of the windows changes.
    Nothing is logged while a window is timed.
    """

    predict: Callable[[Query], Sequence[object] | None]
    """Runs the samples with these indices as one batch."""
    synchronise: Callable[[], None]
    """Waits until the device has finished its queued work."""
    queries: Sequence[Query]
    """Together they have every sample once."""
    generator: np.random.Generator
    """Draws the order of the windows, or the arrivals of queries."""
    window_queries: int = 1
    """Queries per window; see `window_length`."""
    clock: Clock = time.perf_counter_ns
    check: Callable[[], str] = lambda: ""
    """Called after each window, untimed. Returns why the window was disturbed, or an empty string."""
    reset: Callable[[], None] = lambda: None
    """Called before the first window after a pause. What happened during the pause disturbs no window."""
    server: ServerSettings = field(default_factory=ServerSettings)
    wait: Callable[[int], None] = wait_until
    """Returns as soon as the clock has reached an instant."""

    @cached_property
    def windows(self) -> list[Sequence[Query]]:
        """Return the windows of a pass, by index."""
        step = self.window_queries
        return [self.queries[first : first + step] for first in range(0, len(self.queries), step)]


def fixed_queries(samples: int, size: int) -> list[Query]:
    """Divide samples into queries by a seeded permutation: the same in every process and every version.

    Args:
        samples: A multiple of `size`.
    """
    order = np.random.default_rng(0).permutation(samples).tolist()
    return [order[first : first + size] for first in range(0, samples, size)]


def window_length(pass_seconds: float, queries: int) -> int:
    """Return how many queries of a pass make a window of about `WINDOW_SECONDS`, but at least one.

    It is a power of two, so that processes that differ a little in speed mostly use the same windows.
    """
    wanted = max(1.0, WINDOW_SECONDS * queries / max(pass_seconds, 1e-9))
    return min(queries, 1 << round(log2(wanted)))


def time_windows(
    work: Workload, profile: Profile, time_window: Callable[[Sequence[Query]], list[int]]
) -> tuple[list[tuple[int, list[int]]], list[DisturbedWindow]]:
    """Time whole passes until the profile is satisfied; each pass has every window once, in a fresh order.

    A disturbed window is timed again at the end of its pass, until the time spent on disturbed windows is
    twice the time that counts. After that, disturbed windows count too, so a measurement never ends empty.

    Args:
        time_window: Runs the queries of a window and returns their durations in ns, or their total.

    Returns:
        The timings that count, as position of the window and its durations; and all disturbed windows.
    """
    work.reset()
    timed: list[tuple[int, list[int]]] = []
    disturbed: list[DisturbedWindow] = []
    passes, seconds, wasted = 0, 0.0, 0.0
    samples = sum(map(len, work.queries))
    while passes < profile.passes or passes * samples < profile.samples or seconds < profile.seconds:
        pending = deque(work.generator.permutation(len(work.windows)).tolist())
        while pending:
            position = pending.popleft()
            durations = time_window(work.windows[position])
            duration, reason = sum(durations) / 1e9, work.check()
            replace = bool(reason) and wasted < WASTE * max(seconds, profile.seconds)
            if reason:
                disturbed.append(DisturbedWindow(position, duration, reason, replace))
            if replace:
                pending.append(position)
                wasted += duration
            else:
                timed.append((position, durations))
                seconds += duration
        passes += 1
    return timed, disturbed
