"""`voc-segmentation`: PASCAL VOC's class segmentation, as the development kit lays it out (VOC2007–2012)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from harness.datasets.dataset import DatasetOptions
from harness.datasets.masks.masks import Masks, MasksOptions, SplitName
from harness.datasets.voc import annotations as voc
from harness.task import TaskName

VOID = 255  # object borders and what is too small or unclear, devkit documentation §3.2


class VocSegmentationOptions(DatasetOptions):
    """Which year's folder, and which images of it."""

    root: Path
    """The folder with JPEGImages, SegmentationClass and ImageSets, such as VOCdevkit/VOC2012."""
    image_sets: dict[Literal["train", "validation", "test"], SplitName] = Field(default_factory=dict)
    """Names of lists in ImageSets/Segmentation in place of a split's own, such as validation: seg11valid."""


class VocSegmentation(Masks):
    """Background and VOC's twenty classes; void pixels are ignored.

    The split `validation` is ImageSets/Segmentation/val.txt, `train` and `test` are train.txt and test.txt;
    only VOC2007's test images have published masks.
    """

    Options = VocSegmentationOptions

    def __init__(self, options: DatasetOptions, split: str, task: TaskName) -> None:
        assert isinstance(options, VocSegmentationOptions)
        lists = {"train": "train", "validation": "val", "test": "test"} | options.image_sets
        layout = MasksOptions.model_validate(
            {
                "root": options.root,
                "images": "JPEGImages/{id}.jpg",
                "labels": "SegmentationClass/{id}.png",
                "ids": "ImageSets/Segmentation/{split}.txt",
                "split_names": list(lists.values()),
                "classes": ["background", *voc.CLASSES],
                "ignore": [VOID],
            }
        )
        super().__init__(layout, split, task)
