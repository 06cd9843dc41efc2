"""Two rivals timed in turn, so that what else a machine does falls on both; for the benchmarks of peers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import binom


@dataclass(frozen=True)
class Seconds:
    wall: float
    cpu: float  # of this process alone, so that it holds on a busy machine too


def timed(run: Callable[[], object]) -> Seconds:
    """One call; what it left running on a GPU is waited for."""
    _wait()
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    _wait()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def pairs_of(
    own: Callable[[], object], other: Callable[[], object], pairs: int
) -> list[tuple[Seconds, Seconds]]:
    """(own, other) of each pair, in the order ABBA; one call of each before."""
    own(), other()
    taken = []
    for pair in range(pairs):
        if pair % 2:
            first = timed(own)
            taken.append((first, timed(other)))
        else:
            second = timed(other)
            taken.append((timed(own), second))
    return taken


def ratio(taken: list[tuple[Seconds, Seconds]], clock: str) -> str:
    """Other's time by own, above 1 own is faster: median with its interval."""
    ratios = [getattr(other, clock) / getattr(own, clock) for own, other in taken]
    return "{} ratio {:.3f} [{:.3f}, {:.3f}]".format(clock, *median_interval(ratios))


def median_interval(values: list[float]) -> tuple[float, float, float]:
    """Median, and the order statistics that enclose it with probability ≥ .95 (binomial, p = ½)."""
    ordered = sorted(values)
    low = int(binom.ppf(0.025, len(ordered), 0.5))
    return (
        float(np.median(ordered)),
        ordered[max(0, low - 1)],
        ordered[min(len(ordered) - 1, len(ordered) - low)],
    )


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
