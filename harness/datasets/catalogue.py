"""Gettext catalogues (`*.mo`): reading them, and cleaning their messages to plain sentences and phrases."""

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

_MAX_RATIO = 2.5  # of (length + 5) in characters; above it, one side usually explains or abbreviates
_SYNTAX = re.compile(
    r"[%{}<>$\\|@#=*`~^\[\]]"  # placeholders %s %(name)s {0} $VAR, tags, patterns, usage texts
    r"|&\w+;|://|www\."  # entities and addresses
    r"|(?:^|\s)--?\w"  # command-line options
)


@dataclass(frozen=True)
class Catalogues:
    """The distinct pairs of a language, and the catalogues that could not be read."""

    pairs: dict[str, Counter[str]]
    """English source → translation → number of catalogues that contain it."""
    skipped: tuple[str, ...]
    """`path: reason` per unreadable catalogue."""


def locale_directories() -> tuple[Path, ...]:
    """Return the existing locale directories of the system and of this Python installation."""
    candidates = (
        Path("/usr/share/locale"),
        Path(sys.base_prefix, "share/locale"),
        Path(sys.prefix, "share/locale"),
    )
    return tuple(path for path in dict.fromkeys(candidates) if path.is_dir())


@lru_cache(maxsize=8)
def read_catalogues(directories: tuple[Path, ...], language: str) -> Catalogues:
    """Read all pairs under `DIRECTORY/LANGUAGE/LC_MESSAGES/*.mo`, once per process.

    An unreadable catalogue (corrupt, or not in the encoding that its header declares) is skipped. One warning
    gives the number of skipped catalogues.

    Raises:
        UnavailableError: there is no catalogue, or none can be read.
    """
    paths = [
        path for directory in directories for path in sorted(directory.glob(f"{language}/LC_MESSAGES/*.mo"))
    ]
    pairs: defaultdict[str, Counter[str]] = defaultdict(Counter)
    skipped = []
    for path in paths:
        try:
            entries = set(_entries(path))
        except (OSError, ValueError, LookupError, struct.error) as error:
            skipped.append(f"{path}: {error}")
            continue
        for source, translation in entries:
            pairs[source][translation] += 1
    if len(skipped) == len(paths):
        searched = " or ".join(map(str, directories)) or "/usr/share/locale"
        if paths:
            details = f" ({len(skipped)} cannot be read, the first: {skipped[0]})"
        else:
            details = _nearest_language(language, directories)
        raise UnavailableError(
            f"no gettext catalogues for '{language}' under {searched}{details}: "
            "install translated packages or name a directory"
        )
    if skipped:
        logger.warning(
            "%d of %d gettext catalogues for '%s' cannot be read and are skipped, the first: %s",
            len(skipped), len(paths), language, skipped[0],
        )  # fmt: skip
    return Catalogues(dict(pairs), tuple(skipped))


def _nearest_language(language: str, directories: tuple[Path, ...]) -> str:
    """Name the most similar language that has catalogues, preferably the same language of another region."""
    languages = {path.parts[-3] for directory in directories for path in directory.glob("*/LC_MESSAGES/*.mo")}
    if not languages:
        return ""
    related = sorted(name for name in languages if re.split("[_@]", name)[0] == re.split("[_@]", language)[0])
    similar = related or difflib.get_close_matches(language, sorted(languages), n=1, cutoff=0.6)
    nearest = f", the nearest '{similar[0]}'" if similar else ""
    return f" (there are {len(languages)} other languages{nearest})"


def _entries(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (source, translation) of a catalogue, decoded as its header declares.

    A context (`menu\\x04Open`) is dropped: translations under different contexts become alternatives. An
    entry with plural forms yields its singular, the only form whose English text the reader retains. Nearly
    all other forms contain a `%d`.
    """
    with path.open("rb") as file:
        messages: dict[str | tuple[str, int], str] = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
    for key, translation in messages.items():
        identifier, form = key if isinstance(key, tuple) else (key, 0)
        source = identifier.rpartition("\x04")[2]
        if source and translation and form == 0:
            yield source, translation


def clean(source: str, translation: str, max_words: int) -> tuple[str, str] | None:
    """Remove accelerators and normalise white space of a pair.

    Returns:
        The pair, or None if a side is not plain text (has several lines, syntax such as placeholders, tags
        and options, or no letters) or has more than `max_words`, or if the sides are equal or very unequal in
        length.
    """
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
    return (source, translation) if 1 / _MAX_RATIO <= ratio <= _MAX_RATIO else None


def _without_accelerators(source: str, translation: str) -> tuple[str, str] | None:
    """Remove the mark of a menu accelerator (`_File`, `E&xit`) from both sides.

    A marked word that is the same on both sides is a name. With `&` (AT&T) it is kept; with `_` it is an
    identifier (`max_connections`).

    Returns:
        None if there is an identifier or more than one mark.
    """
    for mark in "&_":
        pattern = re.compile(rf"{mark}(?=\w)")
        counts = len(pattern.findall(source)), len(pattern.findall(translation))
        if max(counts) == 0:
            continue
        marked = [{word for word in text.split() if pattern.search(word)} for text in (source, translation)]
        names = marked[0] & marked[1]
        if names and mark == "&":
            continue
        if names or max(counts) > 1:
            return None
        source, translation = pattern.sub("", source), pattern.sub("", translation)
    return (source, translation) if "_" not in source + translation else None


def _has_letter(text: str) -> bool:
    return any(map(str.isalpha, text))
