"""Many comparisons: of a dozen equally good models one would be called worse in 26 of 100 comparisons."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import ceil

from harness.compare.outcome import Change, TrialComparison
from harness.metrics.metric import RESAMPLES
from harness.statistics.holm import holm

ALPHA = 0.05  # two-sided, over the suite: 2.5% that anything unchanged is called a regression


def least_resamples(comparisons: int) -> int:
    """How many resamples let one of so many comparisons reach ALPHA: its p is at least 2 in these."""
    return max(RESAMPLES, ceil(2 * comparisons / ALPHA))


def corrected(trials: Sequence[TrialComparison]) -> Iterator[TrialComparison]:
    """A proven change that decides stays one only if it is proven among all that were tested."""
    tested = [change for trial in trials for change in trial.changes if _is_tested(change)]
    adjusted = iter(holm([change.p_value for change in tested if change.p_value is not None]))
    for trial in trials:
        changes = [
            _corrected(change, next(adjusted), len(tested)) if _is_tested(change) else change
            for change in trial.changes
        ]
        yield replace(trial, changes=tuple(changes))


def _is_tested(change: Change) -> bool:
    return change.decides and change.p_value is not None


def _corrected(change: Change, adjusted: float, tested: int) -> Change:
    if change.verdict not in ("regression", "improvement") or adjusted <= ALPHA:
        return change
    reason = (
        f"{change.reason}, but of {tested} comparisons one may be so by chance (Holm: p = {adjusted:.2g})"
    )
    return replace(change, verdict="inconclusive", reason=reason)
