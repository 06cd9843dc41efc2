"""Correction of the verdicts for the number of comparisons (Holm 1979).

Uncorrected, comparing a dozen equally good models would report at least one of them as worse in 26% of runs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from harness.compare.outcome import Change, TrialComparison
from harness.statistics.holm import holm

ALPHA = 0.05  # two-sided, over the suite: any unchanged figure is called a regression with probability 2.5%


def correct_verdicts(trials: Sequence[TrialComparison]) -> Iterator[TrialComparison]:
    """Make a proven change inconclusive if it is no longer proven after the correction.

    All changes that were tested and that decide are corrected together.
    """
    tested = [change for trial in trials for change in trial.changes if _is_tested(change)]
    adjusted = iter(holm([change.p_value for change in tested if change.p_value is not None]))
    for trial in trials:
        changes = [
            _corrected(change, next(adjusted), len(tested)) if _is_tested(change) else change
            for change in trial.changes
        ]
        yield replace(trial, changes=tuple(changes))


def _is_tested(change: Change) -> bool:
    """Return whether the change takes part in the correction."""
    return change.decides and change.p_value is not None


def _corrected(change: Change, adjusted: float, tested: int) -> Change:
    """Return the change, inconclusive if its adjusted p-value is above ALPHA."""
    if change.verdict not in ("regression", "improvement") or adjusted <= ALPHA:
        return change
    reason = (
        f"{change.reason}, but one of {tested} comparisons can be so by chance (Holm: p = {adjusted:.2g})"
    )
    return replace(change, verdict="inconclusive", reason=reason)
