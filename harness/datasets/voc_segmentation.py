"""`voc-segmentation`: PASCAL VOC's class segmentation, as the development kit lays it out (VOC2007–2012)."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from harness.datasets import voc
from harness.datasets.dataset import DatasetOptions
from harness.datasets.masks import Masks, MasksOptions
from harness.task import TaskName

VOID = 255  # object borders and what is too small or unclear, devkit documentation §3.2


class VocSegmentationOptions(DatasetOptions):
    """Which year's folder, and which images of it."""

    root: Path
    """The folder with JPEGImages, SegmentationClass and ImageSets, such as VOCdevkit/VOC2012."""
    image_set: str | None = Field(default=None, pattern=r"^\w[\w.-]*$")
    """Name of a list in ImageSets/Segmentation in place of the split's own: trainval, seg11valid."""


class VocSegmentation(Masks):
    """Background and VOC's twenty classes; void pixels are ignored.

    The split `validation` is ImageSets/Segmentation/val.txt, `train` and `test` are train.txt and test.txt;
    only VOC2007's test images have published masks.
    """

    Options = VocSegmentationOptions

    def __init__(self, options: DatasetOptions, split: str, task: TaskName) -> None:
        assert isinstance(options, VocSegmentationOptions)
        names = ("train", "val", "test") if options.image_set is None else (options.image_set,) * 3
        layout = MasksOptions.model_validate(
            {
                "root": options.root,
                "images": "JPEGImages/{id}.jpg",
                "labels": "SegmentationClass/{id}.png",
                "ids": "ImageSets/Segmentation/{split}.txt",
                "split_names": names,
                "classes": ["background", *voc.CLASSES],
                "ignore": [VOID],
            }
        )
        super().__init__(layout, split, task)
