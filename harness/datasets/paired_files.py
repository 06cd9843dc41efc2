"""Pairs of files, such as pictures and their masks, found by two patterns that share an id.

A pattern is a path relative to the data set's root in which `{id}` stands for the id and `*` for anything,
both within the name of one folder or file: `gtFine/val/*/{id}_gtFine_labelIds.png`. An id starts with no
dot, so that hidden files are no samples.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.datasets.files import check_inside, content_hashes, read_lines
from harness.errors import UsageError

ID = "{id}"
TOKENS = {ID: r"(?P<id>[^/.][^/]*)", "*": "[^/]*"}


@dataclass(frozen=True)
class Pattern:
    """Where the files of one kind are."""

    name: str  # for messages: images, labels
    path: str
    complete: bool = True
    """Every file that matches belongs to the split; one without a partner is then an error."""


@dataclass(frozen=True)
class Pair:
    """The files of one sample."""

    id: str
    first: Path
    second: Path


def find_pairs(root: Path, first: Pattern, second: Pattern, listed: Path | None = None) -> list[Pair]:
    """Pair the files under `root` that match the patterns, in ascending order of id.

    Args:
        listed: text file of the wanted ids, one a line; without it, all that are found.

    Raises:
        UsageError: nothing found, two files of one id, a file without a partner, or a bad list; names it.
    """
    firsts, seconds = _by_id(root, first), _by_id(root, second)
    if listed is not None:
        ids = _read_ids(listed)
        for identity, line in ids.items():
            for pattern, files in ((first, firsts), (second, seconds)):
                if identity not in files:
                    place = root / pattern.path.replace(ID, identity)
                    raise UsageError(f"{listed}:{line}: '{identity}': found no {pattern.name} file {place}")
    else:
        if first.complete:
            _check_partners(root, firsts, seconds, second)
        if second.complete:
            _check_partners(root, seconds, firsts, first)
        ids = dict.fromkeys(firsts.keys() & seconds.keys(), 0)
    return [Pair(identity, firsts[identity], seconds[identity]) for identity in sorted(ids)]


def pair_hashes(pairs: Sequence[Pair]) -> list[str | bytes]:
    """Of each pair its id and the SHA-256 of both files' content; paths are not in it."""
    contents = iter(content_hashes(path for pair in pairs for path in (pair.first, pair.second)))
    parts: list[str | bytes] = []
    for pair in pairs:
        parts += [pair.id, next(contents), next(contents)]
    return parts


def _by_id(root: Path, pattern: Pattern) -> dict[str, Path]:
    parts = re.split(r"(\{id\}|\*)", pattern.path)
    matcher = re.compile("".join(TOKENS.get(part) or re.escape(part) for part in parts))
    files: dict[str, Path] = {}
    for path in sorted(root.glob(pattern.path.replace(ID, "*"))):
        match = matcher.fullmatch(path.relative_to(root).as_posix())
        if not match or not path.is_file():
            continue
        try:
            match["id"].encode()
        except UnicodeEncodeError as error:
            shown = os.fsencode(path).decode(errors="backslashreplace")
            raise UsageError(f"{shown}: expected a file name in UTF-8") from error
        known = files.setdefault(match["id"], path)
        if known is not path:
            raise UsageError(f"{path}: {pattern.name}: id '{match['id']}' already has the file {known}")
    if not files:
        raise UsageError(f"{root}: found no file that matches {pattern.name}: {pattern.path}")
    return files


def _check_partners(
    root: Path, files: Mapping[str, Path], others: Mapping[str, Path], pattern: Pattern
) -> None:
    lonely = sorted(files.keys() - others.keys())
    if lonely:
        more = f" (nor for {len(lonely) - 1} more)" if len(lonely) > 1 else ""
        place = root / pattern.path.replace(ID, lonely[0])
        raise UsageError(f"{files[lonely[0]]}: found no {pattern.name} file {place}{more}")


def _read_ids(path: Path) -> dict[str, int]:
    """Id → its line."""
    ids: dict[str, int] = {}
    for line, text in enumerate(read_lines(path), start=1):
        identity = text.strip()
        if not identity:
            continue
        check_inside(f"{path}:{line}", identity, "data set's root")
        if identity in ids:
            raise UsageError(f"{path}:{line}: id '{identity}' stands in line {ids[identity]} already")
        ids[identity] = line
    if not ids:
        raise UsageError(f"{path}: expected an id a line, found none")
    return ids
