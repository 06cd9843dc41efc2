"""`coco`: images and COCO instance annotations in folders of the user."""

import unicodedata
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydantic import field_validator

from harness.datasets.coco.annotations import read_annotations
from harness.datasets.content_hashes import content_hashes
from harness.datasets.dataset import Dataset, DatasetOptions
from harness.datasets.files import SPLIT_PLACEHOLDER, SplitNames, check_option_path, check_root, insert_split
from harness.datasets.image_files import read_image
from harness.errors import UsageError
from harness.identity import digest
from harness.task import Sample, TaskName

_ID_DIGITS = 12  # of an image id in COCO's file names


class CocoOptions(DatasetOptions):
    """Location of the files. The defaults are the layout of COCO 2017 as published."""

    root: Path
    """Folder that contains the annotations and images."""
    annotations: str = "annotations/instances_{split}.json"
    """File relative to `root`, in which `{split}` is the split's name."""
    images: str = "{split}"
    """Folder relative to `root` that contains the `file_name`s of the annotations."""
    split_names: SplitNames = ("train2017", "val2017", "test2017")
    """Values of `{split}` for train, validation and test."""

    @field_validator("annotations", "images")
    @classmethod
    def _check_path(cls, path: str) -> str:
        if set("{}") & set(path.replace(SPLIT_PLACEHOLDER, "")):
            raise ValueError("the path may contain {split}, and no other braces")
        check_option_path(path)
        return path


class Coco(Dataset):
    """All images that the annotation file lists, with or without objects, in order of image id.

    A numeric id is written with twelve digits, as in COCO's file names. Classes are the categories in
    ascending order of id: 80 for COCO, whose ids go up to 90. An image is turned as its EXIF orientation
    says, unless only its stored pixels have the annotated width and height.
    """

    tasks = ("detection",)
    Options = CocoOptions
    options: CocoOptions
    classes: tuple[str, ...] = ()
    class_ids: Mapping[int | str, int] = {}
    notes: tuple[str, ...] = ()

    def __init__(self, options: DatasetOptions, split: str, task: TaskName) -> None:
        super().__init__(options, split, task)
        root, names = self.options.root, self.options.split_names
        check_root(root)
        self._annotation_file = root / insert_split(self.options.annotations, split, names)
        folder = root / insert_split(self.options.images, split, names)
        notes: list[str] = []
        annotated = read_annotations(self._annotation_file, notes.append, with_files=True)
        self._ids, self._files = [*annotated.files], [*annotated.files.values()]
        self._targets = [*annotated.targets.values()]
        self._paths = self._find_images(folder, notes)
        self.classes, self.class_ids = annotated.classes, annotated.labels
        self.notes = tuple(notes)

    @property
    def fingerprint(self) -> str:
        """Hash classes, ids, the content of images, and annotations, but not file names."""
        parts: list[str | bytes] = ["coco, upright", *self.classes]
        hashes = content_hashes(self._paths)
        for index, (target, image_hash) in enumerate(zip(self._targets, hashes, strict=True)):
            parts += [self.sample_id(index), image_hash]
            columns = (target.boxes, target.labels, target.areas, target.crowd, target.difficult)
            parts += [np.ascontiguousarray(column).tobytes() for column in columns]
        return digest(parts)

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Sample:
        if index < 0:
            raise IndexError(f"index {index} is negative")
        file, path = self._files[index], self._paths[index]
        image = read_image(path, (file.width, file.height))
        height, width = image.shape[:2]
        if (width, height) != (file.width, file.height):
            raise UsageError(
                f"{path}: {width}×{height} pixels, but image {self._ids[index]} of "
                f"{self._annotation_file} has {file.width}×{file.height} (width × height)"
            )
        return Sample(self.sample_id(index), image, self._targets[index])

    def sample_id(self, index: int) -> str:
        image_id = self._ids[index]
        return f"{image_id:0{_ID_DIGITS}d}" if isinstance(image_id, int) else image_id

    def _find_images(self, folder: Path, notes: list[str]) -> list[Path]:
        """Return the file of each image, whose name may have backslashes or another Unicode form.

        Each folder is listed once: to check one file at a time takes longer than everything else
        (118,287 files in train2017).
        """
        names: dict[Path, set[str]] = {}  # by folder
        paths, missing, renamed = [], [], 0
        for image_id, file in zip(self._ids, self._files, strict=True):
            plain = file.path.replace("\\", "/")
            forms = [file.path, plain, *(unicodedata.normalize(form, plain) for form in ("NFC", "NFD"))]
            for form in dict.fromkeys(forms):
                path = folder / form
                if path.parent not in names:
                    entries = path.parent.iterdir() if path.parent.is_dir() else ()
                    names[path.parent] = {entry.name for entry in entries}
                if path.name in names[path.parent]:
                    renamed += form not in forms[:2]
                    break
            else:
                missing.append(f"image {image_id}: file not found: {folder / plain}")
            paths.append(path)
        if renamed:
            notes.append(f"{folder}: {renamed} file names have other Unicode forms")
        if missing:
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise UsageError(f"{self._annotation_file}: {missing[0]}{more}")
        return paths
