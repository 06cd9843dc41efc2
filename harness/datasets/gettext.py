"""`gettext`: real translations of programs' messages, read from the catalogues of a locale directory."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from functools import lru_cache
from pathlib import Path

from pydantic import Field

from harness.datasets.catalogue import clean, locale_directories, read_catalogues
from harness.datasets.dataset import Dataset, DatasetOptions, Split, digest
from harness.errors import UnavailableError
from harness.task import References, Sample, TaskName

_TWENTIETHS: dict[int, Split] = {18: "validation", 19: "test"}  # the other 18 train: 90/5/5


class GettextOptions(DatasetOptions):
    """Which catalogues, and which of their pairs."""

    language: str = Field(default="de", pattern=r"^[a-z]{2,3}(_[A-Z]{2})?(@[a-z]+)?$")
    """The language translated into, a folder's name; the sources are English."""
    directory: Path | None = None
    """Holds LANGUAGE/LC_MESSAGES/*.mo; by default the system's locale directory."""
    max_words: int = Field(default=15, ge=1)
    """Longer pairs, on either side, are left out."""
    size: int | None = Field(default=None, ge=1)
    """At most so many pairs of the split: the first by id, which is a random choice."""


class Gettext(Dataset):
    """English sources with all distinct translations that the catalogues hold, the most frequent first.

    Pairs are cleaned (see `catalogue.clean`) and split 90/5/5 by a hash of the source without case and
    punctuation, so that no source is in two splits and a pair is in the same split on every machine.

    Raises:
        UnavailableError: this machine has no catalogues of the language, or no pair for the split.
    """

    tasks = ("translation",)
    Options = GettextOptions

    def __init__(self, options: DatasetOptions, split: str, task: TaskName) -> None:
        super().__init__(options, split, task)
        directory: Path | None = self.options.directory
        directories = locale_directories() if directory is None else (directory,)
        language = self.options.language
        self.skipped: tuple[str, ...] = read_catalogues(directories, language).skipped
        """`path: reason` of each catalogue that could not be read."""
        samples = _pairs(directories, language, self.options.max_words).get(split, ())
        if not samples:
            where = " or ".join(map(str, directories))
            raise UnavailableError(
                f"no clean pair for split '{split}' in the gettext catalogues for '{language}' under "
                f"{where}: install more translated packages or name another directory"
            )
        self._samples = samples[: self.options.size]

    @property
    def fingerprint(self) -> str:
        return digest(text for sample in self._samples for text in (sample.id, *_texts(sample)))

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        if index < 0:
            raise IndexError(f"pair {index} of {len(self)}")
        return self._samples[index]


def _texts(sample: Sample) -> tuple[str, ...]:
    assert isinstance(sample.input, str) and isinstance(sample.target, tuple)
    return (sample.input, str(len(sample.target)), *sample.target)


def split_of(source: str) -> Split:
    """The split that a source belongs to, whatever its case and punctuation."""
    letters = "".join(character for character in source.casefold() if character.isalnum())
    return _TWENTIETHS.get(int.from_bytes(hashlib.sha256(letters.encode()).digest()[:8], "big") % 20, "train")


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
