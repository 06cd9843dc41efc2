"""Record of the run itself: run.json, suite.yaml, every trial.json and the driver's environment."""

import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import yaml

from harness import environment
from harness.adapter import ADAPTERS
from harness.datasets.dataset import DATASETS
from harness.driver.settings import RunSettings
from harness.errors import UsageError
from harness.executors.executor import Executor
from harness.files import read_record
from harness.identity import source_file
from harness.metrics.metric import METRICS
from harness.rundir.records import PlannedCheckpoint, PlannedTrial, RunFile
from harness.rundir.results import DatasetRecord, RunRecord, Source
from harness.rundir.store import RunDirectory
from harness.suite.loading import LoadedSuite, shipped_suites
from harness.suite.plan import Plan
from harness.trial import DatasetUse, Trial


def write_run_record(
    directory: RunDirectory,
    loaded: LoadedSuite,
    planned: Plan,
    settings: RunSettings,
    executor: Callable[[], Executor],
) -> None:
    """Write the trial.json files that are missing. Write run.json unless it already records the same run.

    A run is the same, and keeps its id, if trials, speed profile and code revision are unchanged. `--only`
    restricts the work, not the record, which keeps the trials of the other variants.
    """
    before = read_record(directory.run_file, RunFile)
    trials = tuple(_planned_trial(trial) for trial in planned.trials)
    if settings.only is not None and before is not None:
        recorded_trials = {(trial.benchmark, trial.variant): trial for trial in before.trials}
        chosen = {(trial.benchmark, trial.variant): trial for trial in trials}
        trials = tuple((recorded_trials | chosen).values())
    for trial in planned.trials:
        spec_file = directory.trial(trial.id).spec_file
        if not spec_file.exists():
            directory.trial(trial.id).write_record(spec_file, trial.spec)
    suite_file = directory.path / "suite.yaml"
    text = yaml.safe_dump(
        loaded.suite.model_dump(mode="json", exclude_defaults=True, exclude={"include"}), sort_keys=False
    )
    recorded = before is not None and _is_recorded(before, loaded.suite.speed.profile, trials)
    known_text = suite_file.read_text(encoding="utf-8") if suite_file.exists() else ""
    if not recorded or text != known_text:
        directory.digests.write(suite_file, text.encode())
    if recorded:
        return
    local = environment.describe()
    revision, dirty = environment.git_state()
    run_file = RunFile(
        schema="harness-run/1",
        suite=loaded.suite.name,
        description=loaded.suite.description,
        run=RunRecord(
            id=uuid.uuid4().hex,
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            finished=None,
            command=settings.command,
            harness_version=version("harness"),
            git_revision=revision,
            git_dirty=dirty,
            git_branch=environment.git_branch(Path()),
            executor=executor().name,
            workers=executor().workers,
            profile=loaded.suite.speed.profile,
            environment=local.key,
            sources=_sources(loaded, planned),
        ),
        trials=trials,
        skipped=planned.skipped,
    )
    directory.write_environment(local)
    directory.write_record(directory.run_file, run_file)  # last: another suite may use a directory without it


def _is_recorded(before: RunFile, profile: str, trials: Sequence[PlannedTrial]) -> bool:
    revision, _ = environment.git_state()
    code = (before.run.profile, before.run.harness_version, before.run.git_revision)
    return code == (profile, version("harness"), revision) and before.trials == trials


def _sources(loaded: LoadedSuite, planned: Plan) -> list[Source]:
    """Return the suite files and the packages of plug-ins that do not ship with the harness."""
    suites = []
    for file in loaded.files:
        if file.resolve() not in {path.resolve() for path in shipped_suites().values()}:
            revision, dirty = environment.revision_of(file.resolve())
            suites.append(Source(kind="suite", name=str(file), git_revision=revision, git_dirty=dirty))
    packages: dict[str, str] = {}
    for trial in planned.trials:
        metrics = (METRICS.entries()[name] for name in trial.metrics)
        plug_ins = (ADAPTERS.entries()[trial.spec.adapter], DATASETS.entries()[trial.dataset.name], *metrics)
        packages |= {entry.origin: entry.module for entry in plug_ins if entry.origin != "harness"}
    return [*suites, *(_package(origin, module) for origin, module in sorted(packages.items()))]


def _package(origin: str, module: str) -> Source:
    file = source_file(module)
    revision, dirty = environment.revision_of(file.resolve()) if file else (None, None)
    return Source(
        kind="package", name=origin, version=version(origin), git_revision=revision, git_dirty=dirty
    )


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
            notes=list(trial.notes),
        ),
        checkpoint=checkpoint,
        metrics=trial.metrics,
        scenarios=trial.scenarios,
        slices=trial.slices and str(trial.slices),
    )


def recorded_trials(directory: RunDirectory) -> list[Trial]:
    """Return the trials of run.json, without what only executing them needs; a UsageError if one is bad."""
    run_file = read_record(directory.run_file, RunFile)
    if run_file is None:
        raise UsageError(f"{directory.run_file} is missing")
    trials = []
    for entry in run_file.trials:
        spec, data = directory.trial(entry.id).read_spec(), entry.dataset
        use = DatasetUse(data.name, data.options, data.split, entry.task)
        parts = (entry.benchmark, entry.variant, spec, spec.options, use, None, entry.metrics)
        table = Path(entry.slices) if entry.slices else None
        trials.append(Trial(*parts, entry.scenarios, slices=table))
    return trials
