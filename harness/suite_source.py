"""A YAML file with the line of every key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.errors import UsageError

_KEY_TAGS = {"tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"}


@dataclass(frozen=True)
class Source:
    """What a file says, and where it says it."""

    path: Path
    document: dict[str, Any]
    root: yaml.MappingNode

    def where(self, keys: Sequence[str | int]) -> str:
        """`file:line` of a key path, or of its nearest ancestor that the file has."""
        line, _ = self._walk(keys)
        return f"{self.path}:{line}"

    def depth(self, keys: Sequence[str | int]) -> int:
        """How many of the keys, from the first on, the file has."""
        return self._walk(keys)[1]

    def _walk(self, keys: Sequence[str | int]) -> tuple[int, int]:
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
        raise UsageError(f"{path}:1: expected a mapping with the keys name, adapters, benchmarks")
    _check(root, path, (), set())
    return Source(path, document, root)


def _check(node: yaml.Node, path: Path, above: tuple[yaml.Node, ...], checked: set[yaml.Node]) -> None:
    """Refuse what YAML allows and a suite must not.

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
