"""Sequential test of two versions that were timed in turns: a few pairs of processes first, then more.

A pair is a fresh process of each version, its datum the logarithm of the ratio of their times per sample.
Some processes are slower for life by a tenth, so the interval is that of the median by order statistics: one
such pair among many makes the signed-rank interval too wide to decide.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from harness.compare.outcome import Change, Verdict
from harness.compare.speed_verdict import POWER, PROVEN, Judgement
from harness.rundir.results import TurnsRecord
from harness.statistics.ranks import median
from harness.task import Figure

LOOKS = {8: 0.004, 14: 0.007, 24: 0.014}
"""Pairs at each look, and the probability of a wrong verdict spent there on either side.

They add up to 2.5%, which bounds the error however the looks depend on each other. Eight pairs are the fewest
that reach the first: 1/256."""


def judge_pairs(
    differences: Sequence[float], limit: float, comparisons: int, resolution: float, *, last: bool = False
) -> Judgement | None:
    """Judge a comparison after another pair; return None if more pairs are needed.

    A *regression* is corrected for the number of comparisons (Bonferroni): if no version is slower by more
    than half its limit, any is called a regression with a probability of at most 2.5%. A *pass* is not
    corrected, because one comparison does not pass wrongly more often for being one of many.

    Args:
        differences: Logarithm of head / base for each pair, at least one.
        limit: Slowdown that a pass excludes, as a fraction.
        comparisons: Number of comparisons that are judged together.
        resolution: Half width that intervals on this machine have at least, as a fraction; 0 if unknown.
        last: No further pair can be timed.
    """
    pairs, slower = len(differences), PROVEN * limit
    if pairs not in LOOKS and not last:
        return None
    alpha = next(alpha for look, alpha in LOOKS.items() if pairs <= look)
    estimate = median(differences, 1 - 2 * alpha)
    corrected = median(differences, 1 - 2 * alpha / comparisons).low
    value, low, high = (
        None if bound is None else float(np.expm1(bound))
        for bound in (estimate.value, estimate.low, estimate.high)
    )
    signature = f"10th percentile of repeated times per sample|ln ratio|median over pairs|alpha:{alpha:g}"
    slowdown = Figure(value, low, high, pairs, "of the time per sample", signature)
    if value is None or low is None or high is None:
        return Judgement("inconclusive", f"{pairs} pairs are too few for an interval", slowdown)
    proven = low if corrected is None else float(np.expm1(corrected))
    detectable = slower + POWER * max(high - value, value - proven, resolution)
    verdict: Verdict = "inconclusive"
    if corrected is not None and proven > slower:
        verdict, reason = "regression", f"slower by more than {slower:.1%}"
    elif high < 0 or (high < limit and detectable <= limit):
        verdict, reason = "pass", f"not slower by {limit:.1%}"
    elif pairs < max(LOOKS) and not last:
        return None
    elif high >= limit:
        reason = f"the slowdown may be below {slower:.1%} or above {limit:.1%}"
    else:
        reason = f"a slowdown of {limit:.1%} could have been missed"
    reason = f"{reason}; detectable with {pairs} pairs: {detectable:.1%}"
    return Judgement(verdict, reason, slowdown, detectable)


def turns_changes(turns: Mapping[str, TurnsRecord]) -> Iterator[Change]:
    """Yield the change of the time per sample in each scenario of a trial that was timed in turns."""
    for name, record in turns.items():
        yield Change(
            figure_kind="speed",
            name=f"{name} time per sample",
            base=record.base,
            head=record.head,
            difference=record.slowdown,
            verdict=record.verdict,
            reason=record.reason,
            decides=record.decides,
            detectable=record.detectable,
        )
