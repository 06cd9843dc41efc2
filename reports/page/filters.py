"""Filters of the page: hardware, backend, precision and batch size of each trial."""

from harness.compare.frontier import hardware_name
from harness.rundir.results import Results, TrialRecord
from reports.text import display

NAMES = {"hardware": "Hardware", "backend": "Backend", "precision": "Precision", "batch": "Batch size"}


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


def filters(results: Results) -> dict[str, list[str]]:
    """Return the values of each filter in which trials differ. Numbers are in order: batch 8 before 16."""
    trials = [filter_values(results, trial) for trial in results.trials]
    choices = {key: {values[key] for values in trials} for key in NAMES}
    return {
        key: sorted(values, key=lambda value: (int(value) if value.isdecimal() else 0, value))
        for key, values in choices.items()
        if len(values) > 1
    }
