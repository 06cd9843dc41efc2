"""Ids of COCO's images and categories, which tools write as numbers or as text.

7, 7.0, "7" and "007" are the same id unless the file tells them apart.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from harness.datasets.files import JsonObject, Note
from harness.errors import UsageError
from harness.registry import unknown

Id: TypeAlias = int | str

_MAX_KNOWN_IDS = 1000  # in the message about an unknown id
_MAX_MESSAGE = 300  # characters
_MAX_EXAMPLES = 5
_WHOLE = re.compile(r"-?\d{1,18}(?:\.0+)?")


def whole_number(value: JsonValue) -> int | None:
    """Return the integer that is written as 7, 7.0, "7" or "007", and None for all other values."""
    if isinstance(value, str):
        return int(value.partition(".")[0]) if _WHOLE.fullmatch(value) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or value % 1:
        return None
    return int(value) if abs(value) < 1 << 63 else None  # infinity % 1 is NaN, which is true


def read_unique_ids(location: str, entries: Sequence[JsonObject]) -> list[Id]:
    """Return the ids of objects in their order; they must be distinct, and all integers or all text."""
    ids: list[Id] = []
    for index, entry in enumerate(entries):
        entry_id = _to_id(entry["id"])
        if entry_id is None or (ids and type(entry_id) is not type(ids[0])):
            raise UsageError(
                f"{location}[{index}]: id: expected only integers or only text, found {entry['id']!r}"
                + (f" after {ids[0]!r}" if ids else "")
            )
        ids.append(entry_id)
    if len(set(ids)) < len(ids):
        raise UsageError(f"{location}: duplicate id {Counter(ids).most_common(1)[0][0]!r}")
    return ids


def find_positions(
    location: str,
    key: str,
    known: Mapping[Id, int],
    values: Sequence[JsonValue],
    names: Sequence[str] = (),
    simplify: Callable[[str], str] = str,
) -> NDArray[np.int64]:
    """Return the position [n] that each value stands for, or −1 for an unknown one.

    A value that is not known as it is written is compared as a number, and with the names, as they are and
    simplified. One that is neither text nor a whole number, or stands for several positions, is a UsageError.

    Args:
        known: id → position.
        names: name of the file or class at each position; empty if it has none.
        simplify: returns a shorter form that identifies a name too, such as `stem` of a file's.
    """
    if not set(map(type, values)) <= {int, str}:
        for index, value in enumerate(values):
            if _to_id(value) is None:
                raise UsageError(f"{location}[{index}]: {key}: expected a number or text, found {value!r}")
    column = list(map(known.get, cast("Sequence[Id]", values)))  # 7.0 has the hash of 7
    if None in column:
        positions = _positions_by_name(known, names, simplify)
        for index, position in enumerate(column):
            if position is None:
                place = f"{location}[{index}]: {key}"
                column[index] = _find_by_name(place, values[index], positions, simplify)
    return np.array(column, dtype=np.int64)


def leave_out_unknown(
    location: str,
    entries: str,
    key: str,
    values: Sequence[JsonValue],
    positions: NDArray[np.int64],
    known: Iterable[Id],
    note: Note,
) -> None:
    """Note how many positions are −1, with examples of their ids; raise a UsageError if all are.

    `entries` says in messages what the file lists, such as `detections`.
    """
    missing = np.flatnonzero(positions == -1).tolist()
    if not missing:
        return
    if len(missing) == len(positions):
        names = [str(known_id) for known_id in known][:_MAX_KNOWN_IDS]
        message = shorten(unknown(key, str(values[0]), names))
        raise UsageError(f"{location}: the annotations list no {key} of the {entries}: {message}")
    examples = list(dict.fromkeys(str(values[index]) for index in missing))
    listed = ", ".join(examples[:_MAX_EXAMPLES]) + ("" if len(examples) <= _MAX_EXAMPLES else ", …")
    question = "; are they counted from 0?" if examples == ["0"] else ""
    note(
        f"{location}: {len(missing)} of {len(positions)} {entries} are left out, because the annotations "
        f"list no such {key}: {listed}{question}"
    )


def shorten(message: str) -> str:
    """Truncate a message that lists thousands of ids."""
    return message if len(message) <= _MAX_MESSAGE else f"{message[:_MAX_MESSAGE]}…)"


def stem(path: str) -> str:
    """Return a file's name without folder and suffix, whichever separator the path has."""
    return PurePosixPath(path.replace("\\", "/")).stem


def _positions_by_name(
    known: Mapping[Id, int], names: Sequence[str], simplify: Callable[[str], str]
) -> Mapping[Id, set[int]]:
    """Return the positions that a number, a name or its simple form may stand for."""
    positions: defaultdict[Id, set[int]] = defaultdict(set)
    for known_id, position in known.items():
        number = whole_number(known_id)
        positions[known_id if number is None else number].add(position)
    for position, name in enumerate(names):
        if name:
            for text in {name, simplify(name)}:
                positions[text].add(position)
    return positions


def _find_by_name(
    location: str, value: JsonValue, positions: Mapping[Id, set[int]], simplify: Callable[[str], str]
) -> int:
    number = whole_number(value)
    candidates = set() if number is None else set(positions.get(number, ()))
    if isinstance(value, str):
        candidates |= positions.get(value) or positions.get(simplify(value)) or set()
    if len(candidates) > 1:
        raise UsageError(
            f"{location}: {value!r} may be any of {len(candidates)}; write the id as in the annotations"
        )
    return candidates.pop() if candidates else -1


def _to_id(value: JsonValue) -> Id | None:
    """Return an id as it is written, without a fraction of zero; None for a value that is none."""
    if isinstance(value, float):
        return whole_number(value)
    return value if isinstance(value, int | str) and not isinstance(value, bool) else None
