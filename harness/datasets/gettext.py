"""`gettext`: real translations of program messages, read from the catalogues of a locale directory."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from functools import lru_cache
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from harness.datasets.catalogue import clean, locale_directories, read_catalogues
from harness.datasets.dataset import DatasetOptions
from harness.datasets.sentence_pairs import SentencePairs, SentencePairsOptions, split_of_source
from harness.errors import UnavailableError
from harness.task import References, Sample, TaskName


class GettextOptions(SentencePairsOptions):
    """Options that select catalogues and pairs."""

    language: str = "de"
    """Target language, which is the name of a folder. The source language is English."""
    directory: Path | None = None
    """Directory that contains LANGUAGE/LC_MESSAGES/*.mo. The default is the system's locale directories."""
    min_words: int = Field(default=1, ge=1)
    """Shorter sources are excluded. With `max_words` this selects a range of lengths from the same splits."""
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

    @model_validator(mode="after")
    def _check_order(self) -> GettextOptions:
        if self.max_words < self.min_words:
            raise ValueError(f"max_words ({self.max_words}) must be at least min_words ({self.min_words})")
        return self


class Gettext(SentencePairs):
    """English sources with all different translations in the catalogues, the most frequent first.

    Pairs are cleaned (see `catalogue.clean`) and split 90/5/5 by a hash of the source without case and
    punctuation, so that no source is in two splits, and a pair is in the same split on every machine.

    Raises:
        UnavailableError: this machine has no catalogues of the language, or no pair of the split.
    """

    Options = GettextOptions
    options: GettextOptions

    def __init__(self, options: DatasetOptions, split: str, task: TaskName) -> None:
        super().__init__(options, split, task)
        directory, language = self.options.directory, self.options.language
        directories = locale_directories() if directory is None else (directory,)
        self.skipped = read_catalogues(directories, language).skipped
        min_words, max_words = self.options.min_words, self.options.max_words
        samples = tuple(
            sample
            for sample in _samples_by_split(directories, language, max_words).get(split, ())
            if len(str(sample.input).split()) >= min_words
        )
        if not samples:
            searched = " or ".join(map(str, directories))
            raise UnavailableError(
                f"no clean pair of {min_words}–{max_words} words for split '{split}' in the gettext "
                f"catalogues for '{language}' under {searched}: install more translated packages or name "
                "another directory"
            )
        self.samples = samples[: self.options.size]


@lru_cache(maxsize=8)
def _samples_by_split(
    directories: tuple[Path, ...], language: str, max_words: int
) -> dict[str, tuple[Sample, ...]]:
    """Return the samples of each split in ascending order of id. They are read once per process."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)  # source → translation → catalogues
    for source, translations in read_catalogues(directories, language).pairs.items():
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
    return {
        split: tuple(sorted(split_samples, key=lambda sample: sample.id))
        for split, split_samples in samples.items()
    }
