"""Suite → trials: what would run, under which identity, with which weights; runs nothing."""

from __future__ import annotations

import typing
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from harness.checkpoint import sha256
from harness.datasets.dataset import DATASETS
from harness.errors import UnavailableError, UsageError
from harness.metrics.metric import METRICS
from harness.recipe import CheckpointRef
from harness.registry import unknown
from harness.rundir.results import Skipped
from harness.suite.schema import BenchmarkEntry, LoadedSuite
from harness.suite.variants import Variant, complete_options, variants_of
from harness.task import TaskName
from harness.trial import DatasetUse, Trial, TrialSpec, adapter_code
from harness.yaml_source import Keys


@dataclass(frozen=True)
class Plan:
    """What a run will do."""

    trials: tuple[Trial, ...]
    skipped: tuple[Skipped, ...]

    @property
    def missing(self) -> list[CheckpointRef]:
        """Checkpoints to train first, each once."""
        found = {
            trial.checkpoint.weights: trial.checkpoint
            for trial in self.trials
            if trial.checkpoint and trial.missing
        }
        return list(found.values())


def plan(loaded: LoadedSuite, only: str | None = None, limit: int | None = None) -> Plan:
    """Expand a suite into trials.

    Args:
        only: keep trials whose `benchmark/variant` matches this pattern of `*` and `?`.
        limit: at most this many samples a benchmark.

    Raises:
        UsageError: an unknown name or a wrong option, with file, line and the nearest name; no trial left.
        UnavailableError: a data set, or the environment variable that names it or weights, is not to be had
            here and the benchmark does not allow skipping.
    """
    suite = loaded.suite
    if not suite.benchmarks:
        raise loaded.error(["benchmarks"], "a suite needs at least one benchmark")
    trials: list[Trial] = []
    skipped: list[Skipped] = []
    for name, entry in suite.benchmarks.items():
        registered, task = _dataset_and_task(loaded, name, entry)
        _check_metrics(loaded, name, entry, task)
        try:
            variants = [
                found
                for position, label in enumerate(entry.adapters)
                for found in variants_of(loaded, name, position, label, task)
            ]
            _refuse_repeats(loaded, name, variants)
            use = DatasetUse(registered, _dataset_options(loaded, registered, entry), entry.split, task)
            dataset = use.open()
            size = min(bound for bound in (len(dataset), entry.limit, limit) if bound is not None)
            fingerprint = dataset.fingerprint
        except UnavailableError as error:
            if entry.when_unavailable == "skip":
                skipped.append(Skipped(benchmark=name, reason=str(error)))
                continue
            raise
        if size == 0:
            raise loaded.error(["benchmarks", name], f"data set '{use.name}' has no samples in '{use.split}'")
        for variant in variants:
            spec = _spec(variant, use, fingerprint, size)
            metrics, scenarios = tuple(entry.metrics), tuple(entry.speed)
            trials.append(
                Trial(
                    name, variant.name, spec, use, variant.checkpoint, metrics, scenarios, variant.resources
                )
            )
    if only is not None:
        names = [trial.name for trial in trials]
        pattern = only.replace("[", "[[]")  # brackets stand in names: yolo[batch_size=1]
        trials = [trial for trial in trials if fnmatchcase(trial.name, pattern)]
        if not trials:
            left_out = "".join(f"; skipped {each.benchmark}: {each.reason}" for each in skipped)
            raise UsageError(
                f"--only {only}: no trial of that name (there are: {', '.join(names)}{left_out})"
            )
    return Plan(tuple(trials), tuple(skipped))


def _spec(variant: Variant, use: DatasetUse, fingerprint: str, size: int) -> TrialSpec:
    reference = variant.checkpoint
    return TrialSpec(
        task=use.task,
        adapter=variant.adapter,
        code=adapter_code(variant.adapter),
        options=variant.options,
        precision=variant.precision,
        batch_size=variant.batch_size,
        device=variant.device,
        checkpoint=None if reference is None or reference.missing else sha256(reference.weights),
        dataset=fingerprint,
        split=use.split,
        size=size,
    )


def _refuse_repeats(loaded: LoadedSuite, benchmark: str, variants: list[Variant]) -> None:
    seen = set()
    for variant in variants:
        if variant.name in seen:
            raise loaded.error(["benchmarks", benchmark, "adapters"], f"'{variant.name}' stands twice")
        seen.add(variant.name)


def _dataset_and_task(loaded: LoadedSuite, name: str, entry: BenchmarkEntry) -> tuple[str, TaskName]:
    """The registered data set of a benchmark, and the task it is opened for."""
    suite = loaded.suite
    keys: Keys = ["benchmarks", name]
    defined = suite.datasets.get(entry.dataset)
    registered = defined.dataset if defined else entry.dataset
    if registered not in DATASETS.entries():
        where: Keys = ["datasets", entry.dataset, "dataset"] if defined else [*keys, "dataset"]
        names = DATASETS.entries() if defined else [*suite.datasets, *DATASETS.entries()]
        raise loaded.error(where, unknown("data set", registered, names))
    cls = DATASETS.get(registered)
    if entry.split not in cls.splits:
        raise loaded.error([*keys, "split"], unknown(f"split of '{registered}'", entry.split, cls.splits))
    if entry.task is None and len(cls.tasks) > 1:
        raise loaded.error(keys, f"'{registered}' serves {' and '.join(cls.tasks)}: set 'task'")
    task = entry.task or cls.tasks[0]
    if task not in cls.tasks:
        raise loaded.error([*keys, "task"], unknown(f"task of '{registered}'", task, cls.tasks))
    return registered, task


def _dataset_options(loaded: LoadedSuite, registered: str, entry: BenchmarkEntry) -> dict[str, Any]:
    """A data set's options with variables, data root and defaults filled in."""
    cls = DATASETS.get(registered)
    defined = loaded.suite.datasets.get(entry.dataset)
    where: Keys = ["datasets", entry.dataset, "options"]
    given = loaded.expanded(where, defined.options) if defined else {}
    return complete_options(loaded, where, cls.Options, _rooted(loaded, where, cls.Options, given))


def _rooted(
    loaded: LoadedSuite, keys: Keys, model: type[BaseModel], options: dict[str, Any]
) -> dict[str, Any]:
    """Relative paths start from `data_root`, and may not leave it."""
    if loaded.suite.data_root is None:
        return options
    at: Keys = ["data_root"]
    root = (loaded.folder(at) / loaded.expanded(at, loaded.suite.data_root)).resolve()
    rooted = dict(options)
    for key, value in options.items():
        field = model.model_fields.get(key)
        if field is None or Path not in {field.annotation, *typing.get_args(field.annotation)}:
            continue
        if not isinstance(value, str):
            continue  # null is allowed or not, anything else is not: the option's own check says so
        path = (root / value).resolve()
        if not path.is_relative_to(root):
            raise loaded.error([*keys, key], f"path '{value}' leaves the data root {root}")
        rooted[key] = str(path)
    return rooted


def _check_metrics(loaded: LoadedSuite, name: str, entry: BenchmarkEntry, task: TaskName) -> None:
    fitting = [metric for metric in METRICS.entries() if METRICS.get(metric).task == task]
    figures: dict[str, str] = {}
    for position, metric in enumerate(entry.metrics):
        keys: Keys = ["benchmarks", name, "metrics", position]
        if metric not in METRICS.entries():
            raise loaded.error(keys, unknown("metric", metric, fitting))
        if metric not in fitting:
            raise loaded.error(keys, f"metric '{metric}' is not for {task} (there: {', '.join(fitting)})")
        for figure in METRICS.get(metric).names:
            if figure in figures:
                raise loaded.error(keys, f"'{metric}' and '{figures[figure]}' both give '{figure}'")
            figures[figure] = metric
