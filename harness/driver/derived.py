"""Files that follow from the trials of a run, and are made again when these change."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from harness.errors import UsageError
from harness.files import read_record
from harness.rundir.store import RunDirectory
from harness.trial import Trial

M = TypeVar("M", bound=BaseModel)


def complete_trials(directory: RunDirectory, trials: Sequence[Trial]) -> dict[str, list[Trial]]:
    """Return the trials that have all predictions and figures, by benchmark."""
    complete: dict[str, list[Trial]] = {}
    for trial in trials:
        if directory.trial(trial.id).is_scored(trial.spec.size, trial.metrics):
            complete.setdefault(trial.benchmark, []).append(trial)
    return complete


def read_derived(path: Path, model: type[M]) -> M | None:
    """Return the content of a file, or None if it has to be made again: it is missing or has another form."""
    try:
        return read_record(path, model)
    except UsageError:
        return None
