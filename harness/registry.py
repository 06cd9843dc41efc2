"""Registries: names of objects that are imported when they are first requested."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Generic, TypeVar

from harness.errors import UsageError
from harness.process import leave_removed_folder

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """A registered name and the object that it refers to."""

    name: str
    target: str
    """`module:attribute`."""
    origin: str
    """The distribution that registered the name."""

    @property
    def module(self) -> str:
        """Return the module that defines the object."""
        return self.target.partition(":")[0]


class Registry(Generic[T]):
    """Objects of one kind: built-in ones and those that installed packages register as entry points.

    Args:
        kind: The kind in error messages, such as `adapter`.
        group: Entry-point group of other packages.
        builtin: Name → `module:attribute`.
    """

    def __init__(self, kind: str, group: str, builtin: Mapping[str, str] | None = None) -> None:
        self.kind = kind
        self.group = group
        self._builtin = builtin or {}

    def entries(self) -> dict[str, Entry]:
        """Return all entries by name, sorted by name."""
        entries = {name: Entry(name, target, "harness") for name, target in self._builtin.items()}
        for point in _entry_points(self.group, tuple(sys.path)):
            known = entries.setdefault(point.name, point)
            if known != point:
                raise UsageError(
                    f"{self.kind} '{point.name}' is registered twice: by {known.origin} ({known.target}) "
                    f"and by {point.origin} ({point.target}); uninstall one"
                )
        return dict(sorted(entries.items()))

    def entry(self, name: str) -> Entry:
        """Return an entry, or raise a UsageError if the name is unknown."""
        entries = self.entries()
        if name not in entries:
            raise UsageError(unknown(self.kind, name, entries))
        return entries[name]

    def get(self, name: str) -> T:
        """Import and return the object that is registered under a name."""
        entry = self.entry(name)
        attribute = entry.target.partition(":")[2]
        leave_removed_folder()
        folder = os.open(".", os.O_RDONLY)
        try:
            registered: T = getattr(importlib.import_module(entry.module), attribute)
        except (ImportError, AttributeError, SystemExit) as error:
            raise UsageError(
                f"{self.kind} '{name}' of {entry.origin} cannot be imported from {entry.target}: {error}"
            ) from error
        finally:
            os.fchdir(folder)  # relative paths keep their meaning, whatever the module does
            os.close(folder)
        return registered


@lru_cache
def _entry_points(group: str, path: tuple[str, ...]) -> tuple[Entry, ...]:  # noqa: ARG001
    """Return the entry points of a group; cached by sys.path because reading the metadata takes 20 ms."""
    points = entry_points(group=group)
    return tuple(Entry(p.name, p.value, p.dist.name if p.dist else "unknown") for p in points)


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the error message for an unknown name, with the most similar known name and all known names."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    return f"unknown {kind} '{name}'{hint} (known: {', '.join(names) or 'none'})"


def first_mistake(error: ValidationError, options: type[BaseModel] | None = None) -> tuple[str, str]:
    """Return the dotted key of the first value that a model refuses, and the reason.

    With the model of the options that were refused, the message about an unknown one lists their names.
    """
    mistake = error.errors()[0]
    key = ".".join(map(str, mistake["loc"]))
    if options and mistake["type"] == "extra_forbidden":
        return key, unknown("option", key, options.model_fields)
    return key, mistake["msg"].removeprefix("Value error, ")
