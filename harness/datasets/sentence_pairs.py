"""What translation data sets that are read from files share: sentences with references, and their split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from harness.datasets.dataset import Dataset, Split
from harness.identity import digest
from harness.task import Sample

_TWENTIETHS: dict[int, Split] = {18: "validation", 19: "test"}  # the other 18 train: 90/5/5


class SentencePairs(Dataset):
    """Samples that are all in memory; `__init__` of a subclass sets the two attributes."""

    tasks = ("translation",)

    samples: tuple[Sample, ...]
    """In ascending order of id."""
    skipped: tuple[str, ...]
    """What of the files is not among the samples, and why."""

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(self.samples)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        if index < 0:
            raise IndexError(f"pair {index} of {len(self)}")
        return self.samples[index]


def fingerprint_of(samples: Iterable[Sample]) -> str:
    """SHA-256 (hex) of ids, sources and references: the same for the same content, wherever it was read."""
    return digest(text for sample in samples for text in (sample.id, *texts(sample)))


def texts(sample: Sample) -> tuple[str, ...]:
    """Source, number of references, references."""
    assert isinstance(sample.input, str) and isinstance(sample.target, tuple)
    return (sample.input, str(len(sample.target)), *sample.target)


def split_of(source: str) -> Split:
    """The split that a source belongs to, whatever its case and punctuation: 90/5/5 by a hash."""
    letters = "".join(character for character in source.casefold() if character.isalnum())
    return _TWENTIETHS.get(int.from_bytes(hashlib.sha256(letters.encode()).digest()[:8], "big") % 20, "train")
