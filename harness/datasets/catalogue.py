"""Reads gettext catalogues (`*.mo`) and keeps what is a plain sentence or phrase with its translation."""

from __future__ import annotations

import difflib
import gettext
import logging
import re
import struct
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from harness.errors import UnavailableError

logger = logging.getLogger(__name__)

_RATIO = 2.5  # of lengths in characters, 5 added to both; beyond it one side usually explains or abbreviates
_SYNTAX = re.compile(
    r"[%{}<>$\\|@#=*`~^\[\]]"  # placeholders %s %(name)s {0} $VAR, tags, patterns, usage texts
    r"|&\w+;|://|www\."  # entities and addresses
    r"|(?:^|\s)--?\w"  # command-line options
)


@dataclass(frozen=True)
class Catalogues:
    """The distinct pairs of a language and what could not be read."""

    pairs: dict[str, Counter[str]]
    """English source → translation → number of catalogues that hold it."""
    read: int
    skipped: tuple[str, ...]
    """`path: reason` of each unreadable catalogue."""


def locale_directories() -> tuple[Path, ...]:
    """Where this machine keeps its catalogues."""
    candidates = (
        Path("/usr/share/locale"),
        Path(sys.base_prefix, "share/locale"),
        Path(sys.prefix, "share/locale"),
    )
    return tuple(path for path in dict.fromkeys(candidates) if path.is_dir())


@lru_cache(maxsize=8)
def read_catalogues(directories: tuple[Path, ...], language: str) -> Catalogues:
    """All pairs under `DIRECTORY/LANGUAGE/LC_MESSAGES/*.mo`, once per process.

    An unreadable catalogue (corrupt, or not in the encoding that its header declares) is skipped; one
    warning counts these.

    Raises:
        UnavailableError: there is no catalogue, or none that can be read.
    """
    paths = [
        path for directory in directories for path in sorted(directory.glob(f"{language}/LC_MESSAGES/*.mo"))
    ]
    pairs: defaultdict[str, Counter[str]] = defaultdict(Counter)
    skipped = []
    for path in paths:
        try:
            found = set(_entries(path))
        except (OSError, ValueError, LookupError, struct.error) as error:
            skipped.append(f"{path}: {error}")
            continue
        for source, translation in found:
            pairs[source][translation] += 1
    if len(skipped) == len(paths):
        where = " or ".join(map(str, directories)) or "/usr/share/locale"
        why = f" ({len(skipped)} cannot be read, the first: {skipped[0]})" if skipped else ""
        if not paths:
            why = _nearest(language, directories)
        raise UnavailableError(
            f"no gettext catalogues for '{language}' under {where}{why}: "
            "install translated packages or name a directory"
        )
    if skipped:
        logger.warning(
            "%d of %d gettext catalogues for '%s' cannot be read and are skipped, the first: %s",
            len(skipped), len(paths), language, skipped[0],
        )  # fmt: skip
    return Catalogues(dict(pairs), len(paths) - len(skipped), tuple(skipped))


def _nearest(language: str, directories: tuple[Path, ...]) -> str:
    """Names the language most alike that has catalogues; the same one of other places comes first."""
    found = {path.parts[-3] for directory in directories for path in directory.glob("*/LC_MESSAGES/*.mo")}
    related = sorted(name for name in found if re.split("[_@]", name)[0] == re.split("[_@]", language)[0])
    close = related or difflib.get_close_matches(language, sorted(found), n=1, cutoff=0.6)
    nearest = f", the nearest '{close[0]}'" if close else ""
    return f" (there are {len(found)} other languages{nearest})" if found else ""


def _entries(path: Path) -> Iterator[tuple[str, str]]:
    """(source, translation) of one catalogue, decoded as its header says.

    A context (`menu\\x04Open`) is dropped: translations under different contexts become alternatives. Of an
    entry with plural forms the singular is kept, the only form whose English the reader retains; nearly all
    of the others hold a `%d`.
    """
    with path.open("rb") as file:
        messages: dict[str | tuple[str, int], str] = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
    for key, translation in messages.items():
        identifier, form = key if isinstance(key, tuple) else (key, 0)
        source = identifier.rpartition("\x04")[2]
        if source and translation and form == 0:
            yield source, translation


def clean(source: str, translation: str, max_words: int) -> tuple[str, str] | None:
    """The pair as plain text, white space and accelerators normalised; None if it is no plain pair."""
    source, translation = (unicodedata.normalize("NFC", text.strip()) for text in (source, translation))
    if "\n" in source or "\n" in translation:
        return None
    stripped = _without_accelerators(source, translation)
    if stripped is None:
        return None
    source, translation = (" ".join(text.split()) for text in stripped)
    if _SYNTAX.search(source) or _SYNTAX.search(translation):
        return None
    if not (_has_letter(source) and _has_letter(translation)) or source.casefold() == translation.casefold():
        return None
    if max(len(source.split()), len(translation.split())) > max_words:
        return None
    ratio = (len(source) + 5) / (len(translation) + 5)
    return (source, translation) if 1 / _RATIO <= ratio <= _RATIO else None


def _without_accelerators(source: str, translation: str) -> tuple[str, str] | None:
    """Remove the mark of a menu's accelerator (`_File`, `E&xit`) from both sides.

    A marked word that is the same on both sides is a name: one with `&` (AT&T) stays, one with `_`
    (`max_connections`) is an identifier, and None is returned; so it is for several marks.
    """
    for mark in "&_":
        pattern = re.compile(rf"{mark}(?=\w)")
        counts = len(pattern.findall(source)), len(pattern.findall(translation))
        if max(counts) == 0:
            continue
        marked = [{word for word in text.split() if pattern.search(word)} for text in (source, translation)]
        if marked[0] & marked[1] and mark == "&":
            continue
        if marked[0] & marked[1] or max(counts) > 1:
            return None
        source, translation = pattern.sub("", source), pattern.sub("", translation)
    return (source, translation) if "_" not in source + translation else None


def _has_letter(text: str) -> bool:
    return any(map(str.isalpha, text))
