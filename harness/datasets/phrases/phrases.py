"""`phrases`: an unlimited corpus of real German and French, generated from CLDR and num2words.

Quantities, amounts, dates, times, enumerations and short statements are written with the same values in both
languages, which makes the translation exact, and are joined into sentences of the requested length. The
languages differ in word order (verbs, dates), agreement and the spelling of numbers. The vocabulary is closed
and of moderate size.
"""

from __future__ import annotations

import random
from functools import cache, lru_cache

from pydantic import Field, model_validator

from harness.datasets.dataset import Dataset, DatasetOptions
from harness.datasets.hash_split import split_of
from harness.datasets.phrases.generator import SentenceGenerator
from harness.datasets.phrases.lexicon import Language, TextPair
from harness.identity import digest
from harness.task import Sample, TaskName

_GENERATOR_VERSION = "1"  # increase with every change of content
_DEFAULT_SIZE = {"train": 40_000, "validation": 500, "test": 1_000}
_FINGERPRINTED_SENTENCES = 20
_MAX_SIZE = 10_000_000  # seven digits in an id


class PhrasesOptions(DatasetOptions):
    """Options that select the sentences. The first n sentences do not depend on the size."""

    language: Language = "de"
    """Target language. The source language is English."""
    seed: int = Field(default=0, ge=0)
    """Seed of the generator. Each seed gives different sentences."""
    size: int | None = Field(default=None, ge=1, le=_MAX_SIZE)
    """Sentences in the split. The default is 40,000 for train, 500 for validation and 1,000 for test."""
    min_tokens: int = Field(default=3, ge=3)
    """Minimum length of the English source, in tokens between spaces; lengths are uniformly distributed.
    Fewer than 3 tokens would give too few different sentences to divide between the splits."""
    max_tokens: int = Field(default=50, le=1000)
    """Maximum length of the English source, in tokens between spaces."""

    @model_validator(mode="after")
    def _check_order(self) -> PhrasesOptions:
        if self.max_tokens < self.min_tokens:
            raise ValueError(
                f"max_tokens ({self.max_tokens}) must be at least min_tokens ({self.min_tokens})"
            )
        return self


class Phrases(Dataset):
    """Generated English sentences, each with its one exact translation.

    The hash of a source determines its split, so that no source is in two splits, regardless of seed and
    lengths.
    """

    tasks = ("translation",)
    Options = PhrasesOptions
    options: PhrasesOptions

    def __init__(self, options: DatasetOptions, split: str, task: TaskName) -> None:
        super().__init__(options, split, task)
        self._size = self.options.size or _DEFAULT_SIZE[split]

    @property
    def fingerprint(self) -> str:
        """Hash the options, the lexicon and the first sentences.

        The sentences change if the CLDR data or the rules of the generator change.
        """
        return _fingerprint(self.options, self.split, self._size)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self._size:
            raise IndexError(f"index {index} is out of range: {self._size} sentences")
        source, translation = _generate_pair(self.options, self.split, index)
        return Sample(f"{self.split}-{index:07d}", source, (translation,))


def _generate_pair(options: PhrasesOptions, split: str, index: int) -> TextPair:
    rng = random.Random(f"{options.seed} {split} {index}")
    tokens = options.min_tokens + int(rng.random() * (options.max_tokens - options.min_tokens + 1))
    while True:
        pair = _generator(options.language).sentence(rng, tokens)
        if split_of(pair[0]) == split:
            return pair


_generator = cache(SentenceGenerator)


@lru_cache(maxsize=64)
def _fingerprint(options: PhrasesOptions, split: str, size: int) -> str:
    parts = ["phrases", _GENERATOR_VERSION, options.model_dump_json(exclude={"size"}), split, str(size)]
    parts.append(_generator(options.language).lexicon.content)
    for index in range(_FINGERPRINTED_SENTENCES):
        parts += _generate_pair(options, split, index)
    return digest(parts)
