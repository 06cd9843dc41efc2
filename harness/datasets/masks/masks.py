"""`masks`: pictures and PNG masks in folders, laid out and labelled as the suite declares."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StrictInt, StrictStr, ValidationInfo, field_validator

from harness.datasets.dataset import Dataset, DatasetOptions
from harness.datasets.files import check_inside
from harness.datasets.masks.classes import Classes, MaskClasses, declared
from harness.datasets.masks.files import read_image
from harness.datasets.paired_files import ID, Pair, Pattern, find_pairs, pair_hashes
from harness.errors import UnavailableError, UsageError
from harness.identity import digest
from harness.task import IGNORED, Sample, TaskName

SPLIT = "{split}"
SPLITS = ("train", "validation", "test")
Label = StrictInt | StrictStr
SplitName = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]


class MasksOptions(DatasetOptions):
    """Where the files are and what their labels mean.

    Patterns are relative to `root`: `{id}` is what a picture and its mask share, `{split}` the split's name,
    `*` anything within one folder or file name. A pattern without `{id}` is a folder: pictures of any suffix
    in it, masks `*.png`.
    """

    root: Path
    images: str
    labels: str
    ids: str | None = None
    """Pattern of a text file with the split's ids, one a line; without it, all files are in the split."""
    split_names: tuple[SplitName, SplitName, SplitName] = SPLITS
    """What `{split}` stands for in train, validation and test."""
    classes: list[str] | dict[str, Any]
    """Names of the labels `first_label`, `first_label` + 1, …; or each name with its label or labels."""
    first_label: int = Field(default=0, ge=0, le=255)
    """Where `classes` is a list: the first one's label. ADE's is 1."""
    ignore: list[Label] | Literal["rest"] = Field(default_factory=list, validate_default=True)
    """Labels whose pixels do not count; `rest`: all that are of no class."""

    @field_validator("images", "labels", "ids")
    @classmethod
    def _pattern(cls, pattern: str | None, info: ValidationInfo) -> str | None:
        if pattern is None:
            return None
        is_list = info.field_name == "ids"
        if not pattern:
            raise ValueError("expected a path, found an empty one")
        rest = pattern.replace(SPLIT, "") if is_list else pattern.replace(SPLIT, "").replace(ID, "", 1)
        if any(mark in rest for mark in ("{", "}", "[", "?", "**")) or (is_list and "*" in rest):
            allowed = "{split}" if is_list else "{id} once, {split} and *"
            raise ValueError(f"the path may hold {allowed}, nothing else in brackets and no wildcard")
        if f"{ID}*" in pattern or f"*{ID}" in pattern:
            raise ValueError("no * may stand beside {id}: where the id ends would not be known")
        try:
            check_inside("the path", pattern, "data set's root")
        except UsageError as error:
            raise ValueError(str(error)) from error
        if is_list:
            return pattern
        suffix = "*" if info.field_name == "images" else "png"
        return str(PurePosixPath(pattern if ID in pattern else f"{pattern}/{ID}.{suffix}"))

    @field_validator("classes")
    @classmethod
    def _classes(cls, classes: list[str] | dict[str, Any]) -> list[str] | dict[str, Any]:
        for name in classes:
            if isinstance(classes, list) and classes.count(name) > 1:
                raise ValueError(f"the class '{name}' stands twice")
        declared(_labelled(classes, 0), [])
        return classes

    @field_validator("first_label")
    @classmethod
    def _first(cls, first: int, info: ValidationInfo) -> int:
        if first and isinstance(info.data.get("classes"), dict):
            raise ValueError("first_label is for a list of classes; these have their labels")
        return first

    @field_validator("ignore")
    @classmethod
    def _ignore(cls, ignore: list[Label] | Literal["rest"], info: ValidationInfo) -> object:
        if "classes" in info.data and "first_label" in info.data:
            declared(_labelled(info.data["classes"], info.data["first_label"]), ignore)
        return ignore


class Masks(Dataset):
    """Pictures with a class a pixel; sample ids are what `{id}` stands for.

    Masks are class indices; ignored pixels are 255 in them, whatever their label. Without `{split}` in any
    pattern there is one split, `test`.

    Raises:
        UnavailableError: there is no folder `root`.
        UsageError: no such split, or files are missing, without a partner or of one id; a sample that is
            asked for and bad: of two sizes, with a label that is not declared, or no picture at all.
    """

    tasks = ("segmentation",)
    Options: ClassVar[type[DatasetOptions]] = MasksOptions

    def __init__(self, options: DatasetOptions, split: str, task: TaskName) -> None:
        super().__init__(options, split, task)
        layout: MasksOptions = self.options
        root = layout.root
        if not root.is_dir():
            raise UnavailableError(f"{root}: no such folder; it is the data set's root")
        by_image, by_label = SPLIT in layout.images, SPLIT in layout.labels
        if split != "test" and SPLIT not in f"{layout.images}{layout.labels}{layout.ids}":
            raise UsageError(
                f"{root}: without {{split}} in images, labels or ids the one split is 'test', not '{split}'"
            )
        name = layout.split_names[SPLITS.index(split)]
        self._pairs: list[Pair] = find_pairs(
            root,
            Pattern("images", layout.images.replace(SPLIT, name), complete=by_image or not by_label),
            Pattern("labels", layout.labels.replace(SPLIT, name), complete=by_label or not by_image),
            root / layout.ids.replace(SPLIT, name) if layout.ids else None,
        )
        self._classes: MaskClasses = declared(_labelled(layout.classes, layout.first_label), layout.ignore)

    @property
    def fingerprint(self) -> str:
        """Of every file's content and of what the labels mean; paths are not in it, ids are."""
        known = self._classes
        parts: list[str | bytes] = ["masks", *known.names, str(known.are_colours), str(known.rest_ignored)]
        parts += [known.labels.tobytes(), known.values.tobytes()]
        parts += pair_hashes(self._pairs)
        return digest(parts)

    @property
    def classes(self) -> tuple[str, ...]:
        return self._classes.names

    @property
    def metric_options(self) -> dict[str, Any]:
        return {"ignore_index": IGNORED} if self.options.ignore else {}

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Sample:
        if index < 0:
            raise IndexError(f"sample {index} of {len(self)}")
        pair = self._pairs[index]
        image, mask = read_image(pair.first), self._classes.read(pair.second)
        if image.shape[:2] != mask.shape:
            (height, width), (image_height, image_width) = mask.shape, image.shape[:2]
            raise UsageError(
                f"{pair.second}: {width}×{height} pixels, but its picture {pair.first} has "
                f"{image_width}×{image_height} (width × height)"
            )
        return Sample(pair.id, image, mask)


def _labelled(classes: list[str] | Classes, first: int) -> Classes:
    """Names with their labels."""
    return (
        {name: first + place for place, name in enumerate(classes)} if isinstance(classes, list) else classes
    )
