"""`voc`: PASCAL VOC object detection in the layout of the development kit (VOC2007–2012)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from harness.datasets.dataset import Dataset, DatasetOptions, Split
from harness.datasets.image_files import read_image
from harness.datasets.layout import SplitName, check_root
from harness.datasets.paired_files import PathPattern, find_pairs, pair_hashes
from harness.datasets.voc.annotations import CLASSES, IMAGE_SETS, read_objects, to_annotations
from harness.errors import UsageError
from harness.identity import digest
from harness.registry import unknown
from harness.task import Annotations, Sample, TaskName

ClassName = Annotated[str, Field(min_length=1)]


class VocOptions(DatasetOptions):
    """Options of `voc`: the folder of one year of VOC, and the images and classes to use."""

    root: Path
    """Folder with JPEGImages, Annotations and ImageSets, such as VOCdevkit/VOC2007."""
    image_sets: dict[Split, SplitName] = Field(default_factory=dict)
    """Lists in ImageSets/Main to use in place of a split's list, such as train: trainval."""
    classes: tuple[ClassName, ...] = Field(default=CLASSES, min_length=1)
    """Class names in order of label. The default is VOC's twenty classes."""

    @field_validator("classes")
    @classmethod
    def _check_classes(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        for name in classes:
            if classes.count(name) > 1:
                raise ValueError(f"duplicate class '{name}'")
        return classes


class Voc(Dataset):
    """The images of a list, with their objects. `difficult` objects count neither as detected nor as missed.

    The split `train` is ImageSets/Main/train.txt, `validation` is val.txt and `test` is test.txt. Test
    annotations are published for VOC2007 only. Sample ids are those of the list.

    Raises:
        UnavailableError: the folder `root` does not exist.
        UsageError: a list, image or annotation is missing, or an annotation is malformed. On access to a
            sample: its file is not an image, or a box is outside the image.
    """

    tasks = ("detection",)
    Options = VocOptions
    options: VocOptions

    def __init__(self, options: DatasetOptions, split: str, task: TaskName) -> None:
        super().__init__(options, split, task)
        root, image_sets = self.options.root, IMAGE_SETS | self.options.image_sets
        check_root(root)
        self._pairs = find_pairs(
            root,
            PathPattern("image", "JPEGImages/{id}.jpg"),
            PathPattern("annotation", "Annotations/{id}.xml"),
            root / f"ImageSets/Main/{image_sets[split]}.txt",
        )
        self._targets = [_read_target(pair.target, self.options.classes) for pair in self._pairs]

    @property
    def fingerprint(self) -> str:
        """Hash ids, the content of all files, and classes, but not paths."""
        return digest(["voc", *self.classes, *pair_hashes(self._pairs)])

    @property
    def classes(self) -> tuple[str, ...]:
        return self.options.classes

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Sample:
        if index < 0:
            raise IndexError(f"index {index} is negative")
        pair, target = self._pairs[index], self._targets[index]
        image = read_image(pair.image)
        height, width = image.shape[:2]
        outside = ((target.boxes[:, :2] >= (width, height)) | (target.boxes[:, 2:] <= 0)).any(axis=1)
        if outside.any():
            raise UsageError(
                f"{pair.target}: object[{outside.argmax()}]: the box is outside its image {pair.image} of "
                f"{width}×{height} px"
            )
        return Sample(pair.id, image, target)


def _read_target(file: Path, classes: tuple[str, ...]) -> Annotations:
    objects = read_objects(file)
    for index, voc_object in enumerate(objects):
        if voc_object.name not in classes:
            raise UsageError(f"{file}: object[{index}]: {unknown('class', voc_object.name, classes)}")
    return to_annotations(objects, classes)
