"""Verdicts of tested changes, decided together over the suite.

Uncorrected, comparing a dozen equally good models would report at least one of them as worse in 26% of runs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from harness.compare.outcome import Change, TrialComparison
from harness.decisions.margin import Decision, decide


def correct_verdicts(trials: Sequence[TrialComparison]) -> Iterator[TrialComparison]:
    """Decide all tested changes that count together; a proven one may become inconclusive by that."""
    family = [c.test for trial in trials for c in trial.changes if c.decides and c.test is not None]
    decisions = iter(decide(family))
    for trial in trials:
        changes = [
            _corrected(change, next(decisions), len(family)) if change.decides and change.test else change
            for change in trial.changes
        ]
        yield replace(trial, changes=tuple(changes))


def _corrected(change: Change, decision: Decision, tested: int) -> Change:
    corrected = with_decision(change, decision)
    if corrected.verdict == change.verdict:
        return change
    reason = f"{change.reason}, but one of {tested} comparisons can be so by chance (Holm 1979)"
    return replace(corrected, reason=reason)


def with_decision(change: Change, decision: Decision) -> Change:
    """Return the change with the verdict that follows from the decision on its limit."""
    limit = change.limit
    side = "above" if change.difference and (change.difference.value or 0) > 0 else "below"
    if decision == "refuted":
        reason = f"worse than {limit} allows" if limit else f"the interval of the difference is {side} 0"
        return replace(change, verdict="regression", reason=reason)
    if decision == "supported" and limit:
        return replace(change, verdict="pass", reason=f"within {limit}")
    if decision == "supported":
        reason = f"the interval of the difference is {side} 0"
        return replace(change, verdict="improvement", reason=reason)
    reason = (
        f"the interval contains the limit ({limit})" if limit else "the interval of the difference contains 0"
    )
    return replace(change, verdict="inconclusive", reason=reason)
