"""YAML read strictly: every mistake is told with its file, its line and the nearest valid name."""

from __future__ import annotations

import re
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from harness.errors import UsageError
from harness.registry import unknown

M = TypeVar("M", bound=BaseModel)
Keys = Sequence[str | int]
"""Where something stands in a file: ("adapters", "yolo", "batch_size")."""
_KEY_TAGS = {"tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"}


@dataclass(frozen=True)
class Source:
    """What a file says, and where it says it."""

    path: Path
    document: dict[str, Any]
    root: yaml.MappingNode

    def where(self, keys: Keys) -> str:
        """`file:line` of a key path, or of its nearest ancestor that the file has."""
        line, _ = self._walk(keys)
        return f"{self.path}:{line}"

    def depth(self, keys: Keys) -> int:
        """How many of the keys, from the first on, the file has."""
        return self._walk(keys)[1]

    def _walk(self, keys: Keys) -> tuple[int, int]:
        node: yaml.Node = self.root
        line = node.start_mark.line + 1
        for depth, key in enumerate(keys):
            if isinstance(node, yaml.MappingNode):
                pair = next(((k, v) for k, v in node.value if k.value == str(key)), None)
                if pair is None:
                    return line, depth
                line, node = pair[0].start_mark.line + 1, pair[1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
                node = node.value[key]
                line = node.start_mark.line + 1
            else:
                return line, depth
        return line, len(keys)


def read_source(path: Path) -> Source:
    """Read a YAML mapping safely.

    Raises:
        UsageError: unreadable, not YAML, a key that stands twice or is no text, or not a mapping; with line.
    """
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        document = yaml.safe_load(text)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise UsageError(f"{path}:{line}: malformed YAML: {error.problem}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UsageError(f"{path}:{line}: malformed YAML: {error.reason}") from error
    except (ValueError, RecursionError) as error:  # a date such as 2024-13-45; brackets without end
        raise UsageError(f"{path}: malformed YAML: {error}") from error
    if not isinstance(document, dict) or not isinstance(root, yaml.MappingNode):
        raise UsageError(f"{path}:1: expected a mapping of keys to values")
    _check(root, path, (), set())
    return Source(path, document, root)


def _check(node: yaml.Node, path: Path, above: tuple[yaml.Node, ...], checked: set[yaml.Node]) -> None:
    """Refuse what YAML allows and nobody means.

    Of two equal keys YAML keeps the last silently, `no:` and `1:` are no text, and an alias may stand for a
    node that contains it. A node with many aliases is checked once.
    """
    line = node.start_mark.line + 1
    if node in above:
        raise UsageError(f"{path}:{line}: an alias refers to what it is part of")
    if node in checked:
        return
    checked.add(node)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.tag not in _KEY_TAGS:
                kind = key.tag.rpartition(":")[2]
                raise UsageError(f"{path}:{line}: key {key.value} is read as {kind}, not as text: quote it")
            if key.value in seen:
                raise UsageError(f"{path}:{line}: key '{key.value}' stands twice")
            seen.add(key.value)
            _check(value, path, (*above, node), checked)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check(item, path, (*above, node), checked)


def nearest(sources: Sequence[Source], keys: Keys) -> Source:
    """The file that has most of a key path, the first of equals."""
    return max(sources, key=lambda source: source.depth(keys))


def validate(model: type[M], document: Any, sources: Sequence[Source], at: Keys = ()) -> M:
    """Check a document, or what stands at a key path of it, against a schema.

    Raises:
        UsageError: the first mistake, with its line, its key, what was expected and the nearest name.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        found = [(_keys(detail["loc"], document), detail) for detail in error.errors()]
        place = found[0][0]
        # Where a value or a list of values may stand, both are complained of: the element says most.
        same = [(keys, detail) for keys, detail in found if keys[: len(place)] == place]
        keys, first = max(same, key=lambda pair: len(pair[0]))
        if first["type"] == "extra_forbidden":
            message = unknown("key", str(keys[-1]), fields(model, keys[:-1]))
        elif first["type"] == "missing":
            message = "this key is needed"
        elif first["type"] == "literal_error" and isinstance(first["input"], str):
            message = unknown("value", first["input"], re.findall(r"'([^']*)'", first["ctx"]["expected"]))
        else:
            message = f"{first['msg'].removeprefix('Value error, ')} (got {first['input']!r})"
        full: Keys = [*at, *keys]
        name = ".".join(map(str, full))
        raise UsageError(f"{nearest(sources, full).where(full)}: {name}: {message}") from error


def _keys(location: Sequence[str | int], document: object) -> list[str | int]:
    """Pydantic's location without the union branches it mentions, which are no keys of the file."""
    keys: list[str | int] = []
    for position, part in enumerate(location):
        is_last = position == len(location) - 1
        if isinstance(document, dict) and (part in document or is_last):
            keys.append(part)
            document = document.get(part)
        elif isinstance(document, list) and isinstance(part, int):
            keys.append(part)
            document = document[part]
    return keys


def fields(model: Any, keys: Keys) -> list[str]:
    """The keys that the schema knows at a place."""
    for key in keys:
        if isinstance(model, type) and issubclass(model, BaseModel):
            model = model.model_fields[str(key)].annotation
        elif typing.get_origin(model) is dict:
            model = typing.get_args(model)[1]
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []
