"""The contract of a data set: samples in order of id, splits, class names and a content fingerprint."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict

from harness.registry import Registry
from harness.task import Sample, TaskName

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, Split, Split] = get_args(Split)


class DatasetOptions(BaseModel):
    """Options that a suite may set; the docstring below a field is its description on the command line."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class Dataset(ABC):
    """The samples of one split, in ascending order of id, for one task.

    A subclass sets `tasks`, and `Options` if it has any, and implements `fingerprint`, `__len__` and
    `__getitem__`. It is registered under the entry-point group `harness.datasets`.

    Sample i must be the same on every machine and on every access: workers open the data set
    independently, and results are identified by its fingerprint.
    """

    tasks: ClassVar[tuple[TaskName, ...]]
    """Tasks for which the data set has targets. It is opened for one of them."""
    splits: ClassVar[tuple[str, ...]] = SPLITS
    """Splits that can be opened."""
    Options: ClassVar[type[DatasetOptions]] = DatasetOptions
    """Class of `options`. A subclass with its own options also annotates `options` with their class."""
    options: DatasetOptions
    findings: Sequence[str] = ()
    """Defects of this machine's files, which `harness doctor` shows."""

    def __init__(self, options: DatasetOptions, split: str, task: TaskName) -> None:
        """Open a split for a task, both of which the caller has checked; every worker does it.

        Raises:
            UsageError: a file is malformed, or a file of a split is missing.
            UnavailableError: this machine lacks the data or a library to generate it.
        """
        self.options = options
        self.split = split
        self.task: TaskName = task

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Return a SHA-256 (64 hex digits) that data sets share if and only if their samples are equal."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the class names by label: for segmentation, by mask value with the background first."""
        return ()

    @property
    def metric_options(self) -> dict[str, object]:
        """Return options for metrics, such as size limits or an ignored mask value, as JSON values."""
        return {}

    @property
    def notes(self) -> tuple[str, ...]:
        """Return a sentence per kind of entry that was left out or looks like a mistake."""
        return ()

    @property
    def class_ids(self) -> Mapping[int | str, int]:
        """Return the label of each class by the id that prediction files may use for it, from 1."""
        return {label + 1: label for label in range(len(self.classes))}

    def sample_id(self, index: int) -> str:
        """Return the id of a sample; subclasses may avoid reading the sample for it."""
        return self[index].id

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """Return a sample with its target.

        Raises:
            IndexError: the index is negative or not less than the number of samples.
            UsageError: a file of the sample is malformed.
        """


DATASETS: Registry[type[Dataset]] = Registry(
    "data set",
    "harness.datasets",
    {
        "coco": "harness.datasets.coco.detection:Coco",
        "delayed-recall": "harness.datasets.delayed_recall:DelayedRecall",
        "gettext": "harness.datasets.gettext:Gettext",
        "masks": "harness.datasets.masks.masks:Masks",
        "parallel-text": "harness.datasets.parallel_text:ParallelText",
        "phrases": "harness.datasets.phrases.phrases:Phrases",
        "scenes": "harness.datasets.scenes.scenes:Scenes",
        "voc": "harness.datasets.voc.detection:Voc",
        "voc-segmentation": "harness.datasets.voc.segmentation:VocSegmentation",
    },
)
