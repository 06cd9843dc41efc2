"""Strict YAML reading: every mistake is reported with its file, its line and the nearest valid name."""

import re
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

import yaml
from pydantic import BaseModel, RootModel, ValidationError

from harness.errors import UsageError
from harness.registry import unknown

M = TypeVar("M", bound=BaseModel)
KeyPath: TypeAlias = Sequence[str | int]
"""Path to a node of a document: ("adapters", "yolo", "batch_size")."""
MAX_BYTES = 1 << 20
MAX_NODES = 50_000
"""Nodes of a document, each alias counted with all that it stands for."""
MAX_TEXT = 1 << 16  # characters of one text
_TOO_MANY = f"more than {MAX_NODES:,} nodes, aliases included"
_TAG = "tag:yaml.org,2002:"
_KEY_TAGS = {f"{_TAG}str", f"{_TAG}merge"}
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")  # NUL ends a path; a lone surrogate has no UTF-8
# YAML 1.1 also reads `yes`, `1:30` (90), `010` (8), `1_000` and dates as something other than text.
_UNAMBIGUOUS = {
    "bool": (re.compile("true|false", re.IGNORECASE), ", or write true or false"),
    "int": (re.compile(r"[-+]?(0|[1-9][0-9]*)"), ", or write a decimal number"),
    "float": (
        re.compile(r"[-+]?(([0-9]+(\.[0-9]*)?|\.[0-9]+)(e[-+]?[0-9]+)?|\.inf)|\.nan", re.IGNORECASE),
        ", or write a decimal number",
    ),
    "timestamp": (re.compile("(?!)"), ""),
}
"""Values that every version of YAML reads alike, by kind, and what to write in place of another value."""


@dataclass(frozen=True)
class Source:
    """A parsed YAML file with the line number of each of its nodes."""

    path: Path
    document: dict[str, object]
    root: yaml.MappingNode

    def location(self, keys: KeyPath) -> str:
        """Return `file:line` of a key path, or of its nearest ancestor in the file."""
        return f"{self.path}:{self.walk(keys)[0]}"

    def walk(self, keys: KeyPath) -> tuple[int, int]:
        """Return the line of the deepest node on a key path, and how many leading keys led to it."""
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
        UsageError: The file is unreadable, not YAML or not a mapping, it exceeds a limit, or it contains a
            duplicate key, a key that is not text, a value with two readings, or an alias that contains
            itself. The message names the line.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise UsageError(f"{path}: larger than {MAX_BYTES:,} bytes")
        root, document = _parse(content.decode())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from error
    except _MistakeError as error:
        location = f"{path}:{error.line}" if error.line else str(path)
        raise UsageError(f"{location}: {error}") from error
    if not isinstance(document, dict) or not isinstance(root, yaml.MappingNode):
        raise UsageError(f"{path}:1: expected a mapping of keys to values")
    return Source(path, document, root)


def parse_value(text: str, option: str) -> object:
    """Parse the YAML value of an option of the command line by the rules of `read_source`."""
    try:
        return _parse(text)[1]
    except _MistakeError as error:
        reason = str(error).replace("malformed YAML", "the value is not YAML")
        raise UsageError(f"{option}: {reason}") from error


class _MistakeError(Exception):
    """A mistake in a document, with its line if it is known."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


class _Loader(yaml.SafeLoader):
    """Counts nodes while it composes them, because a small file may have too many to finish."""

    composed = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.composed += 1
        if self.composed > MAX_NODES:
            raise _MistakeError(_TOO_MANY, self.line + 1)
        return super().compose_node(parent, index)


def _parse(text: str) -> tuple[yaml.Node | None, object]:
    """Return the root node of a document, and the document as Python values."""
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return None, None
        if _checked_size(root, (), {}) > MAX_NODES:
            raise _MistakeError(_TOO_MANY, root.start_mark.line + 1)
        return root, loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise _MistakeError(f"malformed YAML: {error.problem}", line) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _MistakeError(f"malformed YAML: {error.reason}", line) from error
    except (ValueError, RecursionError) as error:  # an integer of 5,000 digits, thousands of open brackets
        raise _MistakeError(f"malformed YAML: {error}") from error


def _checked_size(node: yaml.Node, ancestors: tuple[yaml.Node, ...], sizes: dict[yaml.Node, int]) -> int:
    """Return the number of nodes after the expansion of aliases, which happens only later.

    `sizes` has the nodes that were checked, so that a node with many aliases is checked once.

    Raises:
        _MistakeError: YAML silently keeps the last of two equal keys, reads keys such as `no:` and `1:` as
            something other than text, and lets an alias refer to a node that contains it.
    """
    line = node.start_mark.line + 1
    if node in ancestors:
        raise _MistakeError("an alias refers to a node that contains it", line)
    if node in sizes:
        return sizes[node]
    size = 1
    if isinstance(node, yaml.ScalarNode):
        _check_scalar(node, line)
    elif isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.tag not in _KEY_TAGS:
                kind = key.tag.removeprefix(_TAG)
                raise _MistakeError(f"key {key.value} is read as {kind}, not as text: quote it", line)
            if key.value in keys:
                raise _MistakeError(f"duplicate key '{key.value}'", line)
            keys.add(key.value)
            _check_scalar(key, line)
            size += 1 + _checked_size(value, (*ancestors, node), sizes)
    elif isinstance(node, yaml.SequenceNode):
        size += sum(_checked_size(item, (*ancestors, node), sizes) for item in node.value)
    sizes[node] = size
    return size


def _check_scalar(node: yaml.ScalarNode, line: int) -> None:
    """Refuse text that cannot be stored, and values that YAML 1.1 and YAML 1.2 read differently."""
    if len(node.value) > MAX_TEXT:
        raise _MistakeError(f"a text of more than {MAX_TEXT:,} characters", line)
    if unstorable := _UNSTORABLE.search(node.value):
        raise _MistakeError(f"character U+{ord(unstorable[0]):04X} is not text that can be stored", line)
    kind = node.tag.removeprefix(_TAG)
    expected, alternative = _UNAMBIGUOUS.get(kind, (None, ""))
    if expected and not expected.fullmatch(node.value):
        raise _MistakeError(f"{node.value} is read as {kind}, not as text: quote it{alternative}", line)


def nearest_source(sources: Sequence[Source], keys: KeyPath) -> Source:
    """Return the file that contains most of a key path, or the first of several that contain as much."""
    return max(sources, key=lambda source: source.walk(keys)[1])


def validate(model: type[M], document: object, sources: Sequence[Source], at: KeyPath = ()) -> M:
    """Check a document, found in the sources at a key path, against a schema.

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
    """Return the keys that a model, or the annotation of one of its fields, allows at a key path."""
    for key in keys:
        if isinstance(schema, type) and issubclass(schema, RootModel):
            schema = schema.model_fields["root"].annotation
        if isinstance(schema, type) and issubclass(schema, BaseModel):
            schema = schema.model_fields[str(key)].annotation
        elif typing.get_origin(schema) is dict:
            schema = typing.get_args(schema)[1]
        elif typing.get_origin(schema) is tuple:
            schema = typing.get_args(schema)[0]
        models = [
            arm for arm in typing.get_args(schema) if isinstance(arm, type) and issubclass(arm, BaseModel)
        ]
        if typing.get_origin(schema) is types.UnionType and models:
            schema = models[0]
    return list(schema.model_fields) if isinstance(schema, type) and issubclass(schema, BaseModel) else []
