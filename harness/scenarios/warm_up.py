"""The warm-up of a timed process, which ends when little of its effect is left, as far as can be seen.

A pass takes level · (1 + r · e^((end − t) / TIME_CONSTANT)) at time t. The estimate of r, what is left at the
end, is Theil and Sen's slope over blocks of passes. A low quantile represents each block, because other work
on the machine lengthens some passes. Error rates are in docs/speed.md.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from pydantic import Field

from harness.files import StrictModel
from harness.scenarios.settings import Profile

TIME_CONSTANT = 10.0  # s; part of an effect that fades more slowly goes unnoticed
RELEVANT = 0.01  # effect that may be left, as a share of the time per pass
SKIPPED = 0.25  # share of the warm-up at its start that is not judged
MIN_BLOCKS, MAX_BLOCKS = 6, 40
BLOCK_SECONDS = 0.5  # at least: most bursts of other work are shorter, so that blocks are nearly independent
QUANTILE = 0.25  # of the passes of a block
STEADY_Z, TREND_Z = 1.960, 2.326  # one-sided: 97.5% for the upper bound of what is left, 99% for a trend
LOOK_GROWTH = 1.1  # each look at the passes comes after 10% more time
CURVE_POINTS = 100


class WarmUp(StrictModel):
    """The duration of a process's warm-up, and whether it reached a steady state."""

    iterations: int = Field(description="queries")
    seconds: float
    stable: bool = Field(description="false if passes still became faster by a relevant amount at the end")
    remaining: float | None = Field(
        None, description="estimated excess of a pass at the end over a warm one, a share; null if unknown"
    )
    curve: list[tuple[float, float]] = Field(
        default_factory=list, description="end and duration of at most 100 evenly chosen passes, s"
    )


class Trend(NamedTuple):
    """The effect of the warm-up that is left at its end, as a share of the time per pass."""

    remaining: float
    upper: float
    """Its upper bound of 97.5%."""
    falling: bool
    """True if the time per pass falls, by Mann and Kendall's test at 1%."""


def warm_up(run_pass: Callable[[], int], clock: Callable[[], int], profile: Profile) -> WarmUp:
    """Run passes until they are steady, or no trend is seen after the profile's patience, or until its cap.

    Args:
        run_pass: Runs every sample once and returns the number of queries.
        clock: Monotonic clock in nanoseconds.
    """
    start = before = clock()
    iterations, look = 0, profile.warmup_seconds
    ends: list[float] = []
    durations: list[float] = []
    while True:
        iterations += run_pass()
        now = clock()
        ends.append((now - start) / 1e9)
        durations.append((now - before) / 1e9)
        elapsed = ends[-1]
        if iterations >= profile.warmup_queries and elapsed >= look:
            look = LOOK_GROWTH * elapsed
            trend = estimate_trend(ends, durations)
            falling = trend is not None and trend.falling
            limit = profile.warmup_cap if falling else profile.warmup_patience
            if elapsed >= limit or (trend and trend.upper < RELEVANT):
                break
        before = clock()
    chosen = np.unique(np.linspace(0, len(ends) - 1, CURVE_POINTS).round().astype(int))
    return WarmUp(
        iterations=iterations,
        seconds=elapsed,
        stable=not (trend and falling and trend.remaining > RELEVANT),
        remaining=trend and trend.remaining,
        curve=[(ends[index], durations[index]) for index in chosen],
    )


def estimate_trend(ends: Sequence[float], durations: Sequence[float]) -> Trend | None:
    """Estimate what is left from the end and duration of each pass in seconds; None if they are too few.

    The bound is Sen's (1968), from the variance of Kendall's S.
    """
    times, seconds = np.array(ends), np.array(durations)
    first = int(np.searchsorted(times, SKIPPED * times[-1]))
    span = (1 - SKIPPED) * times[-1]
    n = min(MAX_BLOCKS, len(times) - first, int(span / BLOCK_SECONDS))
    if n < MIN_BLOCKS:
        return None
    blocks = np.array_split(np.arange(first, len(times)), n)
    left = np.exp([(times[-1] - times[block].mean()) / TIME_CONSTANT for block in blocks])
    low = np.array([np.quantile(seconds[block], QUANTILE) for block in blocks])
    earlier, later = np.triu_indices(n, 1)
    falls = low[earlier] - low[later]
    slopes = np.sort(falls / (left[earlier] - left[later]))
    deviation = np.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    level = np.median(low - np.median(slopes) * left)
    bound = round((len(slopes) + STEADY_Z * deviation) / 2)
    falling = (np.sign(falls).sum() - 1) / deviation > TREND_Z
    return Trend(float(np.median(slopes) / level), float(slopes[bound] / level), bool(falling))
