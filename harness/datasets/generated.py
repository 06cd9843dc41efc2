"""The base of generated data sets: a sample follows from the options, the split and its index alone."""

from abc import abstractmethod
from typing import ClassVar

from pydantic import Field

from harness.datasets.dataset import Dataset, DatasetOptions
from harness.task import Sample, TaskName


class GeneratedOptions(DatasetOptions):
    """Options that select the samples. The first n samples do not depend on the size."""

    size: int | None = Field(default=None, ge=1, le=10_000_000)  # seven digits in an id
    """Sentences in the split. The default is 40,000 for train, 500 for validation and 1,000 for test."""


class Generated(Dataset):
    """Samples that are generated on access, so that nothing is stored."""

    default_size: ClassVar[dict[str, int]] = {"train": 40_000, "validation": 500, "test": 1_000}
    options: GeneratedOptions

    def __init__(self, options: DatasetOptions, split: str, task: TaskName) -> None:
        super().__init__(options, split, task)
        self.size = self.options.size or self.default_size[split]

    @abstractmethod
    def generate(self, index: int) -> Sample:
        """Generate a sample, whose index is from 0 to the size − 1."""

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.size:
            raise IndexError(f"index {index} is out of range: {self.size} samples")
        return self.generate(index)
