"""Interleaved timing of two rivals, so that other load on the machine affects both equally."""

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
    cpu: float  # of this process alone, so that it is valid on a busy machine too


def timed(run: Callable[[], object]) -> Seconds:
    """Time one call, including the work that it leaves running on a GPU."""
    _wait()
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    _wait()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def pairs_of(
    own: Callable[[], object], other: Callable[[], object], pairs: int
) -> list[tuple[Seconds, Seconds]]:
    """Return (own, other) for each pair, timed in the order ABBA after one warm-up call of each."""
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
    """Format the other's time divided by our own, above 1 if ours is faster: median with its interval."""
    ratios = [getattr(other, clock) / getattr(own, clock) for own, other in taken]
    return "{} ratio {:.3f} [{:.3f}, {:.3f}]".format(clock, *median_interval(ratios))


def median_interval(values: list[float]) -> tuple[float, float, float]:
    """Return the median and the order statistics that enclose it with probability ≥ .95 (binomial, p = ½)."""
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
