"""Record of the run itself: run.json, suite.yaml, every trial.json and the driver's environment."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import yaml

from harness import environment
from harness.executors.executor import Executor
from harness.files import write_text
from harness.run.settings import RunSettings
from harness.rundir.records import read_record, write_record
from harness.rundir.results import DatasetRecord, RunRecord
from harness.rundir.run_file import PlannedCheckpoint, PlannedTrial, RunFile
from harness.rundir.store import RunDirectory
from harness.suite.loading import LoadedSuite
from harness.suite.plan import Plan
from harness.trial import Trial


def write_run_record(
    directory: RunDirectory,
    loaded: LoadedSuite,
    planned: Plan,
    settings: RunSettings,
    executor: Callable[[], Executor],
) -> None:
    """Write the record, unless the directory already has the record of the same run.

    It is the same run, and keeps its id, if trials, speed profile and code revision are unchanged. `--only`
    restricts the work, not the record: a run that already contains the selected trials stays the same run.
    """
    trials = tuple(_planned_trial(trial) for trial in planned.trials)
    revision, dirty = environment.git_state(Path(__file__).parent)
    code = (loaded.suite.speed.profile, version("harness"), revision)
    before = read_record(directory.run_file, RunFile)
    if (
        before is not None
        and code == (before.run.profile, before.run.harness_version, before.run.git_revision)
        and (before.trials == trials or (settings.only and all(trial in before.trials for trial in trials)))
    ):
        return
    local = environment.describe()
    running = executor()
    run = RunRecord(
        id=uuid.uuid4().hex,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        finished=None,
        command=settings.command,
        harness_version=version("harness"),
        git_revision=revision,
        git_dirty=dirty,
        git_branch=environment.git_branch(Path.cwd()),
        executor=running.name,
        workers=running.workers,
        profile=loaded.suite.speed.profile,
        environment=local.key,
    )
    directory.write_environment(local)
    for trial in planned.trials:
        write_record(directory.trial(trial.id).spec_file, trial.spec)
    text = yaml.safe_dump(loaded.suite.model_dump(mode="json", exclude_defaults=True), sort_keys=False)
    write_text(directory.path / "suite.yaml", text)
    run_file = RunFile(
        suite=loaded.suite.name,
        description=loaded.suite.description,
        run=run,
        trials=trials,
        skipped=planned.skipped,
    )
    write_record(directory.run_file, run_file)  # last: a directory without it may be taken over


def _planned_trial(trial: Trial) -> PlannedTrial:
    reference = trial.checkpoint
    checkpoint = None
    if reference is not None:
        assert trial.spec.checkpoint is not None
        checkpoint = PlannedCheckpoint(
            name=reference.name,
            sha256=trial.spec.checkpoint,
            recipe=reference.recipe and reference.recipe.hash,
            bytes=reference.weights.stat().st_size,
        )
    return PlannedTrial(
        id=trial.id,
        benchmark=trial.benchmark,
        variant=trial.variant,
        task=trial.spec.task,
        adapter=trial.spec.adapter,
        dataset=DatasetRecord(
            name=trial.dataset.name,
            options=trial.dataset.options,
            split=trial.dataset.split,
            size=trial.spec.size,
            fingerprint=trial.spec.dataset,
        ),
        checkpoint=checkpoint,
        metrics=trial.metrics,
        scenarios=trial.scenarios,
    )
