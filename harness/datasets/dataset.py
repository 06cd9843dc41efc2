"""What every data set offers: indexable samples in order of id, splits, classes, a fingerprint."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from harness.registry import Registry
from harness.task import Sample, TaskName

Split = Literal["train", "validation", "test"]


class DatasetOptions(BaseModel):
    """What a suite may set for a data set; subclasses add fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Dataset(ABC):
    """Samples of one split, indexable, in ascending order of id; the same on every machine and call."""

    tasks: ClassVar[tuple[TaskName, ...]]
    """The tasks it has targets for; a data set is opened for one of them."""
    splits: ClassVar[tuple[str, ...]] = ("train", "validation", "test")
    Options: ClassVar[type[DatasetOptions]] = DatasetOptions

    def __init__(self, options: DatasetOptions, split: str, task: TaskName) -> None:
        """Open a split; cheap enough to be done in every worker.

        `options` is an instance of `Options`; the caller has checked the split and the task.

        Raises:
            UsageError: a file is bad.
            UnavailableError: this machine lacks what the data set is made of.
        """
        self.options: Any = options
        self.split = split
        self.task: TaskName = task

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 (hex) of what decides the samples' content; equal if and only if they are equal."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in order of label (segmentation: of mask value, background first)."""
        return ()

    @property
    def metric_options(self) -> dict[str, Any]:
        """What this data set prescribes to metrics (size limits, ignore index); part of signatures."""
        return {}

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """The sample with its target; IndexError past the end."""


DATASETS: Registry[type[Dataset]] = Registry(
    "data set",
    "harness.datasets",
    {
        "coco": "harness.datasets.coco.detection:Coco",
        "copy": "harness.datasets.symbols:Copy",
        "delayed-recall": "harness.datasets.symbols:DelayedRecall",
        "gettext": "harness.datasets.gettext:Gettext",
        "masks": "harness.datasets.masks.masks:Masks",
        "parallel-text": "harness.datasets.parallel_text:ParallelText",
        "phrases": "harness.datasets.phrases.phrases:Phrases",
        "scenes": "harness.datasets.scenes.scenes:Scenes",
        "voc": "harness.datasets.voc.detection:Voc",
        "voc-segmentation": "harness.datasets.voc.segmentation:VocSegmentation",
    },
)
