"""`copy` and `delayed-recall`: sentences of single letters that measure how long a model remembers.

A sentence is made when it is asked for, from the options, the split and its index alone. Both languages use
the same letters, so that any vocabulary of words or subwords fits.
"""

from __future__ import annotations

import hashlib
import random
import string
from abc import abstractmethod

from pydantic import Field, model_validator

from harness.datasets.dataset import Dataset, DatasetOptions
from harness.identity import digest
from harness.task import Sample, TaskName

_GENERATOR = "1"  # raise it with any change of content
_DISTRACTORS = "xyz"
_SYMBOLS = string.ascii_lowercase.removesuffix(_DISTRACTORS)
_DIFFERENT = 1000  # targets at least, so that each split has some: none of 1,000 in a twentieth is 5e-23
_TWENTIETHS = {18: "validation", 19: "test"}  # of targets, by hash; the other 18 train
_DEFAULT_SIZE = {"train": 40_000, "validation": 500, "test": 1_000}
_PROBES = 20  # sentences whose content enters the fingerprint
_LIMIT = 10_000_000  # seven digits in an id
_LONGEST = 10_000  # tokens


class SymbolsOptions(DatasetOptions):
    """Which sentences, and how many; the first n are the same whatever the size."""

    symbols: int = Field(default=8, ge=2, le=len(_SYMBOLS))
    """Different letters to remember; 8 as Arjovsky et al. 2016 §5.1."""
    seed: int = Field(default=0, ge=0)
    size: int | None = Field(default=None, ge=1, le=_LIMIT)
    """Sentences in the split; by default 40,000 for training, 500 for validation and 1,000 for testing."""


class CopyOptions(SymbolsOptions):
    """Lengths are uniform between the two, in letters."""

    min_length: int = Field(default=5, ge=1, le=_LONGEST)
    max_length: int = Field(default=20, ge=1, le=_LONGEST)

    @model_validator(mode="after")
    def _possible(self) -> CopyOptions:
        if self.max_length < self.min_length:
            raise ValueError(
                f"max_length ({self.max_length}) must be at least min_length ({self.min_length})"
            )
        _check_variety("min_length", self.min_length, self.symbols)
        return self


class DelayedRecallOptions(SymbolsOptions):
    """How much is to be remembered, and for how long."""

    recall: int = Field(default=5, ge=1, le=100)
    """Letters to remember."""
    lag: int = Field(default=20, ge=0, le=_LONGEST)
    """Distractors between the last of these and the end of the source."""
    min_lag: int | None = Field(default=None, ge=0)
    """If set, lags are uniform between it and `lag`."""

    @model_validator(mode="after")
    def _possible(self) -> DelayedRecallOptions:
        if self.min_lag is not None and self.min_lag > self.lag:
            raise ValueError(f"lag ({self.lag}) must be at least min_lag ({self.min_lag})")
        _check_variety("recall", self.recall, self.symbols)
        return self


class _Symbols(Dataset):
    """A hash of the target decides the split that it may appear in.

    So no target is in two splits, with whatever lags and seeds their sentences were made.
    """

    tasks = ("translation",)

    def __init__(self, options: DatasetOptions, split: str, task: TaskName) -> None:
        super().__init__(options, split, task)
        self._size: int = self.options.size or _DEFAULT_SIZE[split]

    @abstractmethod
    def target(self, rng: random.Random) -> list[str]:
        """What is to be remembered; like `source` it draws `random()` only, the same in every Python."""

    @abstractmethod
    def source(self, rng: random.Random, target: list[str]) -> list[str]:
        """What is read."""

    @property
    def fingerprint(self) -> str:
        """Of the options and some sentences."""
        options = self.options.model_dump_json(exclude={"size"})
        parts = [type(self).__name__, _GENERATOR, options, self.split, str(self._size)]
        for index in range(_PROBES):
            parts += self._sentence(index)
        return digest(parts)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self._size:
            raise IndexError(f"sentence {index} of {self._size}")
        source, target = self._sentence(index)
        return Sample(f"{self.split}-{index:07d}", source, (target,))

    def _sentence(self, index: int) -> tuple[str, str]:
        rng = random.Random(f"{self.options.seed} {self.split} {index}")
        while True:
            target = self.target(rng)
            if split_of(" ".join(target)) == self.split:
                return " ".join(self.source(rng, target)), " ".join(target)


class Copy(_Symbols):
    """`d a c` → `d a c`: the source is repeated after all of it has been read.

    Its length is what has to be remembered at once (Graves, Wayne and Danihelka 2014 §4.1).
    """

    Options = CopyOptions

    def target(self, rng: random.Random) -> list[str]:
        length = _between(rng, self.options.min_length, self.options.max_length)
        return _letters(rng, length, _SYMBOLS[: self.options.symbols])

    def source(self, rng: random.Random, target: list[str]) -> list[str]:  # noqa: ARG002
        return target


class DelayedRecall(_Symbols):
    """`d a c x z z y` → `d a c`: the first letters are remembered across distractors.

    The memory problem of Hochreiter and Schmidhuber 1997 in the form of Arjovsky et al. 2016 §5.1, with
    random distractors in place of blanks: the state has to be kept while other input comes.
    """

    Options = DelayedRecallOptions

    def target(self, rng: random.Random) -> list[str]:
        return _letters(rng, self.options.recall, _SYMBOLS[: self.options.symbols])

    def source(self, rng: random.Random, target: list[str]) -> list[str]:
        lag: int = self.options.lag
        if self.options.min_lag is not None:
            lag = _between(rng, self.options.min_lag, lag)
        return target + _letters(rng, lag, _DISTRACTORS)


def split_of(target: str) -> str:
    """The split that a target may appear in."""
    return _TWENTIETHS.get(int.from_bytes(hashlib.sha256(target.encode()).digest()[:8], "big") % 20, "train")


def _letters(rng: random.Random, count: int, letters: str) -> list[str]:
    return [letters[int(rng.random() * len(letters))] for _ in range(count)]


def _between(rng: random.Random, low: int, high: int) -> int:
    return low + int(rng.random() * (high - low + 1))


def _check_variety(key: str, length: int, symbols: int) -> None:
    if symbols**length < _DIFFERENT:
        raise ValueError(
            f"{key} ({length}) and symbols ({symbols}) make {symbols**length} different targets; "
            f"at least {_DIFFERENT} are needed to divide between the splits"
        )
