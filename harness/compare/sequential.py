"""Sequential test of two versions that were timed in turns: a few pairs of processes first, then more.

A pair is a fresh process of each version, its datum the logarithm of the ratio of their times per sample.
Some processes are slower for life by a tenth, so the interval is that of the median by order statistics: one
such pair among many makes the signed-rank interval too wide to decide.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from harness.compare.outcome import Change
from harness.compare.speed_verdict import Judgement, judge
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
    corrected, because one comparison does not pass wrongly more often for being one of many. With too few
    pairs for the correction, no regression could be found, so only a version that is faster passes.

    Args:
        differences: Logarithm of head / base for each pair, at least one.
        limit: Slowdown that a pass excludes, as a fraction.
        comparisons: Number of comparisons that are judged together.
        resolution: Half width that intervals on this machine have at least, as a fraction; 0 if unknown.
        last: No further pair can be timed.
    """
    pairs = len(differences)
    if pairs not in LOOKS and not last:
        return None
    alpha = next(alpha for look, alpha in LOOKS.items() if pairs <= look)
    estimate = median(differences, 1 - 2 * alpha).mapped(np.expm1)
    proven = median(differences, 1 - 2 * alpha / comparisons).mapped(np.expm1).low
    signature = f"10th percentile of repeated times per sample|ln ratio|median over pairs|alpha:{alpha:g}"
    value, high = estimate.value, estimate.high
    slowdown = Figure(value, estimate.low, high, pairs, "of the time per sample", signature)
    if high is not None and proven is not None:
        half_width = max(high - value, value - proven, resolution)
        judgement = judge(slowdown, limit, proven, half_width, f"detectable with {pairs} pairs")
    elif high is not None and high < 0:
        judgement = Judgement("pass", f"not slower by {limit:.1%}", slowdown)
    else:
        purpose = "an interval" if high is None else f"{comparisons} comparisons"
        judgement = Judgement("inconclusive", f"{pairs} pairs are too few for {purpose}", slowdown)
    undecided = judgement.verdict == "inconclusive" and pairs < max(LOOKS) and not last
    return None if undecided else judgement


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
