"""What the page can be filtered by: hardware, precision and batch size of each trial."""

from __future__ import annotations

from dataclasses import dataclass

from harness.compare.frontier import machine
from harness.rundir.results import Results, TrialRecord
from reports.text import display

NAMES = {"hardware": "Hardware", "precision": "Precision", "batch": "Batch size"}


@dataclass(frozen=True)
class Facet:
    """One way to narrow the page down; `values` has at least two."""

    key: str
    name: str
    values: tuple[str, ...]


def facet_values(results: Results, trial: TrialRecord) -> dict[str, str]:
    """Key → value as shown; hardware is what was timed, or else what predicted."""
    timed = [scenario.environment for scenario in trial.speed.values()]
    machines = [machine(results, key) for key in [*timed, *trial.environments][:1]]
    found = {
        "hardware": machines[0] if machines else "not recorded",
        "precision": trial.settings.get("precision") or "not stated",
        "batch": trial.settings.get("batch_size") or "not stated",
    }
    return {key: display(value) for key, value in found.items()}


def facets(results: Results) -> list[Facet]:
    """The facets in which trials differ; nothing to choose from is not offered."""
    trials = [facet_values(results, trial) for trial in results.trials]
    found = [(key, {values[key] for values in trials}) for key in NAMES]
    return [
        Facet(key, NAMES[key], tuple(sorted(values, key=_natural)))
        for key, values in found
        if len(values) > 1
    ]


def _natural(value: str) -> tuple[int, str]:
    """Batch 8 before batch 16."""
    return (int(value) if value.isdecimal() else 0, value)
