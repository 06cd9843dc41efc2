"""`gettext`: real translations of program messages, read from the catalogues of a locale directory."""

import difflib
import gettext
import hashlib
import re
import struct
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from pydantic import Field, field_validator

from harness.datasets.dataset import DatasetOptions
from harness.datasets.sentence_pairs import SentencePairs, SentencePairsOptions, split_of_source
from harness.errors import UnavailableError
from harness.task import References, Sample, TaskName

_MAX_RATIO = 2.5  # of (length + 5) in characters; above it, one side usually explains or abbreviates
_SYNTAX = re.compile(
    r"[%{}<>$\\|@#=*`~^\[\]]"  # placeholders %s %(name)s {0} $VAR, tags, patterns, usage texts
    r"|&\w+;|://|www\."  # entities and addresses
    r"|(?:^|\s)--?\w"  # command-line options
)


def locale_directories() -> tuple[Path, ...]:
    """Return the existing locale directories of the system and of this Python installation."""
    prefixes = dict.fromkeys(("/usr", sys.base_prefix, sys.prefix))
    return tuple(path for prefix in prefixes if (path := Path(prefix, "share/locale")).is_dir())


@lru_cache(maxsize=8)
def read_catalogues(
    directories: tuple[Path, ...], language: str
) -> tuple[dict[str, Counter[str]], tuple[str, ...]]:
    """Read all pairs under `DIRECTORY/LANGUAGE/LC_MESSAGES/*.mo`, once per process.

    An unreadable catalogue (corrupt, or not in the encoding that its header declares) is skipped. Return
    English source → translation → number of catalogues that contain it, and a finding for `harness doctor`
    if catalogues were skipped. An UnavailableError says that there is none, or none that can be read.
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
    finding = (
        f"{len(skipped)} of {len(paths)} catalogues for '{language}' cannot be read: {', '.join(skipped)}"
    )
    return dict(pairs), ((finding,) if skipped else ())


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

    A context (`menu\\x04Open`) is dropped: translations under different contexts become alternatives. Of
    plural forms the singular is taken, the only one whose English text the reader retains.
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

    Return None if a side is not plain text or has more than `max_words`, or if the sides are equal or very
    unequal in length.
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

    A marked word that is the same on both sides is a name (AT&T), which is kept, or an identifier
    (`max_connections`). Return None if there is an identifier or more than one mark.
    """
    for mark in "&_":
        if mark not in source and mark not in translation:  # of most pairs
            continue
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


class GettextOptions(SentencePairsOptions):
    """Options that select catalogues and pairs."""

    language: str = "de"
    """Target language, which is the name of a folder. The source language is English."""
    directory: Path | None = None
    """Directory that contains LANGUAGE/LC_MESSAGES/*.mo. The default is the system's locale directories."""
    max_words: int = Field(default=15, ge=1)
    """Pairs with a longer source or translation are excluded."""
    size: int | None = Field(default=None, ge=1)
    """Maximum number of pairs. The first by id are used, which is a random selection."""

    @field_validator("language")
    @classmethod
    def _check_language(cls, language: str) -> str:
        if not re.fullmatch(r"[a-z]{2,3}(_([A-Z]{2}|[A-Z][a-z]{3}))?(@[A-Za-z]+)?", language):
            raise ValueError(f"invalid locale '{language}': expected a code such as de, pt_BR or sr@latin")
        return language


class Gettext(SentencePairs):
    """English sources with all different translations in the catalogues, the most frequent first.

    Pairs are cleaned (see `clean`) and split 90/5/5 by a hash of the source without case and
    punctuation, so that no source is in two splits, and a pair is in the same split on every machine.
    """

    Options = GettextOptions
    options: GettextOptions

    def __init__(self, options: DatasetOptions, split: str, task: TaskName) -> None:
        super().__init__(options, split, task)
        language, max_words = self.options.language, self.options.max_words
        directories = locale_directories() if self.options.directory is None else (self.options.directory,)
        samples = _samples_by_split(directories, language, max_words).get(split, ())
        if not samples:
            searched = " or ".join(map(str, directories))
            raise UnavailableError(
                f"no clean pair of up to {max_words} words for split '{split}' in the gettext "
                f"catalogues for '{language}' under {searched}: install more translated packages or name "
                "another directory"
            )
        self.samples = samples[: self.options.size]
        self.findings = read_catalogues(directories, language)[1]


@lru_cache(maxsize=8)
def _samples_by_split(
    directories: tuple[Path, ...], language: str, max_words: int
) -> dict[str, tuple[Sample, ...]]:
    """Return the samples of each split in ascending order of id. They are read once per process."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)  # source → translation → catalogues
    for source, translations in read_catalogues(directories, language)[0].items():
        for translation, count in translations.items():
            pair = clean(source, translation, max_words)
            if pair is not None:
                counts[pair[0]][pair[1]] += count
    samples: defaultdict[str, list[Sample]] = defaultdict(list)
    for source, translations in counts.items():
        split = split_of_source(source)
        references: References = tuple(sorted(translations, key=lambda text: (-translations[text], text)))
        sample_id = f"{split}-{hashlib.sha256(source.encode()).hexdigest()[:12]}"
        samples[split].append(Sample(sample_id, source, references))
    return {split: tuple(sorted(found, key=lambda sample: sample.id)) for split, found in samples.items()}
