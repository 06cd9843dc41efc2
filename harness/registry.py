"""Names → lazily imported things, with where each came from and the nearest name for a mistyped one."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from harness.errors import UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """A registered name that is not imported until asked for."""

    name: str
    target: str  # module:attribute
    origin: str  # the distribution that registered it


class Registry(Generic[T]):
    """Things of one kind: built-in ones and those that installed packages offer as entry points."""

    def __init__(self, kind: str, group: str, builtin: Mapping[str, str] | None = None) -> None:
        self.kind = kind
        self.group = group
        self._builtin = builtin or {}

    def entries(self) -> dict[str, Entry]:
        """Every registered name, sorted.

        Raises:
            UsageError: two packages register the same name.
        """
        found = {name: Entry(name, target, "harness") for name, target in self._builtin.items()}
        for point in _entry_points(self.group, tuple(sys.path)):
            origin = point.dist.name if point.dist else "unknown"
            known = found.get(point.name)
            if known and (known.target, known.origin) != (point.value, origin):
                raise UsageError(
                    f"{self.kind} '{point.name}' is registered twice: by {known.origin} ({known.target}) "
                    f"and by {origin} ({point.value}); uninstall one"
                )
            found[point.name] = Entry(point.name, point.value, origin)
        return dict(sorted(found.items()))

    def get(self, name: str) -> T:
        """Import what is registered under the name.

        Raises:
            UsageError: the name is unknown, or its package fails to import.
        """
        entries = self.entries()
        if name not in entries:
            raise UsageError(unknown(self.kind, name, entries))
        entry = entries[name]
        module, _, attribute = entry.target.partition(":")
        try:
            thing: T = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise UsageError(
                f"{self.kind} '{name}' of {entry.origin} cannot be imported from {entry.target}: {error}"
            ) from error
        return thing


@lru_cache
def _entry_points(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:  # noqa: ARG001
    """What the distributions on `path`, which is sys.path, offer; reading their metadata takes 20 ms."""
    return tuple(entry_points(group=group))


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that is not there: the nearest one, and what there is."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    return f"unknown {kind} '{name}'{hint} (known: {', '.join(names) or 'none'})"
