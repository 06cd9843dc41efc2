"""Strict YAML reading: every mistake is reported with its file, its line and the nearest valid name."""

from __future__ import annotations

import re
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from harness.errors import UsageError
from harness.registry import unknown

M = TypeVar("M", bound=BaseModel)
KeyPath: TypeAlias = Sequence[str | int]
"""Path to a node of a document: ("adapters", "yolo", "batch_size")."""
_KEY_TAGS = {"tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"}


@dataclass(frozen=True)
class Source:
    """A parsed YAML file with the line number of each of its nodes."""

    path: Path
    document: dict[str, object]
    root: yaml.MappingNode

    def location(self, keys: KeyPath) -> str:
        """Return `file:line` of a key path, or of its nearest ancestor in the file."""
        line, _ = self._walk(keys)
        return f"{self.path}:{line}"

    def matching_depth(self, keys: KeyPath) -> int:
        """Return how many leading keys of a key path the file contains."""
        return self._walk(keys)[1]

    def _walk(self, keys: KeyPath) -> tuple[int, int]:
        """Return the line of the deepest node on a key path, and its depth."""
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
    """Read a YAML file whose root is a mapping, without executing anything in it.

    Raises:
        UsageError: The file is unreadable, not YAML or not a mapping, or it has a duplicate key, a key that
            is not text, or an alias that contains itself. The message names the line.
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
    except (ValueError, RecursionError) as error:  # a date such as 2024-13-45, or thousands of open brackets
        raise UsageError(f"{path}: malformed YAML: {error}") from error
    if not isinstance(document, dict) or not isinstance(root, yaml.MappingNode):
        raise UsageError(f"{path}:1: expected a mapping of keys to values")
    _reject_ambiguities(root, path, (), set())
    return Source(path, document, root)


def _reject_ambiguities(
    node: yaml.Node, path: Path, ancestors: tuple[yaml.Node, ...], checked: set[yaml.Node]
) -> None:
    """Reject valid YAML that is almost certainly a mistake.

    - YAML silently keeps the last of two equal keys.
    - Keys such as `no:` and `1:` are not text.
    - An alias may refer to a node that contains it.

    A node with many aliases is checked once.
    """
    line = node.start_mark.line + 1
    if node in ancestors:
        raise UsageError(f"{path}:{line}: an alias refers to a node that contains it")
    if node in checked:
        return
    checked.add(node)
    if isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.tag not in _KEY_TAGS:
                kind = key.tag.rpartition(":")[2]
                raise UsageError(f"{path}:{line}: key {key.value} is read as {kind}, not as text: quote it")
            if key.value in keys:
                raise UsageError(f"{path}:{line}: duplicate key '{key.value}'")
            keys.add(key.value)
            _reject_ambiguities(value, path, (*ancestors, node), checked)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _reject_ambiguities(item, path, (*ancestors, node), checked)


def nearest_source(sources: Sequence[Source], keys: KeyPath) -> Source:
    """Return the file that contains most of a key path, or the first of several that contain as much."""
    return max(sources, key=lambda source: source.matching_depth(keys))


def validate(model: type[M], document: object, sources: Sequence[Source], at: KeyPath = ()) -> M:
    """Check a document against a schema.

    Args:
        at: The key path of the document in the sources.

    Raises:
        UsageError: The first mistake, with its line, its key, the expected value and the nearest valid name.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        mistakes = [(_key_path(detail["loc"], document), detail) for detail in error.errors()]
        first_path = mistakes[0][0]
        # A value that may also be a list fails both alternatives; the mistake inside the list is the most
        # specific.
        related = [(keys, detail) for keys, detail in mistakes if keys[: len(first_path)] == first_path]
        keys, mistake = max(related, key=lambda pair: len(pair[0]))
        if mistake["type"] == "extra_forbidden":
            message = unknown("key", str(keys[-1]), known_keys(model, keys[:-1]))
        elif mistake["type"] == "missing":
            message = "this key is required"
        elif mistake["type"] == "literal_error" and isinstance(mistake["input"], str):
            message = unknown("value", mistake["input"], re.findall(r"'([^']*)'", mistake["ctx"]["expected"]))
        else:
            message = f"{mistake['msg'].removeprefix('Value error, ')} (got {mistake['input']!r})"
        full_path: KeyPath = [*at, *keys]
        location = nearest_source(sources, full_path).location(full_path)
        raise UsageError(f"{location}: {'.'.join(map(str, full_path))}: {message}") from error


def _key_path(location: Sequence[str | int], document: object) -> list[str | int]:
    """Return pydantic's location without the union branches in it, which are not keys of the file."""
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


def known_keys(schema: object, keys: KeyPath) -> list[str]:
    """Return the keys that a schema allows at a key path.

    Args:
        schema: A pydantic model, or the annotation of one of its fields.
    """
    for key in keys:
        if isinstance(schema, type) and issubclass(schema, BaseModel):
            schema = schema.model_fields[str(key)].annotation
        elif typing.get_origin(schema) is dict:
            schema = typing.get_args(schema)[1]
    return list(schema.model_fields) if isinstance(schema, type) and issubclass(schema, BaseModel) else []
