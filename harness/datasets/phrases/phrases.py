"""`phrases`: an unlimited corpus of real German and French, generated from CLDR and num2words.

Quantities, amounts, dates, times, enumerations and short statements are written from the same values in
both languages, so that the translation is exact, and joined until the sentence has the wanted length. They
differ in word order (verbs, dates), agreement and spelling of numbers, with a closed, moderate vocabulary.
"""

from __future__ import annotations

import hashlib
import random
from functools import cache, lru_cache
from typing import Any

from pydantic import Field, model_validator

from harness.datasets.dataset import Dataset, DatasetOptions
from harness.datasets.phrases.clauses import Pair, Writer
from harness.datasets.phrases.lexicon import Language
from harness.identity import digest
from harness.task import Sample, TaskName

_GENERATOR = "1"  # raise it with any change of content
_TWENTIETHS = {18: "validation", 19: "test"}  # of sources, by hash; the other 18 train
_DEFAULT_SIZE = {"train": 40_000, "validation": 500, "test": 1_000}
_PROBES = 20  # sentences whose content enters the fingerprint
_LIMIT = 10_000_000  # seven digits in an id


class PhrasesOptions(DatasetOptions):
    """Which sentences, and how many; the first n are the same whatever the size."""

    language: Language = "de"
    seed: int = Field(default=0, ge=0)
    size: int | None = Field(default=None, ge=1, le=_LIMIT)
    """Sentences in the split; by default 40,000 for training, 500 for validation and 1,000 for testing."""
    min_tokens: int = Field(default=3, ge=3)
    """Tokens between spaces of the English source; lengths are uniform between the two. Below 3 there
    would be too few different sentences to divide between the splits."""
    max_tokens: int = Field(default=50, le=1000)

    @model_validator(mode="after")
    def _ordered(self) -> PhrasesOptions:
        if self.max_tokens < self.min_tokens:
            raise ValueError(
                f"max_tokens ({self.max_tokens}) must be at least min_tokens ({self.min_tokens})"
            )
        return self


class Phrases(Dataset):
    """Generated English sentences, each with its one exact translation.

    A hash of the sentence decides the split that it may appear in, so that no source is in two splits,
    with whatever seeds and lengths they were made.
    """

    tasks = ("translation",)
    Options = PhrasesOptions

    def __init__(self, options: DatasetOptions, split: str, task: TaskName) -> None:
        super().__init__(options, split, task)
        self._size: int = self.options.size or _DEFAULT_SIZE[split]

    @property
    def fingerprint(self) -> str:
        """Of the options, all words and some sentences, so that other CLDR data or rules show."""
        return _fingerprint(self.options, self.split, self._size)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self._size:
            raise IndexError(f"sentence {index} of {self._size}")
        source, translation = _sentence(self.options, self.split, index)
        return Sample(f"{self.split}-{index:07d}", source, (translation,))


def split_of(source: str) -> str:
    """The split that a source may appear in."""
    return _TWENTIETHS.get(int.from_bytes(hashlib.sha256(source.encode()).digest()[:8], "big") % 20, "train")


def _sentence(options: Any, split: str, index: int) -> Pair:
    rng = random.Random(f"{options.seed} {split} {index}")
    tokens = options.min_tokens + int(rng.random() * (options.max_tokens - options.min_tokens + 1))
    while True:
        pair = _writer(options.language).sentence(rng, tokens)
        if split_of(pair[0]) == split:
            return pair


_writer = cache(Writer)


@lru_cache(maxsize=64)
def _fingerprint(options: PhrasesOptions, split: str, size: int) -> str:
    parts = ["phrases", _GENERATOR, options.model_dump_json(exclude={"size"}), split, str(size)]
    parts.append(_writer(options.language).words.content)
    for index in range(_PROBES):
        parts += _sentence(options, split, index)
    return digest(parts)
