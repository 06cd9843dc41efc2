"""`copy` and `delayed-recall`: sentences of single letters that measure how long a model remembers.

A sentence is generated on access from the options, the split and its index alone. Source and target use the
same letters, so that any vocabulary of words or subwords fits.
"""

from __future__ import annotations

import random
import string
from abc import abstractmethod

from pydantic import Field, model_validator

from harness.datasets.generated import Generated, GeneratedOptions
from harness.datasets.sentence_pairs import split_of
from harness.identity import digest
from harness.task import Sample

_GENERATOR_VERSION = "1"  # increase with every change of content
_DISTRACTORS = "xyz"
_SYMBOLS = string.ascii_lowercase.removesuffix(_DISTRACTORS)
_MIN_TARGETS = 1000  # fewest distinct targets; a split of one twentieth then has none with probability 5e-23
_FINGERPRINTED_SENTENCES = 20
_MAX_LENGTH = 10_000  # tokens


class SymbolsOptions(GeneratedOptions):
    """Options of both data sets."""

    symbols: int = Field(default=8, ge=2, le=len(_SYMBOLS))
    """Number of different letters to remember. The default is from Arjovsky et al. 2016 §5.1."""
    seed: int = Field(default=0, ge=0)
    """Seed of the generator. Each seed gives different sentences."""


class CopyOptions(SymbolsOptions):
    """Options of `copy`: the range of lengths."""

    min_length: int = Field(default=5, ge=1, le=_MAX_LENGTH)
    """Minimum length in letters; lengths are uniformly distributed."""
    max_length: int = Field(default=20, ge=1, le=_MAX_LENGTH)
    """Maximum length in letters."""

    @model_validator(mode="after")
    def _check_lengths(self) -> CopyOptions:
        _check_variety("min_length", self.min_length, self.symbols)
        return self


class DelayedRecallOptions(SymbolsOptions):
    """Options of `delayed-recall`: how many letters to remember, and for how long."""

    recall: int = Field(default=5, ge=1, le=100)
    """Number of letters to remember."""
    lag: int = Field(default=20, ge=0, le=_MAX_LENGTH)
    """Number of distractors between the last letter and the end of the source."""
    min_lag: int | None = Field(default=None, ge=0)
    """If set, lags are uniformly distributed between `min_lag` and `lag`."""

    @model_validator(mode="after")
    def _check_lags(self) -> DelayedRecallOptions:
        if self.min_lag is not None and self.min_lag > self.lag:
            raise ValueError(f"lag ({self.lag}) must be at least min_lag ({self.min_lag})")
        _check_variety("recall", self.recall, self.symbols)
        return self


class _Symbols(Generated):
    """Sentences of letters.

    The hash of a target determines its split, so that no target is in two splits, regardless of seed and
    lags.
    """

    tasks = ("translation",)
    options: SymbolsOptions

    @abstractmethod
    def _draw_target(self, rng: random.Random) -> list[str]:
        """Draw the letters to remember by `random()` only, which is the same in all Python versions."""

    @abstractmethod
    def _draw_source(self, rng: random.Random, target: list[str]) -> list[str]:
        """Draw the letters that the model reads, also by `random()` only."""

    @property
    def fingerprint(self) -> str:
        """Hash the options and the first sentences."""
        options = self.options.model_dump_json(exclude={"size"})
        parts = [type(self).__name__, _GENERATOR_VERSION, options, self.split, str(self.size)]
        for index in range(_FINGERPRINTED_SENTENCES):
            parts += self._generate_pair(index)
        return digest(parts)

    def generate(self, index: int) -> Sample:
        source, target = self._generate_pair(index)
        return Sample(f"{self.split}-{index:07d}", source, (target,))

    def _generate_pair(self, index: int) -> tuple[str, str]:
        rng = random.Random(f"{self.options.seed} {self.split} {index}")
        while True:
            target = self._draw_target(rng)
            if split_of(" ".join(target)) == self.split:
                return " ".join(self._draw_source(rng, target)), " ".join(target)


class Copy(_Symbols):
    """`d a c` → `d a c`: the source is repeated after all of it has been read.

    The length of the source is the number of letters to remember at once (Graves, Wayne and Danihelka 2014
    §4.1).
    """

    Options = CopyOptions
    options: CopyOptions

    def _draw_target(self, rng: random.Random) -> list[str]:
        length = _draw_integer(rng, self.options.min_length, self.options.max_length)
        return _draw_letters(rng, length, _SYMBOLS[: self.options.symbols])

    def _draw_source(self, rng: random.Random, target: list[str]) -> list[str]:  # noqa: ARG002
        return target


class DelayedRecall(_Symbols):
    """`d a c x z z y` → `d a c`: the first letters are remembered across distractors.

    This is the memory problem of Hochreiter and Schmidhuber 1997 in the form of Arjovsky et al. 2016 §5.1,
    with random distractors in place of blanks: the model has to keep its state while it reads other input.
    """

    Options = DelayedRecallOptions
    options: DelayedRecallOptions

    def _draw_target(self, rng: random.Random) -> list[str]:
        return _draw_letters(rng, self.options.recall, _SYMBOLS[: self.options.symbols])

    def _draw_source(self, rng: random.Random, target: list[str]) -> list[str]:
        lag = self.options.lag
        if self.options.min_lag is not None:
            lag = _draw_integer(rng, self.options.min_lag, lag)
        return target + _draw_letters(rng, lag, _DISTRACTORS)


def _draw_letters(rng: random.Random, count: int, letters: str) -> list[str]:
    return [letters[int(rng.random() * len(letters))] for _ in range(count)]


def _draw_integer(rng: random.Random, low: int, high: int) -> int:
    return low + int(rng.random() * (high - low + 1))


def _check_variety(key: str, length: int, symbols: int) -> None:
    if symbols**length < _MIN_TARGETS:
        raise ValueError(
            f"{key} ({length}) and symbols ({symbols}) allow {symbols**length} different targets; "
            f"at least {_MIN_TARGETS} are needed to divide them between the splits"
        )
