"""The base of translation data sets that are read from files: sentences with references, all in memory."""

from __future__ import annotations

from collections.abc import Iterable

from harness.datasets.dataset import Dataset, Split
from harness.datasets.hash_split import split_of
from harness.identity import digest
from harness.task import Sample


class SentencePairs(Dataset):
    """Sentences that are all in memory. The `__init__` of a subclass sets `samples` and `skipped`."""

    tasks = ("translation",)

    samples: tuple[Sample, ...]
    """Samples in ascending order of id."""
    skipped: tuple[str, ...]
    """Descriptions of the contents that are not among the samples, with reasons."""

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(self.samples)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        if index < 0:
            raise IndexError(f"index {index} is negative")
        return self.samples[index]


def fingerprint_of(samples: Iterable[Sample]) -> str:
    """Return the SHA-256 (64 hex digits) of ids, sources and references, which does not depend on paths."""
    return digest(part for sample in samples for part in (sample.id, *_texts(sample)))


def split_of_source(source: str) -> Split:
    """Return the split of a source regardless of case and punctuation: 90/5/5 by a hash."""
    return split_of("".join(character for character in source.casefold() if character.isalnum()))


def _texts(sample: Sample) -> tuple[str, ...]:
    """Return the source, the number of references, and the references."""
    assert isinstance(sample.input, str) and isinstance(sample.target, tuple)
    return (sample.input, str(len(sample.target)), *sample.target)
