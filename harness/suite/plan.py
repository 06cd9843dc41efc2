"""The plan of a run: the trials of a suite, their identities and their checkpoints. Nothing is executed."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path

from harness.analysis.slices import read_table
from harness.backends.backend import missing_packages
from harness.checkpoint import sha256
from harness.datasets.dataset import DATASETS
from harness.errors import UnavailableError, UsageError
from harness.metrics.metric import METRICS
from harness.recipe import CheckpointRef
from harness.registry import unknown
from harness.rundir.records import Calibration, TrialSpec
from harness.rundir.results import Skipped
from harness.suite.claims import check_claims
from harness.suite.loading import LoadedSuite
from harness.suite.paths import dataset_options, resolve_paths
from harness.suite.schema import BenchmarkEntry
from harness.suite.variants import MAX_VARIANTS, Variant, complete_options, expand_variants
from harness.task import TaskName
from harness.trial import DatasetUse, Trial, adapter_code, identified_options
from harness.yaml_source import KeyPath

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """The trials of a run, and the benchmarks that it skips."""

    trials: tuple[Trial, ...]
    skipped: tuple[Skipped, ...]
    unselected: tuple[str, ...] = ()
    """Names of the trials of the suite that `only` leaves out."""

    @property
    def missing_checkpoints(self) -> list[CheckpointRef]:
        """The checkpoints that must be trained first, each listed once."""
        missing = {
            trial.checkpoint.weights: trial.checkpoint
            for trial in self.trials
            if trial.checkpoint and trial.needs_training
        }
        return list(missing.values())


def plan(loaded: LoadedSuite, only: str | None = None, limit: int | None = None) -> Plan:
    """Expand a suite into trials.

    Args:
        only: Keep only trials whose `benchmark/variant` matches this pattern of `*` and `?`.
        limit: Evaluate at most this many samples per benchmark.

    Raises:
        UsageError: A name is unknown or an option is wrong, or no trial is left.
        UnavailableError: A data set, weights or a variable that names them do not exist here, and the suite
            does not allow the benchmark to be skipped.
    """
    if not loaded.suite.benchmarks:
        raise loaded.error(["benchmarks"], "a suite needs at least one benchmark")
    trials: list[Trial] = []
    skipped: list[Skipped] = []
    for name, entry in loaded.suite.benchmarks.items():
        dataset, task = _dataset_and_task(loaded, name, entry)
        _check_metrics(loaded, name, entry, task)
        try:
            for trial in _benchmark_trials(loaded, name, entry, dataset, task, limit):
                problem = missing_packages(trial.spec.backend)
                if problem is None:
                    trials.append(trial)
                elif entry.when_unavailable == "fail":
                    raise UnavailableError(f"{trial.name}: {problem}")
                else:
                    skipped.append(Skipped(benchmark=name, reason=f"{trial.variant}: {problem}"))
        except UnavailableError as error:
            if entry.when_unavailable == "fail":
                raise
            skipped.append(Skipped(benchmark=name, reason=str(error)))
        if len(trials) > MAX_VARIANTS:
            raise _too_many(loaded, name)
    if only is None and not skipped:
        _check_gate(loaded, trials)
        check_claims(loaded, trials)
    selected = trials if only is None else _select(trials, only, skipped)
    chosen = {trial.name for trial in selected}
    unselected = tuple(trial.name for trial in trials if trial.name not in chosen)
    return Plan(tuple(selected), tuple(skipped), unselected)


def _check_gate(loaded: LoadedSuite, trials: Sequence[Trial]) -> None:
    """Check that each rule of the gate is about a figure of a trial."""
    figures = [
        (trial.name, trial.spec.task, {*trial.scenarios, *METRICS.get(metric).names})
        for trial in trials
        for metric in trial.metrics
    ]
    if idle := loaded.suite.gate.idle(figures):
        raise loaded.error(["gate"], idle[0])


def _too_many(loaded: LoadedSuite, benchmark: str) -> UsageError:
    return loaded.error(["benchmarks", benchmark], f"more than {MAX_VARIANTS:,} trials up to this benchmark")


def _select(trials: Sequence[Trial], only: str, skipped: Sequence[Skipped]) -> list[Trial]:
    """Return the trials whose name matches a pattern; at least one must."""
    pattern = only.replace("[", "[[]")  # names contain brackets: yolo[batch_size=1]
    selected = [trial for trial in trials if fnmatchcase(trial.name, pattern)]
    if not selected:
        names = ", ".join(trial.name for trial in trials)
        reasons = "".join(f"; skipped {benchmark.benchmark}: {benchmark.reason}" for benchmark in skipped)
        raise UsageError(f"--only {only}: matches no trial (known: {names or 'none'}{reasons})")
    return selected


def _benchmark_trials(
    loaded: LoadedSuite, name: str, entry: BenchmarkEntry, registered: str, task: TaskName, limit: int | None
) -> list[Trial]:
    """Return the trials of one benchmark with a registered data set, in the order of its adapters."""
    expanded = (
        variant
        for position, label in enumerate(entry.adapters)
        for variant in expand_variants(loaded, name, position, label, task)
    )
    variants = list(islice(expanded, MAX_VARIANTS + 1))
    if len(variants) > MAX_VARIANTS:
        raise _too_many(loaded, name)
    for variant, count in Counter(variant.name for variant in variants).items():
        if count > 1:
            raise loaded.error(["benchmarks", name, "adapters"], f"duplicate adapter '{variant}'")
    use = DatasetUse(registered, _dataset_options(loaded, registered, entry), entry.split, task)
    dataset = use.open()
    size = min(bound for bound in (len(dataset), entry.limit, limit) if bound is not None)
    if size == 0:
        raise loaded.error(["benchmarks", name], f"data set '{use.name}' has no samples in '{use.split}'")
    for metric in entry.metrics:  # an unknown tokenizer is an error now, not after hours of predicting
        METRICS.get(metric)(dataset.classes, **dataset.metric_options)
    for note in dataset.notes:
        logger.warning("%s", note)
    fingerprint = dataset.fingerprint
    calibrated = any(variant.calibration_samples for variant in variants)
    train = replace(use, split="train").open().fingerprint if calibrated else ""
    table = _slices_table(loaded, name, entry)
    return [
        Trial(
            benchmark=name,
            variant=variant.name,
            spec=_spec(variant, use, fingerprint, size, train),
            options=variant.options,
            dataset=use,
            checkpoint=variant.checkpoint,
            metrics=tuple(entry.metrics),
            scenarios=variant.scenarios,
            resources=variant.resources,
            slices=table,
            notes=dataset.notes,
        )
        for variant in variants
    ]


def _slices_table(loaded: LoadedSuite, name: str, entry: BenchmarkEntry) -> Path | None:
    """Return the path of a benchmark's table of slices, which must be well-formed."""
    if entry.slices is None:
        return None
    keys: KeyPath = ["benchmarks", name]
    options = loaded.expand_options(keys, {"slices": entry.slices})
    path = Path(str(resolve_paths(loaded, keys, options, {"slices"})["slices"]))
    try:
        read_table(path)
    except UsageError as error:
        raise loaded.error([*keys, "slices"], str(error)) from error
    return path


def _spec(variant: Variant, use: DatasetUse, fingerprint: str, size: int, train: str) -> TrialSpec:
    reference, samples = variant.checkpoint, variant.calibration_samples
    return TrialSpec(
        task=use.task,
        adapter=variant.adapter,
        code=adapter_code(variant.adapter),
        options=identified_options(variant.adapter, variant.options),
        precision=variant.precision,
        batch_size=variant.batch_size,
        device=variant.device,
        checkpoint=None if reference is None or reference.missing else sha256(reference.weights),
        dataset=fingerprint,
        split=use.split,
        size=size,
        threads=variant.threads,
        backend=variant.backend,
        calibration=Calibration(samples=samples, dataset=train) if samples else None,
    )


def _dataset_and_task(loaded: LoadedSuite, name: str, entry: BenchmarkEntry) -> tuple[str, TaskName]:
    """Return the registered name of a benchmark's data set, and the task for which it is opened."""
    suite = loaded.suite
    keys: KeyPath = ["benchmarks", name]
    defined = suite.datasets.get(entry.dataset)
    registered = defined.dataset if defined else entry.dataset
    if registered not in DATASETS.entries():
        where: KeyPath = ["datasets", entry.dataset, "dataset"] if defined else [*keys, "dataset"]
        names = DATASETS.entries() if defined else [*suite.datasets, *DATASETS.entries()]
        raise loaded.error(where, unknown("data set", registered, names))
    cls = DATASETS.get(registered)
    if entry.split not in cls.splits:
        raise loaded.error([*keys, "split"], unknown(f"split of '{registered}'", entry.split, cls.splits))
    if entry.task is None and len(cls.tasks) > 1:
        raise loaded.error(keys, f"'{registered}' supports {' and '.join(cls.tasks)}: set 'task'")
    task = entry.task or cls.tasks[0]
    if task not in cls.tasks:
        raise loaded.error([*keys, "task"], unknown(f"task of '{registered}'", task, cls.tasks))
    return registered, task


def _dataset_options(loaded: LoadedSuite, registered: str, entry: BenchmarkEntry) -> dict[str, object]:
    """Return a data set's options with variables, data root and defaults filled in."""
    cls = DATASETS.get(registered)
    defined = loaded.suite.datasets.get(entry.dataset)
    keys: KeyPath = ["datasets", entry.dataset, "options"]
    options = dataset_options(loaded, keys, cls, defined.options if defined else {})
    return complete_options(loaded, keys, cls.Options, options)


def _check_metrics(loaded: LoadedSuite, name: str, entry: BenchmarkEntry, task: TaskName) -> None:
    """Check that the metrics exist, suit the task, and do not produce the same figure twice."""
    suitable = [metric for metric in METRICS.entries() if METRICS.get(metric).task == task]
    metric_of: dict[str, str] = {}
    for position, metric in enumerate(entry.metrics):
        keys: KeyPath = ["benchmarks", name, "metrics", position]
        if metric not in METRICS.entries():
            raise loaded.error(keys, unknown("metric", metric, suitable))
        if metric not in suitable:
            raise loaded.error(
                keys, f"metric '{metric}' is not for {task} (for {task}: {', '.join(suitable)})"
            )
        for figure in METRICS.get(metric).names:
            if figure in metric_of:
                raise loaded.error(keys, f"'{metric}' and '{metric_of[figure]}' both give '{figure}'")
            metric_of[figure] = metric
