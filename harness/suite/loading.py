"""Suite files: find, read with includes and overrides, and check against the schema."""

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from pydantic import BaseModel

from harness.decisions.policy import GatePolicy
from harness.errors import UnavailableError, UsageError
from harness.registry import unknown
from harness.suite.schema import Suite
from harness.yaml_source import (
    KeyPath,
    Source,
    known_keys,
    nearest_source,
    parse_value,
    read_source,
    validate,
)


class LoadedSuite:
    """A suite with the files from which it was read, so that later errors can name file and line."""

    def __init__(self, suite: Suite, path: Path, sources: Sequence[Source]) -> None:
        self.suite = suite
        self.path = path
        self._sources = sources

    @property
    def files(self) -> list[Path]:
        """The suite file and the files that it includes."""
        return [source.path for source in self._sources]

    def error(self, keys: KeyPath, message: str) -> UsageError:
        """Return an error that names the file and line of a key path, or of its nearest ancestor."""
        location = nearest_source(self._sources, keys).location(keys)
        return UsageError(f"{location}: {'.'.join(map(str, keys))}: {message}")

    def expand_text(self, keys: KeyPath, text: str) -> str:
        """Replace ${NAME} in the text at a key path by environment variables; see `expand_options`."""
        return str(self.expand_options(keys, {"": text})[""])

    def expand_options(self, keys: KeyPath, options: Mapping[str, object]) -> dict[str, object]:
        """Replace each ${NAME} in texts of options by its variable, or raise an UnavailableError."""
        try:
            return {key: _expand(value) for key, value in options.items()}
        except UnavailableError as error:
            raise UnavailableError(str(self.error(keys, str(error)))) from error

    def file(self, keys: KeyPath) -> Path:
        """Return the file that sets these keys."""
        return nearest_source(self._sources, keys).path

    def folder(self, keys: KeyPath) -> Path:
        """Return the folder of the file that sets these keys. Relative paths there start from it."""
        return self.file(keys).parent


def _expand(value: object) -> object:
    if isinstance(value, str):
        for name in re.findall(r"\$\{(\w+)\}", value):
            if name not in os.environ:
                raise UnavailableError(f"environment variable {name} is not set, but '{value}' needs it")
        return re.sub(r"\$\{(\w+)\}", lambda match: os.environ[match[1]], value)
    if isinstance(value, dict):
        return {key: _expand(inner) for key, inner in value.items()}
    return [_expand(inner) for inner in value] if isinstance(value, list) else value


def shipped_suites() -> dict[str, Path]:
    """Return the suites that are installed with the harness, by name."""
    folder = Path(str(files("suites")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_suite(name: str) -> Path:
    """Return the absolute path of a suite, given its path or the name of a shipped suite."""
    path = Path(name)
    if path.suffix in {".yaml", ".yml"} or path.is_file():
        if not path.is_file():
            raise UsageError(f"suite {name}: no such file")
        return path.absolute()
    shipped = shipped_suites()
    if name not in shipped:
        raise UsageError(unknown("suite", name, shipped))
    return shipped[name]


def load_suite(path: Path, overrides: Sequence[str] = ()) -> LoadedSuite:
    """Read a suite with its includes, apply `KEY=VALUE` overrides, and check it against the schema."""
    sources = _read_with_includes(path, ())
    suite = validate(Suite, sources[0].document, sources[:1])
    for source in sources[1:]:
        suite = _merge(suite, validate(Suite, source.document, [source]), source)
    if overrides:
        document = suite.model_dump(exclude_unset=True)
        for override in overrides:
            _apply_override(document, override)
            try:
                suite = validate(Suite, document, sources)
            except UsageError as error:  # the files are valid without overrides, so the override is wrong
                reason = str(error).partition(": ")[2]
                raise UsageError(f"--set {override}: {reason}") from error
    return LoadedSuite(suite, path, sources)


class GateFile(BaseModel):
    """The gate of a suite file, or of a file that has nothing else."""

    gate: GatePolicy = GatePolicy()


def recorded_gate(path: Path) -> GatePolicy:
    """Return the gate policy of a run's suite.yaml, whose includes are resolved; the default without one."""
    source = read_source(path)
    return validate(GateFile, source.document, [source]).gate


def read_gate(path: Path) -> GatePolicy:
    """Return the gate policy of a file and of those that it includes, whose rules come first.

    Other keys, such as those of a suite, are ignored. No gate at all is a UsageError.
    """
    sources = _read_with_includes(path, ())
    if not any("gate" in source.document for source in sources):
        keys = ", ".join(sources[0].document) or "none"
        raise UsageError(f"{path}: expected the key 'gate' with a list of rules (found: {keys})")
    gates = [validate(GateFile, source.document, [source]).gate for source in reversed(sources)]
    return GatePolicy(tuple(rule for gate in gates for rule in gate.root))


def _read_with_includes(path: Path, including: tuple[Path, ...]) -> list[Source]:
    """Read a suite file and the files that it includes, each once, after a chain of files that led to it."""
    resolved = path.resolve()
    if resolved in including:
        raise UsageError(f"{path}: includes itself through {' → '.join(p.name for p in including)}")
    source = read_source(path)
    sources = [source]
    names = source.document.get("include", [])
    for position, name in enumerate(names if isinstance(names, list) else []):
        target = path.parent / str(name)
        if not target.is_file():
            raise UsageError(f"{source.location(['include', position])}: include: {name}: no such file")
        paths = {known.path.resolve() for known in sources}
        included = _read_with_includes(target, (*including, resolved))
        sources += [other for other in included if other.path.resolve() not in paths]
    return sources


def _merge(suite: Suite, included: Suite, source: Source) -> Suite:
    """Return a suite with the entries of an included suite added.

    `data_root`, `speed` and the rules of the gate of the including suite take precedence. A name that the two
    suites define differently is a UsageError.
    """
    merged: dict[str, object] = {
        key: getattr(included, key)
        for key in ("data_root", "speed")
        if key in included.model_fields_set and key not in suite.model_fields_set
    }
    for section in ("datasets", "adapters", "benchmarks", "claims"):
        entries, added = getattr(suite, section), getattr(included, section)
        for name in entries.keys() & added.keys():
            if entries[name] != added[name]:
                raise UsageError(
                    f"{source.location([section, name])}: {section}.{name}: "
                    f"defined differently in {suite.name}"
                )
        merged[section] = {**added, **entries}
    merged["gate"] = GatePolicy((*included.gate.root, *suite.gate.root))
    return suite.model_copy(update=merged)


def _apply_override(document: dict[str, object], override: str) -> None:
    """Set one dotted key of a document to a value in YAML."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UsageError(f"--set {override}: expected KEY=VALUE, such as adapters.yolo.batch_size=8")
    value = parse_value(text, f"--set {override}")
    *parents, last = key.split(".")
    if key.partition(".")[0] == "include":
        raise UsageError(f"--set {override}: includes are read before overrides and cannot be set")
    section = document
    for depth, parent in enumerate(parents):
        inner = section.get(parent)
        if inner is None and parent in known_keys(Suite, parents[:depth]):
            inner = {}
        if not isinstance(inner, dict):
            close = difflib.get_close_matches(parent, list(section), n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            where = ".".join(parents[:depth]) or "the suite"
            raise UsageError(f"--set {override}: {where} has no section '{parent}'{hint}")
        copy: dict[str, object] = dict(inner)
        section[parent] = section = copy
    section[last] = value
