"""`gettext`: real translations of programs' messages, read from the catalogues of a locale directory."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from functools import lru_cache
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from harness.datasets.catalogue import clean, locale_directories, read_catalogues
from harness.datasets.dataset import DatasetOptions
from harness.datasets.sentence_pairs import SentencePairs, split_of
from harness.errors import UnavailableError
from harness.task import References, Sample, TaskName


class GettextOptions(DatasetOptions):
    """Which catalogues, and which of their pairs."""

    language: str = "de"
    """The language translated into, a folder's name; the sources are English."""
    directory: Path | None = None
    """Holds LANGUAGE/LC_MESSAGES/*.mo; by default the system's locale directory."""
    min_words: int = Field(default=1, ge=1)
    """Shorter sources are left out. With `max_words` it cuts a bucket of lengths out of the same splits."""
    max_words: int = Field(default=15, ge=1)
    """Longer pairs, on either side, are left out."""
    size: int | None = Field(default=None, ge=1)
    """At most so many pairs of the split: the first by id, which is a random choice."""

    @field_validator("language")
    @classmethod
    def _locale(cls, language: str) -> str:
        if not re.fullmatch(r"[a-z]{2,3}(_([A-Z]{2}|[A-Z][a-z]{3}))?(@[A-Za-z]+)?", language):
            raise ValueError(f"'{language}' is no locale: expected a code such as de, pt_BR or sr@latin")
        return language

    @model_validator(mode="after")
    def _ordered(self) -> GettextOptions:
        if self.max_words < self.min_words:
            raise ValueError(f"max_words ({self.max_words}) must be at least min_words ({self.min_words})")
        return self


class Gettext(SentencePairs):
    """English sources with all distinct translations that the catalogues hold, the most frequent first.

    Pairs are cleaned (see `catalogue.clean`) and split 90/5/5 by a hash of the source without case and
    punctuation, so that no source is in two splits and a pair is in the same split on every machine.

    Raises:
        UnavailableError: this machine has no catalogues of the language, or no pair for the split.
    """

    Options = GettextOptions

    def __init__(self, options: DatasetOptions, split: str, task: TaskName) -> None:
        super().__init__(options, split, task)
        directory: Path | None = self.options.directory
        directories = locale_directories() if directory is None else (directory,)
        language = self.options.language
        self.skipped = read_catalogues(directories, language).skipped
        shortest, longest = self.options.min_words, self.options.max_words
        samples = tuple(
            sample
            for sample in _pairs(directories, language, longest).get(split, ())
            if len(str(sample.input).split()) >= shortest
        )
        if not samples:
            where = " or ".join(map(str, directories))
            raise UnavailableError(
                f"no clean pair of {shortest}–{longest} words for split '{split}' in the gettext catalogues "
                f"for '{language}' under {where}: install more translated packages or name another directory"
            )
        self.samples = samples[: self.options.size]


@lru_cache(maxsize=8)
def _pairs(directories: tuple[Path, ...], language: str, max_words: int) -> dict[str, tuple[Sample, ...]]:
    """Split → samples in order of id, once per process."""
    cleaned: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for source, translations in read_catalogues(directories, language).pairs.items():
        for translation, count in translations.items():
            pair = clean(source, translation, max_words)
            if pair is not None:
                cleaned[pair[0]][pair[1]] += count
    samples: defaultdict[str, list[Sample]] = defaultdict(list)
    for source, translations in cleaned.items():
        split = split_of(source)
        references: References = tuple(sorted(translations, key=lambda text: (-translations[text], text)))
        samples[split].append(
            Sample(f"{split}-{hashlib.sha256(source.encode()).hexdigest()[:12]}", source, references)
        )
    return {split: tuple(sorted(found, key=lambda sample: sample.id)) for split, found in samples.items()}
