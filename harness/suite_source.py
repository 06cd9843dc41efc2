"""A YAML file with the line of every key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.errors import UsageError


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
        UsageError: unreadable, not YAML (with line), a duplicate key (with line), or not a mapping.
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
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: malformed YAML: {error}") from error
    if not isinstance(document, dict) or not isinstance(root, yaml.MappingNode):
        raise UsageError(f"{path}:1: expected a mapping with the keys name, adapters, benchmarks")
    _refuse_duplicates(root, path)
    return Source(path, document, root)


def _refuse_duplicates(node: yaml.Node, path: Path) -> None:
    """YAML keeps the last of two equal keys silently; a suite must not."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise UsageError(f"{path}:{key.start_mark.line + 1}: key '{key.value}' stands twice")
            seen.add(key.value)
            _refuse_duplicates(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_duplicates(item, path)
