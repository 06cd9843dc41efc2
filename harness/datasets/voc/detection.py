"""`voc`: PASCAL VOC's object detection, laid out as in the development kit (VOC2007–2012)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from harness.datasets.dataset import Dataset, DatasetOptions
from harness.datasets.masks.files import read_image
from harness.datasets.masks.masks import SplitName
from harness.datasets.paired_files import Pair, Pattern, find_pairs, pair_hashes
from harness.datasets.voc import annotations as voc
from harness.errors import UnavailableError, UsageError
from harness.identity import digest
from harness.registry import unknown
from harness.task import Annotations, Sample, TaskName

LISTS: dict[str, str] = {"train": "train", "validation": "val", "test": "test"}  # in ImageSets/Main
ClassName = Annotated[str, Field(min_length=1)]


class VocOptions(DatasetOptions):
    """Which year's folder, and which images of it."""

    root: Path
    """The folder with JPEGImages, Annotations and ImageSets, such as VOCdevkit/VOC2007."""
    image_sets: dict[Literal["train", "validation", "test"], SplitName] = Field(default_factory=dict)
    """Names of lists in ImageSets/Main in place of a split's own, such as train: trainval."""
    classes: tuple[ClassName, ...] = Field(default=voc.CLASSES, min_length=1)
    """In order of label; VOC's twenty by default."""

    @field_validator("classes")
    @classmethod
    def _classes(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        for name in classes:
            if classes.count(name) > 1:
                raise ValueError(f"the class '{name}' stands twice")
        return classes


class Voc(Dataset):
    """Images that a list names, with their objects; `difficult` ones are neither found nor missed.

    The split `validation` is ImageSets/Main/val.txt, `train` and `test` are train.txt and test.txt; only
    VOC2007's test annotations are published. Sample ids are the lists'.

    Raises:
        UnavailableError: there is no folder `root`.
        UsageError: a list, picture or annotation is missing, or an annotation bad; a sample that is asked for
            and is no picture, or too small for its boxes.
    """

    tasks = ("detection",)
    Options: ClassVar[type[DatasetOptions]] = VocOptions

    def __init__(self, options: DatasetOptions, split: str, task: TaskName) -> None:
        super().__init__(options, split, task)
        layout: VocOptions = self.options
        if not layout.root.is_dir():
            raise UnavailableError(f"{layout.root}: no such folder; it is the data set's root")
        self._pairs: list[Pair] = find_pairs(
            layout.root,
            Pattern("images", "JPEGImages/{id}.jpg"),
            Pattern("annotations", "Annotations/{id}.xml"),
            layout.root / "ImageSets/Main" / f"{(LISTS | layout.image_sets)[split]}.txt",
        )
        self._targets = [_target(pair.second, layout.classes) for pair in self._pairs]

    @property
    def fingerprint(self) -> str:
        """Of ids, all files' content and the classes; paths are not in it."""
        return digest(["voc", *self.classes, *pair_hashes(self._pairs)])

    @property
    def classes(self) -> tuple[str, ...]:
        names: tuple[str, ...] = self.options.classes
        return names

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Sample:
        if index < 0:
            raise IndexError(f"sample {index} of {len(self)}")
        pair, target = self._pairs[index], self._targets[index]
        image = read_image(pair.first)
        height, width = image.shape[:2]
        outside = ((target.boxes[:, :2] >= (width, height)) | (target.boxes[:, 2:] <= 0)).any(axis=1)
        if outside.any():
            raise UsageError(
                f"{pair.second}: object[{outside.argmax()}]: the box is outside its image {pair.first} of "
                f"{width}×{height} px"
            )
        return Sample(pair.id, image, target)


def _target(file: Path, classes: tuple[str, ...]) -> Annotations:
    objects = voc.read_objects(file)
    for index, one in enumerate(objects):
        if one.name not in classes:
            raise UsageError(f"{file}: object[{index}]: {unknown('class', one.name, classes)}")
    return voc.to_annotations(objects, classes)
