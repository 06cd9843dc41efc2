"""The suite file: what to evaluate, declared; read strictly, never executed."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator

from harness.adapter import Precision
from harness.errors import UnavailableError, UsageError
from harness.registry import unknown
from harness.suite.profiles import Exclusive
from harness.task import TaskName
from harness.yaml_source import Keys, Source, fields, nearest, read_source, validate

ScenarioName = Literal["offline", "single-stream"]
ProfileName = Literal["smoke", "ci", "release", "mlperf"]
Device = Literal["auto", "cpu", "cuda"]
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"  # names become folder names and MLflow keys


class _Strict(BaseModel):
    # strict: YAML has types, so that '16' or `true` for a batch size is a mistake, not a number.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class DatasetEntry(_Strict):
    """A named definition: a registered data set with options."""

    dataset: str = Field(description="registered name, see `harness list datasets`")
    options: dict[str, Any] = Field(default_factory=dict)


class ResourcesEntry(_Strict):
    """What one worker that predicts takes from the cluster; no part of a trial's identity."""

    cpu: float = Field(1.0, gt=0, description="CPUs; fractions share one")
    gpu: float = Field(1.0, gt=0, description="GPUs, where it runs on one; 0.25: four workers share one")

    @field_validator("gpu")
    @classmethod
    def _whole(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError("more than one GPU must be a whole number")
        return value


class AdapterEntry(_Strict):
    """A named adapter; a list where one value is expected makes a variant of each (a matrix)."""

    adapter: str = Field(description="registered name, see `harness list adapters`")
    checkpoint: str | None = Field(
        None, description="a shipped recipe, or a path to weights or recipe; may hold ${NAME}"
    )
    seed: int | list[int] | None = Field(None, description="train the checkpoint's recipe with this seed")
    options: dict[str, Any] = Field(default_factory=dict)
    precision: Precision | list[Precision] = "fp32"
    batch_size: int | list[int] = 16
    device: Device | list[Device] = "auto"
    resources: ResourcesEntry = ResourcesEntry()

    @field_validator("batch_size")
    @classmethod
    def _positive(cls, value: int | list[int]) -> int | list[int]:
        if any(size < 1 for size in (value if isinstance(value, list) else [value])):
            raise ValueError("a batch size is at least 1")
        return value


class BenchmarkEntry(_Strict):
    """Adapters on one split of a data set."""

    dataset: str = Field(description="a name under `datasets`, or a registered data set")
    task: TaskName | None = Field(None, description="needed where the data set serves several tasks")
    split: str = "test"
    limit: int | None = Field(None, gt=0, description="the first N samples by id")
    adapters: list[str] = Field(min_length=1)
    metrics: list[str] = Field(min_length=1)
    speed: list[ScenarioName] = Field(default_factory=list)
    when_unavailable: Literal["fail", "skip"] = Field(
        "fail", description="what to do where this machine lacks what the data set is made of"
    )


class SpeedEntry(_Strict):
    """How speed is measured; the same for all trials of a run."""

    profile: ProfileName = "smoke"
    threads: int | None = Field(None, gt=0, description="CPU threads while timing; all cores if not set")
    samples: int = Field(64, gt=0, description="distinct samples cycled through while timing")
    exclusive: Exclusive = Field(
        "node", description="what a timed trial has to itself: a whole node, or one GPU and its share of CPUs"
    )


class Suite(_Strict):
    """A suite as written, its includes merged in."""

    name: str = Field(pattern=NAME)
    description: str = ""
    include: list[str] = Field(default_factory=list, description="suites whose entries are merged in")
    data_root: str | None = Field(None, description="folder that relative data paths start from and stay in")
    datasets: dict[str, DatasetEntry] = Field(default_factory=dict)
    adapters: dict[str, AdapterEntry] = Field(default_factory=dict)
    benchmarks: dict[str, BenchmarkEntry] = Field(default_factory=dict)
    speed: SpeedEntry = SpeedEntry()

    @field_validator("datasets", "adapters", "benchmarks")
    @classmethod
    def _names(cls, entries: dict[str, Any]) -> dict[str, Any]:
        for name in entries:
            if not re.fullmatch(NAME, name):
                raise ValueError(f"'{name}' is no name: letters, digits, '.', '_' and '-', 64 at most")
        return entries


class LoadedSuite:
    """A suite with where its parts stand, so that later errors can name file and line."""

    def __init__(self, suite: Suite, path: Path, sources: Sequence[Source]) -> None:
        self.suite = suite
        self.path = path
        self._sources = sources

    @property
    def files(self) -> list[Path]:
        """The file itself and those that it includes."""
        return [source.path for source in self._sources]

    def error(self, keys: Keys, message: str) -> UsageError:
        """An error at a key path, with the file and line that are nearest to it."""
        where = nearest(self._sources, keys).where(keys)
        return UsageError(f"{where}: {'.'.join(map(str, keys))}: {message}")

    def expanded(self, keys: Keys, value: Any) -> Any:
        """The value at a key path with its environment variables.

        Raises:
            UnavailableError: one is not set; names file and line.
        """
        try:
            return expand_variables(value)
        except UnavailableError as error:
            raise UnavailableError(str(self.error(keys, str(error)))) from error

    def folder(self, keys: Keys) -> Path:
        """Where relative paths at a key path start from: the folder of the file that they stand in."""
        return nearest(self._sources, keys).path.parent


def shipped_suites() -> dict[str, Path]:
    """Suites that come with the harness, by name."""
    folder = Path(str(files("suites")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_suite(name: str) -> Path:
    """A suite by path or by the name of a shipped one.

    Raises:
        UsageError: neither, with the nearest name.
    """
    path = Path(name)
    if path.suffix in {".yaml", ".yml"} or path.is_file():
        if not path.is_file():
            raise UsageError(f"suite {name}: no such file")
        return path
    shipped = shipped_suites()
    if name not in shipped:
        raise UsageError(unknown("suite", name, shipped))
    return shipped[name]


def load_suite(path: Path, overrides: Sequence[str] = ()) -> LoadedSuite:
    """Read a suite and its includes, apply `KEY=VALUE` overrides, check it against the schema.

    Raises:
        UsageError: one message naming the file, the line, the key, what was expected, the nearest name.
    """
    sources = _read_with_includes(path, ())
    suite = validate(Suite, sources[0].document, sources[:1])
    for source in sources[1:]:
        suite = _merge(suite, validate(Suite, source.document, [source]), source)
    if overrides:
        document = suite.model_dump(exclude_unset=True)
        for override in overrides:
            _apply(document, override)
            try:
                suite = validate(Suite, document, sources)
            except UsageError as error:  # the file is right: it was read without the override
                reason = str(error).partition(": ")[2]
                raise UsageError(f"--set {override}: {reason}") from error
    return LoadedSuite(suite, path, sources)


def _read_with_includes(path: Path, including: tuple[Path, ...]) -> list[Source]:
    resolved = path.resolve()
    if resolved in including:
        raise UsageError(f"{path}: includes itself through {' → '.join(p.name for p in including)}")
    source = read_source(path)
    sources = [source]
    included = source.document.get("include", [])
    for position, name in enumerate(included if isinstance(included, list) else []):
        target = path.parent / str(name)
        if not target.is_file():
            raise UsageError(f"{source.where(['include', position])}: include: {name}: no such file")
        known = {known.path.resolve() for known in sources}
        sources += [
            found
            for found in _read_with_includes(target, (*including, resolved))
            if found.path.resolve() not in known
        ]
    return sources


def _merge(suite: Suite, other: Suite, source: Source) -> Suite:
    """Entries of an included suite beside the including one's; a name defined twice is an error.

    `data_root` and `speed` are the including suite's where it sets them.
    """
    merged: dict[str, Any] = {
        key: getattr(other, key)
        for key in ("data_root", "speed")
        if key in other.model_fields_set and key not in suite.model_fields_set
    }
    for section in ("datasets", "adapters", "benchmarks"):
        mine, theirs = getattr(suite, section), getattr(other, section)
        for name in mine.keys() & theirs.keys():
            if mine[name] != theirs[name]:
                raise UsageError(
                    f"{source.where([section, name])}: {section}.{name}: defined differently in {suite.name}"
                )
        merged[section] = {**theirs, **mine}
    return suite.model_copy(update=merged)


def _apply(document: dict[str, Any], override: str) -> None:
    """Set one dotted key; the value is YAML, so `[fp32, bf16]` and `null` mean what they mean in a file."""
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise UsageError(f"--set {override}: expected KEY=VALUE, such as adapters.yolo.batch_size=8")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UsageError(f"--set {override}: the value is not YAML") from error
    *parents, last = key.split(".")
    if key.partition(".")[0] == "include":
        raise UsageError(f"--set {override}: includes are read before anything is set")
    place = document
    for depth, parent in enumerate(parents):
        inner = place.get(parent)
        if inner is None and parent in fields(Suite, parents[:depth]):
            inner = {}
        if not isinstance(inner, dict):
            close = difflib.get_close_matches(parent, list(place), n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise UsageError(f"--set {override}: the suite has no '{parent}' there{hint}")
        place[parent] = place = dict(inner)
    place[last] = parsed


def expand_variables(value: Any) -> Any:
    """Replace ${NAME} in strings by environment variables.

    Raises:
        UnavailableError: the variable is not set.
    """
    if isinstance(value, str):

        def lookup(match: re.Match[str]) -> str:
            if match[1] not in os.environ:
                raise UnavailableError(f"environment variable {match[1]} is not set, but '{value}' needs it")
            return os.environ[match[1]]

        return re.sub(r"\$\{(\w+)\}", lookup, value)
    if isinstance(value, dict):
        return {key: expand_variables(inner) for key, inner in value.items()}
    return [expand_variables(inner) for inner in value] if isinstance(value, list) else value


def json_schema() -> dict[str, Any]:
    """JSON Schema of the suite file, for editors."""
    return Suite.model_json_schema()
