"""Drive a plan: train what is missing, predict, score, measure, and write results.json.

The driver is the only writer of the run directory. Whatever is on disk is not done again, so the same
command, run again after any interruption, is the resume.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from harness import environment
from harness.adapter import ADAPTERS, Runtime, TrainableAdapter
from harness.checkpoint import CheckpointRef
from harness.collect import collect
from harness.datasets.dataset import Dataset
from harness.errors import InfrastructureError, UsageError, describe
from harness.executors.executor import Executor
from harness.identity import code_version
from harness.measurements import measure
from harness.metrics.metric import METRICS
from harness.plan import Plan, Trial, plan
from harness.progress import RunProgress
from harness.results import Results, to_json
from harness.stages.predict import Shard, ShardError, ShardResult, shards
from harness.stages.score import score
from harness.stages.timing import PROFILES
from harness.store import RunDirectory, read_json, write_json, write_text
from harness.suite import LoadedSuite

SHARD_SIZE = 64  # samples; a lost worker costs at most this much work


@dataclass(frozen=True)
class RunSettings:
    """What the command line says beside the suite."""

    out: Path
    command: str
    only: str | None = None
    limit: int | None = None
    shard_size: int = SHARD_SIZE
    on_cluster: bool = False


ExecutorFactory = Callable[[], AbstractContextManager[Executor]]


def run(
    loaded: LoadedSuite, settings: RunSettings, make_executor: ExecutorFactory, progress: RunProgress
) -> Results:
    """Execute a suite into its run directory and return what it holds now.

    Raises:
        UsageError: the suite, a checkpoint or the directory is wrong; nothing has been written then.
        InfrastructureError: Ray could not be reached, or training failed.
    """
    planned = plan(loaded, settings.only, settings.limit)
    preflight(planned.trials)
    directory = RunDirectory(settings.out)
    with directory.open(loaded.suite.name):
        for skipped in planned.skipped:
            progress.note(f"skipped {skipped.benchmark}: {skipped.reason}")
        executor: _Lazy = _Lazy(make_executor)
        with executor:
            if planned.missing:
                train_missing(planned.missing, executor.get(), progress)
                planned = plan(loaded, settings.only, settings.limit)
                preflight(planned.trials)
            _write_record(directory, loaded, planned, settings, executor)
            _predict(directory, planned, settings.shard_size, executor, progress)
            machine = None if settings.on_cluster else environment.key(environment.describe())
            for trial in planned.trials:
                _score(directory, trial)
            for trial in planned.trials:
                measure(directory, trial, loaded.suite.speed, executor.get, progress.note, machine)
        return _finish(directory)


def preflight(trials: Sequence[Trial]) -> None:
    """Load every checkpoint once on the CPU, so that a bad one stops the run before anything is written.

    Raises:
        UsageError: truncated, of another adapter or of another shape; or a trainable adapter has none.
    """
    for trial in {trial.id: trial for trial in trials}.values():
        cls = ADAPTERS.get(trial.spec.adapter)
        if trial.missing or (trial.checkpoint is None and not issubclass(cls, TrainableAdapter)):
            continue
        weights = f" ({trial.checkpoint.weights})" if trial.checkpoint else ""
        try:
            cls(cls.Options(**trial.spec.options), Runtime()).load(trial.load_checkpoint())
        except Exception as error:  # an adapter's own error is the checkpoint's fault as well
            message = str(error) if isinstance(error, UsageError) else describe(error)
            raise UsageError(f"{trial.name}{weights}: {message}") from error


def train_missing(missing: Sequence[CheckpointRef], executor: Executor, progress: RunProgress) -> None:
    """Train one checkpoint after the other."""
    for reference in missing:
        progress.note(f"training {reference.name} → {reference.weights}")
        executor.train(reference, progress.note)


class _Lazy:
    """An executor that is started when first needed: a run with everything on disk starts no Ray."""

    def __init__(self, factory: ExecutorFactory) -> None:
        self._factory = factory
        self._context: AbstractContextManager[Executor] | None = None
        self._executor: Executor | None = None

    def __enter__(self) -> None:
        return None

    def __exit__(self, *details: Any) -> None:
        if self._context is not None and self._executor is not None:
            self._context.__exit__(*details)

    def get(self) -> Executor:
        if self._executor is None:
            self._context = self._factory()
            self._executor = self._context.__enter__()
        return self._executor


def _write_record(
    directory: RunDirectory, loaded: LoadedSuite, planned: Plan, settings: RunSettings, executor: _Lazy
) -> None:
    """run.json, suite.yaml and every trial.json; the run keeps its id while trials and profile stay."""
    before = read_json(directory.path / "run.json")
    trials = [_entry(trial) for trial in planned.trials]
    profile = loaded.suite.speed.profile
    if before and before["trials"] == trials and before["run"]["profile"] == profile:
        return
    here = environment.describe()
    revision, dirty = environment.git_state(Path(__file__).parent)
    used = executor.get()
    write_json(directory.path / "environments" / f"{environment.key(here)}.json", here)
    for trial in planned.trials:
        write_json(directory.trial(trial.id).path / "trial.json", trial.spec.model_dump(mode="json"))
    text = yaml.safe_dump(loaded.suite.model_dump(mode="json", exclude_defaults=True), sort_keys=False)
    write_text(directory.path / "suite.yaml", text)
    run_record = {
        "id": uuid.uuid4().hex,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "finished": None,
        "command": settings.command,
        "harness_version": version("harness"),
        "git_revision": revision,
        "git_dirty": dirty,
        "executor": used.name,
        "workers": used.workers,
        "profile": profile,
        "environment": environment.key(here),
    }
    document = {
        "suite": loaded.suite.name,
        "description": loaded.suite.description,
        "run": run_record,
        "trials": trials,
        "skipped": [skipped.model_dump() for skipped in planned.skipped],
    }
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
        "figures": [figure for metric in trial.metrics for figure in METRICS.get(metric).names],
        "scenarios": list(trial.scenarios),
    }


def _predict(
    directory: RunDirectory, planned: Plan, shard_size: int, executor: _Lazy, progress: RunProgress
) -> None:
    work: list[Shard] = []
    for trial in {trial.id: trial for trial in planned.trials}.values():
        gaps = directory.trial(trial.id).todo(trial.spec.size)
        todo = sum(stop - start for start, stop in gaps)
        progress.begin(trial.name, trial.spec.size, trial.spec.size - todo)
        work += shards(trial, gaps, shard_size)
    if not work:
        return
    failures: dict[str, list[dict[str, Any]]] = {}
    for outcome in executor.get().predict(work):
        trial = outcome.shard.trial
        place = directory.trial(trial.id)
        if isinstance(outcome, ShardResult):
            machine = environment.key(outcome.environment)
            write_json(directory.path / "environments" / f"{machine}.json", outcome.environment)
            place.write_shard(trial.spec.task, outcome.shard.start, outcome.ids, outcome.predictions, machine)
            progress.advance(trial.name, len(outcome.ids))
        else:
            failures.setdefault(trial.id, []).append(_failure(trial.dataset.open(), outcome))
            progress.note(
                f"{trial.name}: samples {outcome.shard.start}–{outcome.shard.stop - 1} failed: "
                f"{outcome.error}"
            )
    for trial_id in {shard.trial.id for shard in work}:
        path = directory.trial(trial_id).path / "error.json"
        if trial_id in failures:
            write_json(path, sorted(failures[trial_id], key=lambda failure: failure["first"]))
        else:
            path.unlink(missing_ok=True)


def _failure(dataset: Dataset, error: ShardError) -> dict[str, Any]:
    first, last = error.shard.start, error.shard.stop - 1
    return {
        "first": first,
        "last": last,
        "samples": [dataset[first].id, dataset[last].id],
        "error": error.error,
        "attempts": error.attempts,
    }


def _score(directory: RunDirectory, trial: Trial) -> None:
    """Write metrics.json, or what it lacks: figures of metrics that are new or whose code has changed.

    Two benchmarks may want different metrics of the same predictions.
    """
    place = directory.trial(trial.id)
    if place.todo(trial.spec.size):
        return
    known = read_json(place.path / "metrics.json") or {"code": {}, "metrics": {}, "per_class": {}}
    targets = {name: METRICS.entries()[name].target.partition(":")[0] for name in trial.metrics}
    code = {name: code_version(module) for name, module in targets.items()}
    stale = [name for name in trial.metrics if known["code"].get(name) != code[name]]
    if not stale:
        return
    scores = score(trial.dataset.open(), trial.spec.size, place.read(trial.spec.task), stale)
    per_class = {
        label: known["per_class"].get(label, {}) | scores.per_class.get(label, {})
        for label in dict.fromkeys([*known["per_class"], *scores.per_class])
    }
    figures = {name: asdict(figure) for name, figure in scores.metrics.items()}
    document = {
        "code": known["code"] | code,
        "metrics": known["metrics"] | figures,
        "per_class": per_class,
    }
    write_json(place.path / "metrics.json", document)


def _finish(directory: RunDirectory) -> Results:
    record = read_json(directory.path / "run.json")
    assert record is not None
    if record["run"]["finished"] is None:
        record["run"]["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(directory.path / "run.json", record)
    results = collect(directory.path)
    write_text(directory.path / "results.json", to_json(results))
    return results


def exit_code(results: Results) -> int:
    """0, or 3 where a trial is incomplete or a speed measurement failed, or counts and is not valid."""
    complete = all(trial.status == "complete" for trial in results.trials)
    valid = all(
        scenario.valid or (scenario.queries > 0 and not PROFILES[scenario.profile].gates)
        for trial in results.trials
        for scenario in trial.speed.values()
    )
    return 0 if complete and valid else InfrastructureError.exit_code
