"""What a run directory says of the run itself: run.json, suite.yaml, every trial.json and this machine."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from harness import environment
from harness.executors.executor import Executor
from harness.files import read_json, write_json, write_text
from harness.rundir.store import RunDirectory
from harness.suite.plan import Plan
from harness.suite.schema import LoadedSuite
from harness.trial import Trial


def write_record(
    directory: RunDirectory,
    loaded: LoadedSuite,
    planned: Plan,
    command: str,
    only: str | None,
    executor: Callable[[], Executor],
) -> None:
    """Write it unless it is there.

    The run keeps its id, and is thus the same run, while trials, profile and code revision stay.

    Args:
        only: `--only`, which restricts the work, not the record of a run that has these trials already.
    """
    trials = [_entry(trial) for trial in planned.trials]
    revision, dirty = environment.git_state(Path(__file__).parent)
    same = {
        "profile": loaded.suite.speed.profile,
        "harness_version": version("harness"),
        "git_revision": revision,
    }
    before = read_json(directory.path / "run.json")
    if before and {key: before["run"][key] for key in same} == same:
        known = before["trials"]
        if known == trials or (only and all(trial in known for trial in trials)):
            return
    here, used = environment.describe(), executor()
    document = {
        "suite": loaded.suite.name,
        "description": loaded.suite.description,
        "run": {
            "id": uuid.uuid4().hex,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "finished": None,
            "command": command,
            "git_dirty": dirty,
            "git_branch": environment.git_branch(Path.cwd()),
            "executor": used.name,
            "workers": used.workers,
            "environment": environment.key(here),
            **same,
        },
        "trials": trials,
        "skipped": [skipped.model_dump() for skipped in planned.skipped],
    }
    write_json(directory.path / "environments" / f"{environment.key(here)}.json", here)
    for trial in planned.trials:
        write_json(directory.trial(trial.id).path / "trial.json", trial.spec.model_dump(mode="json"))
    text = yaml.safe_dump(loaded.suite.model_dump(mode="json", exclude_defaults=True), sort_keys=False)
    write_text(directory.path / "suite.yaml", text)
    write_json(directory.path / "run.json", document)


def _entry(trial: Trial) -> dict[str, Any]:
    """What run.json keeps of a trial besides its specification."""
    checkpoint = trial.checkpoint
    return {
        "id": trial.id,
        "benchmark": trial.benchmark,
        "variant": trial.variant,
        "task": trial.spec.task,
        "adapter": trial.spec.adapter,
        "dataset": {
            "name": trial.dataset.name,
            "options": trial.dataset.options,
            "split": trial.dataset.split,
            "size": trial.spec.size,
            "fingerprint": trial.spec.dataset,
        },
        "checkpoint": checkpoint
        and {
            "name": checkpoint.name,
            "sha256": trial.spec.checkpoint,
            "recipe": checkpoint.recipe and checkpoint.recipe.hash,
            "bytes": checkpoint.weights.stat().st_size,
        },
        "metrics": list(trial.metrics),
        "scenarios": list(trial.scenarios),
    }
