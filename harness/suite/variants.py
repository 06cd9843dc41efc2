"""Variants of a suite's adapter entry: every combination of the values that the entry lists."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from harness.adapter import ADAPTERS, Adapter, Precision, Resources, TrainableAdapter
from harness.backends.backend import BACKENDS
from harness.errors import UnavailableError
from harness.recipe import CheckpointRef
from harness.registry import first_mistake, unknown
from harness.scenarios.scenario import BATCH_SWEEP
from harness.suite.checkpoints import resolve_checkpoints, with_training_data
from harness.suite.loading import LoadedSuite
from harness.suite.paths import resolve_paths
from harness.suite.schema import AdapterEntry, Device, Suite, as_list
from harness.task import TaskName
from harness.trial import path_options
from harness.yaml_source import KeyPath

MAX_VARIANTS = 5_000  # of all benchmarks of a suite


@dataclass(frozen=True)
class Variant:
    """An adapter with a single value for every setting."""

    name: str
    """The entry's name with the values that vary, such as `yolo[precision=bf16]`."""
    adapter: str
    options: dict[str, object]
    backend: str
    precision: Precision
    batch_size: int
    calibration_samples: int | None
    """Samples from which int8 gets the ranges of activations."""
    device: Device
    threads: int | None
    """Threads of its timings, if the suite lists several numbers."""
    checkpoint: CheckpointRef | None
    resources: Resources
    scenarios: tuple[str, ...]


def expand_variants(
    loaded: LoadedSuite, benchmark: str, position: int, entry_name: str, task: TaskName
) -> Iterator[Variant]:
    """Yield the variants of the adapter entry at a position in a benchmark's list."""
    entry, cls = _entry_and_class(loaded, benchmark, position, entry_name, task)
    keys: KeyPath = ["adapters", entry_name]
    backends = as_list(entry.backend)
    precisions: list[Precision] = as_list(entry.precision)
    batch_sizes = [16] if entry.batch_size == "sweep" else as_list(entry.batch_size)
    devices: list[Device] = as_list(entry.device)
    scenarios = _scenarios(loaded.suite, benchmark, entry, cls)
    threads = _listed_threads(loaded.suite, scenarios)
    listed = _listed_options(entry, cls.Options)
    axes: dict[str, Sequence[object]] = {
        "seed": entry.seeds,
        "backend": backends,
        "precision": precisions,
        "batch_size": batch_sizes,
        "device": devices,
        "threads": threads,
        **{f"options.{key}": values for key, values in listed.items()},
    }
    if (size := math.prod(map(len, axes.values()))) > MAX_VARIANTS:
        raise loaded.error(keys, f"{size:,} variants; at most {MAX_VARIANTS:,}")
    _check_distinct(loaded, keys, axes)
    _check_backends(loaded, keys, entry, cls)
    checkpoints = with_training_data(loaded, resolve_checkpoints(loaded, entry, keys), keys)
    checkpoint_options = next(iter(checkpoints.values())).options if checkpoints else {}
    for seed, backend, precision, batch_size, device, count, values in itertools.product(
        entry.seeds, backends, precisions, batch_sizes, devices, threads, itertools.product(*listed.values())
    ):
        options = entry.options | dict(zip(listed, values, strict=True))
        source = entry.checkpoint or "train"
        _check_options(loaded, [*keys, "options"], options, cls, source, checkpoint_options)
        paths = _paths(loaded, [*keys, "options"], entry.adapter, options)
        options = {**checkpoint_options, **options, **paths}
        yield Variant(
            entry_name + _suffix(axes, (seed, backend, precision, batch_size, device, count, *values)),
            entry.adapter,
            complete_options(loaded, [*keys, "options"], cls.Options, options),
            backend,
            precision,
            batch_size,
            entry.calibration_samples if precision == "int8" else None,
            device if "cuda" in BACKENDS.get(backend).devices else "cpu",
            count,
            checkpoints.get(seed),
            Resources(entry.resources.cpu, entry.resources.gpu),
            scenarios,
        )


def _entry_and_class(
    loaded: LoadedSuite, benchmark: str, position: int, entry_name: str, task: TaskName
) -> tuple[AdapterEntry, type[Adapter]]:
    entries = loaded.suite.adapters
    if entry_name not in entries:
        where: KeyPath = ["benchmarks", benchmark, "adapters", position]
        raise loaded.error(where, unknown("adapter", entry_name, entries))
    entry = entries[entry_name]
    keys: KeyPath = ["adapters", entry_name]
    if entry.adapter not in ADAPTERS.entries():
        raise loaded.error([*keys, "adapter"], unknown("adapter", entry.adapter, ADAPTERS.entries()))
    cls = ADAPTERS.get(entry.adapter)
    if task not in cls.tasks():
        raise loaded.error(
            keys,
            f"adapter '{entry.adapter}' is for {' and '.join(cls.tasks())}, but benchmark '{benchmark}' is "
            f"for {task}",
        )
    return entry, cls


def _check_backends(loaded: LoadedSuite, keys: KeyPath, entry: AdapterEntry, cls: type[Adapter]) -> None:
    """Check that the backends exist, run the adapter, and have the precisions and devices of the entry."""
    precisions: list[Precision] = as_list(entry.precision)
    devices: list[Device] = as_list(entry.device)
    for name in as_list(entry.backend):
        where: KeyPath = [*keys, "backend"]
        if name not in BACKENDS.entries():
            raise loaded.error(where, unknown("backend", name, BACKENDS.entries()))
        if name != "eager" and cls.exportable is Adapter.exportable:
            raise loaded.error(where, f"adapter '{entry.adapter}' exports nothing, so it runs only eagerly")
        backend = BACKENDS.get(name)
        axes: dict[str, tuple[Sequence[str], Sequence[str]]] = {
            "precision": (precisions, backend.precisions),
            "device": (devices, ("auto", *backend.devices)),
        }
        for key, (wanted, known) in axes.items():
            if lacking := [value for value in wanted if value not in known]:
                raise loaded.error(
                    [*keys, key],
                    f"backend '{name}' has no {key} '{lacking[0]}' (it has {', '.join(known)}); write one "
                    "entry per group of backends with the same values",
                )
    if "tf32" in precisions and "cpu" in devices:
        raise loaded.error([*keys, "precision"], "tf32 needs an NVIDIA GPU, but the device is 'cpu'")
    if "calibration_samples" in entry.model_fields_set and "int8" not in precisions:
        raise loaded.error([*keys, "calibration_samples"], "it applies to the precision int8")


def _paths(
    loaded: LoadedSuite, keys: KeyPath, adapter: str, options: Mapping[str, object]
) -> dict[str, object]:
    """Return the options that name files which inference reads, as absolute paths of existing files."""
    names = path_options(adapter)
    chosen = loaded.expand_options(keys, {name: value for name, value in options.items() if name in names})
    resolved = resolve_paths(loaded, keys, chosen, names)
    for name, value in resolved.items():
        for path in as_list(value):
            if isinstance(path, str) and not Path(path).exists():
                raise UnavailableError(str(loaded.error([*keys, name], f"{path}: no such file")))
    return resolved


def _suffix(axes: Mapping[str, Sequence[object]], values: Sequence[object]) -> str:
    """Return the values of the axes that have several values, such as `[batch_size=8,delay=0.1]`."""
    varying = [
        f"{path.removeprefix('options.')}={value}"
        for (path, axis), value in zip(axes.items(), values, strict=True)
        if len(axis) > 1
    ]
    return f"[{','.join(varying)}]" if varying else ""


def _check_distinct(loaded: LoadedSuite, keys: KeyPath, axes: Mapping[str, Sequence[object]]) -> None:
    for path, axis in axes.items():
        if not axis or any(value in axis[:position] for position, value in enumerate(axis)):
            raise loaded.error([*keys, *path.split(".")], f"a matrix needs distinct values (got {axis})")


def _check_options(
    loaded: LoadedSuite,
    keys: KeyPath,
    options: Mapping[str, object],
    cls: type[Adapter],
    checkpoint: str,
    checkpoint_options: Mapping[str, object],
) -> None:
    """Reject options that contradict the checkpoint, and options that affect only training."""
    for key in checkpoint_options.keys() & options.keys():
        if options[key] != checkpoint_options[key]:
            made_with = f"{key}={checkpoint_options[key]!r}"
            raise loaded.error([*keys, key], f"the checkpoint '{checkpoint}' was made with {made_with}")
    training = cls.training_options if issubclass(cls, TrainableAdapter) else frozenset()
    for key in sorted(training & options.keys() - checkpoint_options.keys()):
        raise loaded.error([*keys, key], f"{key} affects only training: set it in the checkpoint's recipe")


def _scenarios(suite: Suite, benchmark: str, entry: AdapterEntry, cls: type[Adapter]) -> tuple[str, ...]:
    """Return the scenarios of the variants. A benchmark that times none sweeps no batch sizes either."""
    timed = suite.benchmarks[benchmark].speed if cls.timed else []
    sweep = [BATCH_SWEEP] if timed and entry.batch_size == "sweep" else []
    return tuple(dict.fromkeys([*timed, *sweep]))


def _listed_threads(suite: Suite, scenarios: Sequence[str]) -> list[int | None]:
    """Return the numbers of threads with which trials are timed if there are several, else only None."""
    listed = suite.speed.threads
    return [*listed] if isinstance(listed, list) and len(listed) > 1 and scenarios else [None]


def _listed_options(entry: AdapterEntry, model: type[BaseModel]) -> dict[str, list[object]]:
    """Return the options set to several values: to a list that is not itself a value of the option."""
    return {
        key: value
        for key, value in entry.options.items()
        if isinstance(value, list)
        and key in model.model_fields
        and not _is_value(model.model_fields[key], value)
    }


def _is_value(field: FieldInfo, value: list[object]) -> bool:
    """Return whether a list is one value of an option, rather than several values."""
    annotation = field.annotation
    forms = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    is_listed = [get_origin(form) in (list, tuple) for form in forms if form is not NoneType]
    if all(is_listed) and not any(isinstance(item, list) for item in value):
        return True  # complete_options reports a wrong element
    is_plain = get_origin(annotation) is None and isinstance(annotation, type) and annotation is not list
    if annotation is None or is_plain:
        return False
    try:
        TypeAdapter(annotation).validate_python(value)
    except ValidationError:
        return False
    return True


def complete_options(
    loaded: LoadedSuite, keys: KeyPath, model: type[BaseModel], options: Mapping[str, object]
) -> dict[str, object]:
    """Return options as JSON values, with the defaults filled in; a mistake is an error with its line."""
    try:
        completed = model(**options)
    except ValidationError as error:
        key, message = first_mistake(error, model)
        mistake = error.errors()[0]
        got = "" if mistake["type"] == "extra_forbidden" else f" (got {mistake['input']!r:.100})"
        raise loaded.error([*keys, *filter(None, [key.partition(".")[0]])], message + got) from error
    for key, value in options.items():
        if isinstance(value, bool) and not isinstance(getattr(completed, key), bool):
            raise loaded.error([*keys, key], f"expected a value other than true and false (got {value})")
    return completed.model_dump(mode="json")
