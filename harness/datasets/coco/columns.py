"""Columns of COCO's lists of objects, checked as a whole so that a million annotations take seconds.

Messages name the file, the list, and the index of the first bad entry: `FILE: annotations[3]: bbox: …`.
`location` is the part before the index.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import chain, pairwise
from typing import TypeAlias, TypeGuard, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from harness.datasets.files import JsonObject
from harness.errors import UsageError
from harness.registry import unknown

Id: TypeAlias = int | str

_MAX_KNOWN_IDS = 1000  # in the message about an unknown id
_MAX_MESSAGE = 300  # characters


def read_section(location: str, document: JsonObject, key: str, keys: Sequence[str]) -> list[JsonObject]:
    """Return a list of objects in a document, each of which has the given keys."""
    if key not in document:
        raise UsageError(f"{location}: missing key '{key}' (found: {', '.join(document) or 'none'})")
    entries = document[key]
    if not isinstance(entries, list):
        raise UsageError(f"{location}: {key}: expected a list, found a {type(entries).__name__}")
    return read_objects(f"{location}: {key}", entries, keys)


def read_objects(location: str, entries: Sequence[JsonValue], keys: Sequence[str]) -> list[JsonObject]:
    """Return the entries of a list if each is an object that has the given keys."""
    objects = []
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise UsageError(f"{location}[{index}]: expected an object, found a {type(entry).__name__}")
        for key in keys:
            if key not in entry:
                raise UsageError(f"{location}[{index}]: missing key '{key}'")
        objects.append(entry)
    return objects


def read_unique_ids(location: str, entries: Sequence[JsonObject]) -> list[Id]:
    """Return the ids of objects in their order, all integers or all text."""
    ids = [entry["id"] for entry in entries]
    if not _are_ids(ids) or len({type(entry_id) for entry_id in ids}) > 1:
        raise UsageError(f"{location}: id: expected only integers or only text")
    for first, second in pairwise(sorted(ids)):
        if first == second:
            raise UsageError(f"{location}: duplicate id {first!r}")
    return ids


def read_indices(
    location: str, key: str, indices: Mapping[Id, int], values: Sequence[JsonValue]
) -> NDArray[np.int64]:
    """Translate ids to indices [n].

    Raises:
        UsageError: an id is unknown.
    """
    column = [indices.get(value) if _is_id(value) else None for value in values]
    if None in column:
        index = column.index(None)
        known = [str(known_id) for known_id in indices][:_MAX_KNOWN_IDS]
        message = unknown(key, str(values[index]), known)
        raise UsageError(f"{location}[{index}]: {shorten(message)}")
    return np.array(column, dtype=np.int64)


def read_boxes(location: str, values: Sequence[JsonValue]) -> NDArray[np.float64]:
    """Convert boxes [x, y, width, height] to corners [n, 4] in px. A width or height may be 0.

    Raises:
        UsageError: a box is malformed, or has a negative width or height.
    """
    sides: list[list[JsonValue]] = []
    for index, value in enumerate(values):
        if not isinstance(value, list) or len(value) != 4:
            raise UsageError(f"{location}[{index}]: bbox: expected [x, y, width, height], found {value!r}")
        sides.append(value)
    boxes = _finite(location, "bbox", list(chain.from_iterable(sides)), per_entry=4).reshape(-1, 4)
    negative = np.flatnonzero((boxes[:, 2:] < 0).any(axis=1))
    if len(negative):
        index = int(negative[0])
        raise UsageError(
            f"{location}[{index}]: bbox: expected a width and height of at least 0, found {values[index]}"
        )
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def read_non_negative(location: str, key: str, values: Sequence[JsonValue]) -> NDArray[np.float64]:
    """Return finite numbers [n] of at least 0."""
    numbers = read_numbers(location, key, values)
    negative = np.flatnonzero(numbers < 0)
    if len(negative):
        index = int(negative[0])
        raise UsageError(f"{location}[{index}]: {key}: expected at least 0, found {values[index]}")
    return numbers


def read_numbers(location: str, key: str, values: Sequence[JsonValue]) -> NDArray[np.float64]:
    """Return finite numbers [n]."""
    return _finite(location, key, values, per_entry=1)


def read_flags(location: str, key: str, entries: Sequence[JsonObject]) -> NDArray[np.bool_]:
    """Return one flag per object [n]: 0 or 1 in the file, and 0 if absent."""
    values = [entry.get(key, 0) for entry in entries]
    for index, value in enumerate(values):
        if value not in (0, 1):
            raise UsageError(f"{location}[{index}]: {key}: expected 0 or 1, found {value!r}")
    return np.array(values, dtype=bool)


def shorten(message: str) -> str:
    """Truncate a message that lists thousands of ids."""
    return message if len(message) <= _MAX_MESSAGE else f"{message[:_MAX_MESSAGE]}…)"


def _finite(location: str, key: str, values: Sequence[JsonValue], per_entry: int) -> NDArray[np.float64]:
    if set(map(type, values)) <= {int, float}:
        numbers = _to_float64(cast("Sequence[float]", values))
        bad = np.flatnonzero(~np.isfinite(numbers))
        if not len(bad):
            return numbers
        index = int(bad[0])
    else:
        index = next(index for index, value in enumerate(values) if type(value) not in (int, float))
    value = str(values[index])[:40]
    raise UsageError(f"{location}[{index // per_entry}]: {key}: expected a finite number, found {value!r}")


def _to_float64(values: Sequence[float]) -> NDArray[np.float64]:
    """Convert numbers. An integer beyond the range of float64 becomes infinite."""
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError:
        limit = sys.float_info.max
        return np.array([value if abs(value) <= limit else np.inf for value in values])


def _is_id(value: JsonValue) -> TypeGuard[Id]:
    return type(value) in (int, str)  # excludes bool


def _are_ids(values: list[JsonValue]) -> TypeGuard[list[Id]]:
    return all(map(_is_id, values))
