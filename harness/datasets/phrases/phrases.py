"""`phrases`: an unlimited corpus of real German and French, generated from CLDR and num2words.

Quantities, amounts, dates, times, enumerations and short statements are written with the same values in both
languages, which makes the translation exact, and are joined into sentences of the requested length. The
languages differ in word order (verbs, dates), agreement and the spelling of numbers. The vocabulary is closed
and of moderate size.
"""

import random
from functools import cache, lru_cache
from typing import Self

from pydantic import Field, model_validator

from harness.datasets.generated import Generated, GeneratedOptions
from harness.datasets.phrases.generator import SentenceGenerator
from harness.datasets.phrases.lexicon import Language, TextPair
from harness.datasets.sentence_pairs import split_of
from harness.identity import digest
from harness.task import Sample

_GENERATOR_VERSION = "1"  # increase with every change of content
_FINGERPRINTED_SENTENCES = 20


class PhrasesOptions(GeneratedOptions):
    """The language and the lengths of the sentences."""

    language: Language = "de"
    """Target language. The source language is English."""
    seed: int = Field(default=0, ge=0)
    """Seed of the generator. Each seed gives different sentences."""
    min_tokens: int = Field(default=3, ge=3)
    """Minimum length of the English source, in tokens between spaces; lengths are uniformly distributed.
    Fewer than 3 tokens would give too few different sentences to divide between the splits."""
    max_tokens: int = Field(default=50, le=1000)
    """Maximum length of the English source, in tokens between spaces."""

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        if self.max_tokens < self.min_tokens:
            raise ValueError(
                f"max_tokens ({self.max_tokens}) must be at least min_tokens ({self.min_tokens})"
            )
        return self


class Phrases(Generated):
    """Generated English sentences, each with its one exact translation.

    The hash of a source determines its split, so that no source is in two splits, regardless of seed and
    lengths.
    """

    tasks = ("translation",)
    Options = PhrasesOptions
    options: PhrasesOptions

    @property
    def fingerprint(self) -> str:
        """Hash the options, the lexicon and the first sentences.

        The sentences change if the CLDR data or the rules of the generator change.
        """
        return _fingerprint(self.options, self.split, self.size)

    def generate(self, index: int) -> Sample:
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
