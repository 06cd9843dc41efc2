"""`voc-segmentation`: PASCAL VOC class segmentation in the layout of the development kit (VOC2007–2012)."""

from pathlib import Path

from pydantic import Field

from harness.datasets.dataset import DatasetOptions, Split
from harness.datasets.files import SplitName
from harness.datasets.masks.masks import Masks, MasksOptions
from harness.datasets.voc.annotations import CLASSES, IMAGE_SETS
from harness.task import BACKGROUND, TaskName

VOID = 255  # object borders and objects too small or unclear to annotate, devkit documentation §3.2


class VocSegmentationOptions(DatasetOptions):
    """Options of `voc-segmentation`: the folder of one year of VOC, and the images to use."""

    root: Path
    """Folder with JPEGImages, SegmentationClass and ImageSets, such as VOCdevkit/VOC2012."""
    image_sets: dict[Split, SplitName] = Field(default_factory=dict)
    """Lists in ImageSets/Segmentation to use in place of a split's list, such as validation: seg11valid."""


class VocSegmentation(Masks):
    """Masks of the background and VOC's twenty classes, in which void pixels are ignored.

    The split `train` is ImageSets/Segmentation/train.txt, `validation` is val.txt and `test` is test.txt.
    Masks of test images are published for VOC2007 only.
    """

    Options = VocSegmentationOptions

    def __init__(self, options: DatasetOptions, split: str, task: TaskName) -> None:
        assert isinstance(options, VocSegmentationOptions)
        image_sets = IMAGE_SETS | options.image_sets
        layout = MasksOptions(
            root=options.root,
            images="JPEGImages/{id}.*",
            labels="SegmentationClass/{id}.png",
            ids="ImageSets/Segmentation/{split}.txt",
            split_names=(image_sets["train"], image_sets["validation"], image_sets["test"]),
            classes=[BACKGROUND, *CLASSES],
            ignore=[VOID],
        )
        super().__init__(layout, split, task)
