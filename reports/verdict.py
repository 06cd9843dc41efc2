"""The first line of every report: the number of complete trials, and the problems."""

from __future__ import annotations

from collections import Counter

from harness.rundir.results import Results, Status

_INCOMPLETE: tuple[Status, ...] = ("partial", "failed", "pending")


def verdict(results: Results) -> str:
    """Return one line, such as `8 of 10 trials complete, 1 partial, 1 failed; 1 benchmark skipped`."""
    states = Counter(trial.status for trial in results.trials)
    total = len(results.trials)
    parts = [f"{states['complete']} of {_plural(total, 'trial')} complete"]
    parts += [f"{states[state]} {state}" for state in _INCOMPLETE if states[state]]
    line = ", ".join(parts)
    if results.skipped:
        line += f"; {_plural(len(results.skipped), 'benchmark')} skipped"
    if invalid := sum(not scenario.valid for trial in results.trials for scenario in trial.speed.values()):
        line += f"; {_plural(invalid, 'speed measurement')} not valid"
    return line


def is_clean(results: Results) -> bool:
    """Return whether every trial is complete and every speed measurement valid."""
    return all(
        trial.status == "complete" and all(scenario.valid for scenario in trial.speed.values())
        for trial in results.trials
    )


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
