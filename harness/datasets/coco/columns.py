"""Columns of COCO's lists of objects, checked as a whole so that a million annotations take seconds.

Messages name the file, the list, and the index of the first bad entry: `FILE: annotations[3]: bbox: …`.
`location` is the part before the index. A key whose value is null is absent.
"""

import sys
from collections.abc import Sequence
from itertools import chain
from typing import cast

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from harness.datasets.files import JsonObject, describe_json
from harness.errors import UsageError

MOST = 2**53  # float64 has no odd whole number beyond it


def read_section(location: str, document: JsonObject, key: str, keys: Sequence[str]) -> list[JsonObject]:
    """Return a list of objects in a document, each of which has the given keys."""
    if key not in document:
        raise UsageError(f"{location}: missing key '{key}', found {describe_json(document)}")
    entries = document[key]
    if not isinstance(entries, list):
        raise UsageError(f"{location}: {key}: expected a list, found {describe_json(entries)}")
    return read_objects(f"{location}: {key}", entries, keys)


def read_objects(location: str, entries: Sequence[JsonValue], keys: Sequence[str]) -> list[JsonObject]:
    """Return the entries of a list if each is an object that has the given keys."""
    if set(map(type, entries)) <= {dict}:
        objects = cast("list[JsonObject]", list(entries))
        if not any(None in [entry.get(key) for entry in objects] for key in keys):
            return objects
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise UsageError(f"{location}[{index}]: expected an object, found {describe_json(entry)}")
        for key in keys:
            if entry.get(key) is None:
                raise UsageError(f"{location}[{index}]: missing key '{key}'")
    raise AssertionError("one of the checks above fails")


def read_boxes(location: str, values: Sequence[JsonValue]) -> NDArray[np.float64]:
    """Convert boxes [x, y, width, height] to corners [n, 4] in px."""
    for index, value in enumerate(values):
        if type(value) is not list or len(value) != 4:
            raise UsageError(f"{location}[{index}]: bbox: expected [x, y, width, height], found {value!r}")
    sides = chain.from_iterable(cast("Sequence[list[JsonValue]]", values))
    boxes = read_numbers(location, "bbox", [*sides], per_entry=4, limit=MOST).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def read_flags(location: str, key: str, entries: Sequence[JsonObject]) -> NDArray[np.bool_]:
    """Return one flag per object [n]: 0 or 1 in the file, also as text, and 0 if absent."""
    values = [entry.get(key) or 0 for entry in entries]
    values = [int(value) if value in ("0", "1") else value for value in values]
    for index, value in enumerate(values):
        if value not in (0, 1):
            raise UsageError(f"{location}[{index}]: {key}: expected 0 or 1, found {value!r}")
    return np.array(values, dtype=bool)


def read_numbers(
    location: str,
    key: str,
    values: Sequence[JsonValue],
    per_entry: int = 1,
    limit: float = sys.float_info.max,
) -> NDArray[np.float64]:
    """Return finite numbers [n] of at most `limit` in size, without rounding whole ones."""
    if set(map(type, values)) <= {int, float}:
        listed = cast("Sequence[float]", values)
        try:
            numbers = np.array(listed, dtype=np.float64)
        except OverflowError:  # an integer beyond the range of float64 is infinite
            numbers = np.array([v if abs(v) <= sys.float_info.max else np.inf for v in listed])
        large = np.flatnonzero(~(np.abs(numbers) < MOST)).tolist()  # also NaN
        bad = [i for i in large if not abs(numbers[i]) <= limit or int(numbers[i]) != listed[i]]
        if not bad:
            return numbers
    else:
        bad = [index for index, value in enumerate(values) if type(value) not in (int, float)]
    first = values[bad[0]]
    most = " of at most 2^53" if isinstance(first, int | float) and MOST < abs(first) < np.inf else ""
    more = f" (and {len(bad) - 1} more of {len(values)})" if len(bad) > 1 else ""
    raise UsageError(
        f"{location}[{bad[0] // per_entry}]: {key}: expected a finite number{most}, "
        f"found {str(first)[:40]!r}{more}"
    )
