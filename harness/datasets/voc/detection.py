"""`voc`: PASCAL VOC object detection in the layout of the development kit (VOC2007–2012)."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from harness.datasets.dataset import Dataset, DatasetOptions, Split
from harness.datasets.files import SplitName, check_root
from harness.datasets.image_files import read_image
from harness.datasets.paired_files import PathPattern, find_pairs, pair_hashes
from harness.datasets.voc.annotations import CLASSES, IMAGE_SETS, read_image_annotations
from harness.errors import UsageError
from harness.identity import digest
from harness.registry import unknown
from harness.task import Sample, TaskName

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
    """

    tasks = ("detection",)
    Options = VocOptions
    options: VocOptions
    classes: tuple[str, ...] = ()

    def __init__(self, options: DatasetOptions, split: str, task: TaskName) -> None:
        super().__init__(options, split, task)
        root, image_sets = self.options.root, IMAGE_SETS | self.options.image_sets
        check_root(root)
        self.classes = self.options.classes
        self._pairs = find_pairs(
            root,
            PathPattern("image", "JPEGImages/{id}.*"),
            PathPattern("annotation", "Annotations/{id}.xml"),
            root / f"ImageSets/Main/{image_sets[split]}.txt",
        )
        annotations = [read_image_annotations(pair.target) for pair in self._pairs]
        self._sizes = [(image.width, image.height) for image in annotations]
        for pair, image in zip(self._pairs, annotations, strict=True):
            for index, name in enumerate(image.names):
                if name not in self.classes:
                    raise UsageError(
                        f"{pair.target}: object[{index}]: {unknown('class', name, self.classes)}"
                    )
        self._targets = [image.annotations(self.classes) for image in annotations]

    @property
    def fingerprint(self) -> str:
        """Hash ids, the content of all files, and classes, but not paths."""
        return digest(["voc, upright", *self.classes, *pair_hashes(self._pairs)])

    def __len__(self) -> int:
        return len(self._pairs)

    def sample_id(self, index: int) -> str:
        return self._pairs[index].id

    def __getitem__(self, index: int) -> Sample:
        if index < 0:
            raise IndexError(f"index {index} is negative")
        pair, target = self._pairs[index], self._targets[index]
        image = read_image(pair.image, self._sizes[index])
        height, width = image.shape[:2]
        outside = ((target.boxes[:, :2] >= (width, height)) | (target.boxes[:, 2:] <= 0)).any(axis=1)
        if outside.any():
            raise UsageError(
                f"{pair.target}: object[{outside.argmax()}]: the box is outside its image {pair.image} of "
                f"{width}×{height} px"
            )
        return Sample(pair.id, image, target)
