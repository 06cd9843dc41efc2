"""One adapter entry of a suite → its variants: every combination of the values that it lists."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError

from harness.adapter import ADAPTERS, Precision, Resources, TrainableAdapter
from harness.errors import UnavailableError, UsageError
from harness.recipe import CheckpointRef, resolve
from harness.registry import unknown
from harness.suite.schema import AdapterEntry, LoadedSuite
from harness.task import TaskName
from harness.yaml_source import Keys


@dataclass(frozen=True)
class Variant:
    """An adapter with every setting decided."""

    name: str  # the label, with the values that vary: yolo[precision=bf16]
    adapter: str
    options: dict[str, Any]
    precision: Precision
    batch_size: int
    device: str
    checkpoint: CheckpointRef | None
    resources: Resources


def variants_of(
    loaded: LoadedSuite, benchmark: str, position: int, label: str, task: TaskName
) -> Iterator[Variant]:
    """The variants of the adapter that stands at a position of a benchmark's list.

    Raises:
        UsageError: an unknown adapter, option or checkpoint, or one for another task.
        UnavailableError: weights, or the environment variable that names them, are not there.
    """
    suite = loaded.suite
    if label not in suite.adapters:
        where: Keys = ["benchmarks", benchmark, "adapters", position]
        raise loaded.error(where, unknown("adapter", label, suite.adapters))
    entry = suite.adapters[label]
    keys: Keys = ["adapters", label]
    if entry.adapter not in ADAPTERS.entries():
        raise loaded.error([*keys, "adapter"], unknown("adapter", entry.adapter, ADAPTERS.entries()))
    cls = ADAPTERS.get(entry.adapter)
    if cls.task != task:
        raise loaded.error(keys, f"adapter '{entry.adapter}' is for {cls.task}, '{benchmark}' is {task}")
    references = checkpoints_of(loaded, entry, keys)
    fixed = dict(next(iter(references.values())).options) if references else {}
    training = cls.training_options if issubclass(cls, TrainableAdapter) else frozenset()
    axes = _axes(entry, cls.Options)
    for key, axis in axes.items():
        if not axis or any(value in axis[:position] for position, value in enumerate(axis)):
            raise loaded.error([*keys, *key.split(".")], f"a matrix needs distinct values (got {axis})")
    for combination in itertools.product(*axes.values()):
        values = dict(zip(axes, combination, strict=True))
        changed = [
            f"{key.removeprefix('options.')}={value}" for key, value in values.items() if len(axes[key]) > 1
        ]
        chosen = {key: values.get(f"options.{key}", entry.options[key]) for key in entry.options}
        for key in fixed.keys() & chosen.keys():
            if chosen[key] != fixed[key]:
                message = f"the checkpoint '{entry.checkpoint}' was made with {key}={fixed[key]!r}"
                raise loaded.error([*keys, "options", key], message)
        for key in sorted(training & chosen.keys() - fixed.keys()):
            message = f"{key} shapes training and does nothing here: set it in the checkpoint's recipe"
            raise loaded.error([*keys, "options", key], message)
        yield Variant(
            f"{label}[{','.join(changed)}]" if changed else label,
            entry.adapter,
            complete_options(loaded, [*keys, "options"], cls.Options, {**fixed, **chosen}),
            values["precision"],
            values["batch_size"],
            values["device"],
            references.get(values.get("seed")),
            Resources(entry.resources.cpu, entry.resources.gpu),
        )


def _axes(entry: AdapterEntry, options: type[BaseModel]) -> dict[str, list[Any]]:
    """Setting → its values; an option is an axis where it is given a list that is not itself a value."""
    axes: dict[str, list[Any]] = {}
    for key in ("seed", "precision", "batch_size", "device"):
        value = getattr(entry, key)
        axes[key] = value if isinstance(value, list) else [value]
    for key, value in entry.options.items():
        field = options.model_fields.get(key)
        if isinstance(value, list) and field is not None and not _is_value(field.annotation, value):
            axes[f"options.{key}"] = value
    return axes


def _is_value(annotation: Any, value: list[Any]) -> bool:
    if get_origin(annotation) in (list, tuple) and not any(isinstance(item, list) for item in value):
        return True  # a wrong one is refused as a whole
    if get_origin(annotation) is None and isinstance(annotation, type) and annotation is not list:
        return False
    try:
        TypeAdapter(annotation).validate_python(value)
    except ValidationError:
        return False
    return True


def checkpoints_of(loaded: LoadedSuite, entry: AdapterEntry, keys: Keys) -> dict[int | None, CheckpointRef]:
    """Seed → checkpoint; the recipe's own seed is None. Empty for an adapter without one."""
    if entry.checkpoint is None:
        if entry.seed is not None:
            raise loaded.error(
                [*keys, "seed"], "a seed is of a checkpoint's recipe, and there is no checkpoint"
            )
        return {}
    folder = loaded.folder([*keys, "checkpoint"])
    reference = loaded.expanded([*keys, "checkpoint"], entry.checkpoint)
    seeds = entry.seed if isinstance(entry.seed, list) else [entry.seed]
    try:
        return {seed: resolve(reference, entry.adapter, folder, seed) for seed in seeds}
    except (UsageError, UnavailableError) as error:
        raise type(error)(str(loaded.error([*keys, "checkpoint"], str(error)))) from error


def complete_options(
    loaded: LoadedSuite, keys: Keys, model: type[BaseModel], given: dict[str, Any]
) -> dict[str, Any]:
    """Options with their defaults filled in, as JSON values.

    Raises:
        UsageError: an unknown option or a wrong value, with its line.
    """
    try:
        return model(**given).model_dump(mode="json")
    except ValidationError as error:
        first = error.errors()[0]
        place = [*keys, *first["loc"][:1]]
        if first["type"] == "extra_forbidden":
            raise loaded.error(place, unknown("option", str(place[-1]), model.model_fields)) from error
        message = first["msg"].removeprefix("Value error, ")
        raise loaded.error(place, f"{message} (got {first['input']!r:.100})") from error
