"""Filters of the page: hardware, backend, precision and batch size of each trial."""

from dataclasses import dataclass

from harness.compare.frontier import hardware_name
from harness.rundir.results import Results, TrialRecord
from reports.text import display

NAMES = {"hardware": "Hardware", "backend": "Backend", "precision": "Precision", "batch": "Batch size"}


@dataclass(frozen=True)
class Filter:
    """A choice among at least two values."""

    key: str
    name: str
    values: tuple[str, ...]


def filter_values(results: Results, trial: TrialRecord) -> dict[str, str]:
    """Return the trial's value for each filter.

    The hardware is the one on which the trial was timed or, if it was not timed, predicted.
    """
    timed = [scenario.environment for scenario in trial.speed.values()]
    machines = [hardware_name(results, key) for key in [*timed, *trial.environments][:1]]
    values = {
        "hardware": machines[0] if machines else "not recorded",
        "backend": trial.settings.get("backend") or "not recorded",
        "precision": trial.settings.get("precision") or "not recorded",
        "batch": trial.settings.get("batch_size") or "not recorded",
    }
    return {key: display(value) for key, value in values.items()}


def filters(results: Results) -> list[Filter]:
    """Return the filters in which trials differ."""
    trials = [filter_values(results, trial) for trial in results.trials]
    choices = [(key, {values[key] for values in trials}) for key in NAMES]
    return [
        Filter(key, NAMES[key], tuple(sorted(values, key=_natural)))
        for key, values in choices
        if len(values) > 1
    ]


def _natural(value: str) -> tuple[int, str]:
    """Sort numbers by value: batch 8 before batch 16."""
    return (int(value) if value.isdecimal() else 0, value)
