"""`delayed-recall`: sentences of single letters that measure how long a model remembers.

A sentence is generated on access from the options, the split and its index alone. Source and target use the
same letters, so that any vocabulary of words or subwords fits.
"""

from __future__ import annotations

import random
import string

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


class DelayedRecallOptions(GeneratedOptions):
    """Set how many letters to remember, and for how long."""

    symbols: int = Field(default=8, ge=2, le=len(_SYMBOLS))
    """Number of different letters to remember. The default is from Arjovsky et al. 2016 §5.1."""
    seed: int = Field(default=0, ge=0)
    """Seed of the generator. Each seed gives different sentences."""
    recall: int = Field(default=5, ge=1, le=100)
    """Number of letters to remember."""
    lag: int = Field(default=20, ge=0, le=10_000)
    """Number of distractors between the last letter and the end of the source."""
    min_lag: int | None = Field(default=None, ge=0)
    """If set, lags are uniformly distributed between `min_lag` and `lag`."""

    @model_validator(mode="after")
    def _check(self) -> DelayedRecallOptions:
        if self.min_lag is not None and self.min_lag > self.lag:
            raise ValueError(f"lag ({self.lag}) must be at least min_lag ({self.min_lag})")
        if self.symbols**self.recall < _MIN_TARGETS:
            raise ValueError(
                f"recall ({self.recall}) and symbols ({self.symbols}) allow {self.symbols**self.recall} "
                f"different targets; at least {_MIN_TARGETS} are needed to divide them between the splits"
            )
        return self


class DelayedRecall(Generated):
    """`d a c x z z y` → `d a c`: the first letters are remembered across distractors.

    This is the memory problem of Hochreiter and Schmidhuber 1997 in the form of Arjovsky et al. 2016 §5.1,
    with random distractors in place of blanks: the model has to keep its state while it reads other input.

    The hash of a target determines its split, so that no target is in two splits, regardless of seed and lag.
    """

    tasks = ("translation",)
    Options = DelayedRecallOptions
    options: DelayedRecallOptions

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
        options = self.options
        # Only `random()` is the same in all versions of Python.
        rng = random.Random(f"{options.seed} {self.split} {index}")
        while True:
            target = _draw_letters(rng, options.recall, _SYMBOLS[: options.symbols])
            if split_of(target) == self.split:
                break
        lag = options.lag
        if options.min_lag is not None:
            lag = options.min_lag + int(rng.random() * (options.lag - options.min_lag + 1))
        return f"{target} {_draw_letters(rng, lag, _DISTRACTORS)}".rstrip(), target


def _draw_letters(rng: random.Random, count: int, letters: str) -> str:
    return " ".join(letters[int(rng.random() * len(letters))] for _ in range(count))
