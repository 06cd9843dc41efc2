"""The base of translation data sets that are read from files: sentences with references, all in memory."""

import hashlib

from harness.datasets.dataset import Dataset, DatasetOptions, Split
from harness.identity import digest
from harness.task import Sample

_TWENTIETHS: dict[int, Split] = {18: "validation", 19: "test"}  # the other 18 are for training: 90/5/5


def split_of(text: str) -> Split:
    """Return the split of a text: train for 90% of texts, validation and test for 5% each."""
    twentieth = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 20
    return _TWENTIETHS.get(twentieth, "train")


class SentencePairsOptions(DatasetOptions):
    """Options that decide how translations of the sentences are scored."""

    tokenize: str = "13a"
    """Tokenizer of BLEU, by sacrebleu's name: `zh`, `ja-mecab` or `char` if no spaces separate words."""
    lowercase: bool = False
    """Ignore case in BLEU."""


class SentencePairs(Dataset):
    """Sentences that are all in memory. The `__init__` of a subclass sets `samples`."""

    tasks = ("translation",)

    samples: tuple[Sample, ...]
    """Samples in ascending order of id."""

    @property
    def fingerprint(self) -> str:
        """Hash ids, sources, references and groups, not paths, and metric options unless all are defaults."""
        samples = digest(part for sample in self.samples for part in (sample.id, *_texts(sample)))
        return digest([samples, *map(str, self.metric_options.items())]) if self.metric_options else samples

    @property
    def metric_options(self) -> dict[str, object]:
        return self.options.model_dump(include=set(SentencePairsOptions.model_fields), exclude_defaults=True)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        if index < 0:
            raise IndexError(f"index {index} is negative")
        return self.samples[index]


def split_of_source(source: str) -> Split:
    """Return the split of a source regardless of case and punctuation: 90/5/5 by a hash."""
    return split_of("".join(filter(str.isalnum, source.casefold())))


def _texts(sample: Sample) -> tuple[str, ...]:
    """Return the source, the number of references, the references, and the group if there is one."""
    assert isinstance(sample.input, str) and isinstance(sample.target, tuple)
    group = (sample.group,) if sample.group else ()
    return (sample.input, str(len(sample.target)), *sample.target, *group)
