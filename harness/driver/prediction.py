"""Predict the samples that have no prediction on disk, and store predictions and failures."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict

from harness.datasets.dataset import Dataset
from harness.driver.progress import RunProgress
from harness.executors.executor import Executor
from harness.rundir.prediction_shards import ShardProvenance
from harness.rundir.records import FailuresFile
from harness.rundir.results import Failure
from harness.rundir.store import RunDirectory
from harness.stages.shards import ShardError, ShardResult, Work
from harness.trial import Trial


def predict(
    directory: RunDirectory,
    trials: Sequence[Trial],
    shard_size: int,
    executor: Callable[[], Executor],
    progress: RunProgress,
    finish: Callable[[str], None],
) -> None:
    """Predict the missing samples. The executor is started only if there are any.

    Every shard is written as soon as it arrives, so that an interrupted run continues from there. Trials that
    differ only in the threads of their timings are predicted once.

    Args:
        finish: Receives the id of each trial once no more predictions of it will come.
    """
    alike: defaultdict[str, dict[str, Trial]] = defaultdict(dict)
    for trial in trials:
        alike[trial.spec.prediction_id].setdefault(trial.id, trial)
    work: list[Work] = []
    missing: dict[str, int] = {}
    errors: defaultdict[str, list[ShardError]] = defaultdict(list)

    def finish_alike(prediction_id: str) -> None:
        first, *others = alike[prediction_id].values()
        for trial in (first, *others):
            if trial is not first:
                _copy_predictions(directory, first, trial)
            _write_failures(directory, trial, errors[prediction_id])
            finish(trial.id)

    for prediction_id, group in alike.items():
        trial = next(iter(group.values()))
        predictions = directory.trial(trial.id).predictions
        missing[prediction_id] = predictions.count_missing(trial.spec.size)
        progress.begin(trial.name, trial.spec.size, trial.spec.size - missing[prediction_id])
        if missing[prediction_id]:
            work.append(Work(trial, tuple(predictions.missing_ranges(trial.spec.size)), shard_size))
        else:
            finish_alike(prediction_id)
    for outcome in executor().predict(work) if work else ():
        trial, shard = outcome.shard.trial, outcome.shard
        if isinstance(outcome, ShardResult):
            _write_shard(directory, outcome)
            retries = executor().retries.get(trial.id, 0)
            progress.advance(trial.name, len(outcome.ids), outcome.execution.node, retries)
        else:
            errors[trial.spec.prediction_id].append(outcome)
            samples = f"samples {shard.start}–{shard.stop - 1}"
            progress.note(f"{trial.name}: {samples} failed: {outcome.error}")
        missing[trial.spec.prediction_id] -= shard.stop - shard.start
        if missing[trial.spec.prediction_id] == 0:
            finish_alike(trial.spec.prediction_id)


def _copy_predictions(directory: RunDirectory, source: Trial, target: Trial) -> None:
    """Give a trial the predictions of another, in place of incomplete ones."""
    stored, copied = (directory.trial(trial.id).predictions for trial in (source, target))
    digests = directory.trial(target.id).digests
    if not copied.count_missing(target.spec.size):
        return
    for start, stop in set(copied.completed_ranges()) - set(stored.completed_ranges()):
        digests.remove(copied.path(start, stop))
    for start, stop in stored.completed_ranges():
        digests.write(copied.path(start, stop), stored.path(start, stop).read_bytes())


def _write_shard(directory: RunDirectory, result: ShardResult) -> None:
    """Store a shard's predictions, and the environment that produced them."""
    directory.run_file.stat()  # an error if the directory was removed, which would otherwise be created again
    trial = result.shard.trial
    provenance = ShardProvenance(environment=result.environment.key, **asdict(result.execution))
    directory.write_environment(result.environment)
    directory.trial(trial.id).predictions.write(
        trial.spec.task, result.shard.start, result.ids, result.predictions, provenance
    )


def _write_failures(directory: RunDirectory, trial: Trial, errors: Sequence[ShardError]) -> None:
    """Write error.json in sample order, or remove it if nothing failed."""
    trial_dir = directory.trial(trial.id)
    if not errors:
        trial_dir.digests.remove(trial_dir.error_file)
        return
    dataset = trial.dataset.open()
    in_order = sorted(errors, key=lambda error: error.shard.start)
    failures = FailuresFile(tuple(_failure(error, dataset) for error in in_order))
    trial_dir.write_record(trial_dir.error_file, failures)


def _failure(error: ShardError, dataset: Dataset) -> Failure:
    first, last = error.shard.start, error.shard.stop - 1
    return Failure(
        first=first,
        last=last,
        indices=list(error.culprits),
        samples=[_sample_id(dataset, index) for index in error.culprits or (first, last)],
        error=error.error,
        attempts=error.attempts,
        invalid_input=error.invalid_input,
    )


def _sample_id(dataset: Dataset, index: int) -> str:
    """Return a sample's id, or #INDEX if the sample cannot be read, which may be the cause of the failure."""
    try:
        return dataset[index].id
    except Exception:
        return f"#{index}"
