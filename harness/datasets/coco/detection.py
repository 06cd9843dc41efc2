"""`coco`: pictures and COCO's instance annotations of their objects, in folders of the user's."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import field_validator

from harness.datasets.coco import annotations as coco
from harness.datasets.coco.annotations import Id, ImageEntry
from harness.datasets.dataset import Dataset, DatasetOptions
from harness.datasets.files import check_inside, content_hashes
from harness.datasets.masks.files import read_image
from harness.datasets.masks.masks import SPLIT, SPLITS, SplitName
from harness.errors import UnavailableError, UsageError
from harness.identity import digest
from harness.task import Annotations, Sample, TaskName

DIGITS = 12  # of an image id in COCO's file names


class CocoOptions(DatasetOptions):
    """Where the files are; the defaults are COCO 2017 as published."""

    root: Path
    annotations: str = "annotations/instances_{split}.json"
    """File relative to `root`; `{split}` is the split's name."""
    images: str = "{split}"
    """Folder relative to `root` that the annotations' `file_name`s start from."""
    split_names: tuple[SplitName, SplitName, SplitName] = ("train2017", "val2017", "test2017")
    """What `{split}` stands for in train, validation and test."""

    @field_validator("annotations", "images")
    @classmethod
    def _path(cls, path: str) -> str:
        if "{" in path.replace(SPLIT, "") or "}" in path.replace(SPLIT, ""):
            raise ValueError("the path may hold {split}, nothing else in brackets")
        try:
            check_inside("the path", path, "data set's root")
        except UsageError as error:
            raise ValueError(str(error)) from error
        return path


class Coco(Dataset):
    """Every image that the annotation file lists, with or without objects, by image id.

    A numeric id has twelve digits, as in COCO's file names. Classes are the categories by ascending id: 80
    for COCO, whose ids run to 90. Pixels are taken as stored, without an EXIF rotation.

    Raises:
        UnavailableError: there is no folder `root`.
        UsageError: the annotation file is missing or bad, or an image has no file; a sample that is asked for
            and is no picture, or of another size than annotated.
    """

    tasks = ("detection",)
    Options: ClassVar[type[DatasetOptions]] = CocoOptions

    def __init__(self, options: DatasetOptions, split: str, task: TaskName) -> None:
        super().__init__(options, split, task)
        layout: CocoOptions = self.options
        if not layout.root.is_dir():
            raise UnavailableError(f"{layout.root}: no such folder; it is the data set's root")
        name = layout.split_names[SPLITS.index(split)]
        self._path = layout.root / layout.annotations.replace(SPLIT, name)
        self._folder = layout.root / layout.images.replace(SPLIT, name)
        annotated = coco.read_annotations(self._path, with_images=True)
        self._classes = annotated.classes
        self._ids: list[Id] = list(annotated.targets)
        self._targets: list[Annotations] = list(annotated.targets.values())
        self._images: list[ImageEntry] = [annotated.images[identity] for identity in self._ids]
        self._check_files()

    @property
    def fingerprint(self) -> str:
        """Of classes, ids, pictures' content and annotations; file names are not in it."""
        parts: list[str | bytes] = ["coco", *self._classes]
        pictures = content_hashes(self._folder / entry.file for entry in self._images)
        for index, (target, picture) in enumerate(zip(self._targets, pictures, strict=True)):
            parts += [self._sample_id(index), picture]
            fields = (target.boxes, target.labels, target.areas, target.crowd, target.difficult)
            parts += [np.ascontiguousarray(values).tobytes() for values in fields]
        return digest(parts)

    @property
    def classes(self) -> tuple[str, ...]:
        return self._classes

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Sample:
        if index < 0:
            raise IndexError(f"sample {index} of {len(self)}")
        entry, identity = self._images[index], self._ids[index]
        path = self._folder / entry.file
        image = read_image(path)
        height, width = image.shape[:2]
        if (width, height) != (entry.width, entry.height):
            raise UsageError(
                f"{path}: {width}×{height} pixels as stored, but image {identity} of {self._path} has "
                f"{entry.width}×{entry.height} (width × height)"
            )
        return Sample(self._sample_id(index), image, self._targets[index])

    def _sample_id(self, index: int) -> str:
        identity = self._ids[index]
        return f"{identity:0{DIGITS}d}" if isinstance(identity, int) else identity

    def _check_files(self) -> None:
        """Look into each folder once; a file each would take longer than all else (train2017: 118,287)."""
        present: dict[Path, set[str]] = {}
        missing = []
        for identity, entry in zip(self._ids, self._images, strict=True):
            file = self._folder / entry.file
            if file.parent not in present:
                found = file.parent.iterdir() if file.parent.is_dir() else ()
                present[file.parent] = {one.name for one in found}
            if file.name not in present[file.parent]:
                missing.append((identity, file))
        if missing:
            identity, file = missing[0]
            more = f" (nor for {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise UsageError(f"{self._path}: image {identity}: found no file {file}{more}")
