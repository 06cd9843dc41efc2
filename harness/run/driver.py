"""Drive a plan: train what is missing, predict, score, measure, and write results.json.

The driver is the only writer of the run directory. Whatever is on disk is not done again, so the same
command, run again after any interruption, is the resume.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from harness import environment
from harness.adapter import ADAPTERS, Runtime, TrainableAdapter
from harness.datasets.dataset import Dataset
from harness.errors import InfrastructureError, UsageError, describe
from harness.executors.executor import Executor
from harness.files import read_json, write_json, write_text
from harness.recipe import CheckpointRef
from harness.run.progress import RunProgress
from harness.run.record import write_record
from harness.run.scoring import score_pairs, score_trial
from harness.run.timing import measure
from harness.rundir.collect import collect
from harness.rundir.results import Results, to_json
from harness.rundir.store import RunDirectory
from harness.stages.labels import class_map
from harness.stages.shards import ShardError, ShardResult, Work
from harness.suite.plan import Plan, plan
from harness.suite.profiles import PROFILES
from harness.suite.schema import LoadedSuite
from harness.trial import Trial

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
    check_any(planned)
    preflight(planned.trials)
    directory = RunDirectory(settings.out)
    with directory.open(loaded.suite.name):
        for skipped in planned.skipped:
            progress.note(f"skipped {skipped.benchmark}: {skipped.reason}")
        with ExitStack() as stack:
            # Started when first needed: a run with everything on disk starts no Ray.
            executor = cache(lambda: _ready(stack.enter_context(make_executor()), planned.trials))
            if planned.missing:
                train_missing(planned.missing, executor(), progress)
                planned = plan(loaded, settings.only, settings.limit)
                preflight(planned.trials)
            write_record(directory, loaded, planned, settings.command, settings.only, executor)
            _tidy(directory, planned, progress)
            _predict(directory, planned, settings.shard_size, executor, progress)
            machine = None if settings.on_cluster else environment.describe()
            for trial in planned.trials:
                score_trial(directory.trial(trial.id), trial, progress.note)
            score_pairs(directory, planned.trials)
            for trial in planned.trials:
                measure(directory, trial, loaded.suite.speed, executor, progress.note, machine)
        return _finish(directory)


def _ready(executor: Executor, trials: Sequence[Trial]) -> Executor:
    executor.check(trials)
    return executor


def check_any(planned: Plan) -> None:
    """Refuse a plan without trials: a gate that measured nothing must not be green.

    Raises:
        UsageError: every benchmark is skipped; with the reasons.
    """
    if not planned.trials:
        reasons = "; ".join(f"{skipped.benchmark}: {skipped.reason}" for skipped in planned.skipped)
        raise UsageError(f"nothing to run, every benchmark is skipped ({reasons})")


def preflight(trials: Sequence[Trial]) -> None:
    """Load every checkpoint once on the CPU, or check its recipe where it is missing, so that a bad one stops
    the run before anything is written.

    Raises:
        UsageError: truncated, of another adapter or of another shape; a trainable adapter has none; the data
            set has a class that the model does not know; or a recipe that cannot be trained.
    """
    # Missing checkpoints have no part in the id yet; seeds of one recipe share a file name.
    distinct = {(trial.id, trial.checkpoint and trial.checkpoint.weights.name): trial for trial in trials}
    for trial in distinct.values():
        cls, found = ADAPTERS.get(trial.spec.adapter), trial.checkpoint
        if found is None and not issubclass(cls, TrainableAdapter):
            continue
        where = f" ({found.name if found.missing else found.weights})" if found else ""
        try:
            if found and found.missing:
                from harness.stages.train import check  # imports torch, which takes seconds

                assert found.recipe is not None
                check(found.recipe)
                continue
            adapter = cls(cls.Options(**trial.spec.options), Runtime())
            adapter.load(trial.load_checkpoint())
            class_map(trial.spec.task, adapter.classes, trial.dataset.open().classes)
        except Exception as error:  # an adapter's own error is the checkpoint's fault as well
            message = str(error) if isinstance(error, UsageError) else describe(error)
            raise UsageError(f"{trial.name}{where}: {message}") from error


def train_missing(
    missing: Sequence[CheckpointRef], executor: Executor, progress: RunProgress, workers: int | None = None
) -> None:
    """Train one checkpoint after the other; `workers` share each batch."""
    for reference in missing:
        progress.note(f"training {reference.name} → {reference.weights}")
        executor.train(reference, progress.note, workers)


def _tidy(directory: RunDirectory, planned: Plan, progress: RunProgress) -> None:
    """Have damaged shards made again, and forget failures of trials that are complete by now."""
    for trial in planned.trials:
        place = directory.trial(trial.id)
        for name in place.drop_damaged():
            progress.note(f"{trial.name}: {name} was damaged; made again")
        if not place.todo(trial.spec.size):
            (place.path / "error.json").unlink(missing_ok=True)


def _predict(
    directory: RunDirectory,
    planned: Plan,
    shard_size: int,
    executor: Callable[[], Executor],
    progress: RunProgress,
) -> None:
    work: list[Work] = []
    for trial in {trial.id: trial for trial in planned.trials}.values():
        gaps = directory.trial(trial.id).todo(trial.spec.size)
        todo = sum(stop - start for start, stop in gaps)
        progress.begin(trial.name, trial.spec.size, trial.spec.size - todo)
        if todo:
            work.append(Work(trial, tuple(gaps), shard_size))
    if not work:
        return
    failures: dict[str, list[ShardError]] = {}
    for outcome in executor().predict(work):
        trial = outcome.shard.trial
        if isinstance(outcome, ShardResult):
            _keep(outcome, directory)
            retries = executor().retries.get(trial.id, 0)
            progress.advance(trial.name, len(outcome.ids), outcome.made.node, retries)
        else:
            failures.setdefault(trial.id, []).append(outcome)
            samples = f"samples {outcome.shard.start}–{outcome.shard.stop - 1}"
            progress.note(f"{trial.name}: {samples} failed: {outcome.error}")
    for each in work:
        _keep_failures(failures.get(each.trial.id, []), each.trial, directory)


def _keep(result: ShardResult, directory: RunDirectory) -> None:
    """A shard's predictions, and the machine that made them."""
    trial, machine = result.shard.trial, environment.key(result.environment)
    write_json(directory.path / "environments" / f"{machine}.json", result.environment)
    directory.trial(trial.id).write_shard(
        trial.spec.task, result.shard.start, result.ids, result.predictions, machine, asdict(result.made)
    )


def _keep_failures(errors: Sequence[ShardError], trial: Trial, directory: RunDirectory) -> None:
    """error.json, by sample; none where nothing failed."""
    path = directory.trial(trial.id).path / "error.json"
    if not errors:
        path.unlink(missing_ok=True)
        return
    dataset = trial.dataset.open()
    in_order = sorted(errors, key=lambda error: error.shard.start)
    write_json(path, [_failure(error, dataset) for error in in_order])


def _failure(error: ShardError, dataset: Dataset) -> dict[str, Any]:
    """What error.json keeps."""
    first, last = error.shard.start, error.shard.stop - 1
    return {
        "first": first,
        "last": last,
        "indices": list(error.culprits),
        "samples": [_sample_id(dataset, index) for index in error.culprits or (first, last)],
        "error": error.error,
        "attempts": error.attempts,
        "invalid_input": error.invalid_input,
    }


def _sample_id(dataset: Dataset, index: int) -> str:
    try:
        return dataset[index].id
    except Exception:  # that it cannot be read may be what failed
        return f"#{index}"


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
    """0; 2 where input is invalid, which another attempt does not mend; or 3 where a trial is incomplete
    for another reason, or a speed measurement failed, or counts and is not valid."""
    if any(failure.invalid_input for trial in results.trials for failure in trial.failures):
        return UsageError.exit_code
    complete = all(trial.status == "complete" for trial in results.trials)
    valid = all(
        scenario.valid or (scenario.queries > 0 and not PROFILES[scenario.profile].gates)
        for trial in results.trials
        for scenario in trial.speed.values()
    )
    return 0 if complete and valid else InfrastructureError.exit_code
