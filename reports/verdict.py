"""The first line of every report: the number of complete trials, and the problems."""

from __future__ import annotations

from collections import Counter

from harness.rundir.results import Results, Status
from reports.text import display

NAMED = 4  # measurements that the verdict names; the tables below it mark all
_INCOMPLETE: tuple[Status, ...] = ("partial", "failed", "pending")


def verdict(results: Results) -> str:
    """Return one line, such as `8 of 10 trials complete, 1 partial, 1 failed; 1 benchmark skipped`.

    Names of trials are shortened and their hidden characters shown, but not escaped.
    """
    states = Counter(trial.status for trial in results.trials)
    total = len(results.trials)
    parts = [f"{states['complete']} of {_plural(total, 'trial')} complete"]
    parts += [f"{states[state]} {state}" for state in _INCOMPLETE if states[state]]
    line = ", ".join(parts)
    if results.skipped:
        line += f"; {_plural(len(results.skipped), 'benchmark')} skipped"
    invalid = [
        display(f"{trial.benchmark}/{trial.variant} {name}")
        for trial in results.trials
        for name, scenario in trial.speed.items()
        if not scenario.valid
    ]
    if invalid:
        more = f" and {len(invalid) - NAMED} more" if len(invalid) > NAMED else ""
        line += (
            f"; {_plural(len(invalid), 'speed measurement')} not valid: {', '.join(invalid[:NAMED])}{more}"
        )
    return line


def is_clean(results: Results) -> bool:
    """Return whether every trial is complete and every speed measurement valid."""
    return all(
        trial.status == "complete" and all(scenario.valid for scenario in trial.speed.values())
        for trial in results.trials
    )


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
