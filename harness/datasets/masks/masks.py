"""`masks`: images and PNG masks in folders, with a layout and labels that the suite declares."""

from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal, TypeAlias

from pydantic import Field, JsonValue, StrictInt, StrictStr, ValidationInfo, field_validator

from harness.datasets.dataset import SPLITS, Dataset, DatasetOptions
from harness.datasets.files import SPLIT_PLACEHOLDER, SplitNames, check_option_path, check_root, insert_split
from harness.datasets.image_files import read_image
from harness.datasets.masks.classes import ClassLabels, parse_classes
from harness.datasets.paired_files import ID_PLACEHOLDER, PathPattern, find_pairs, pair_hashes
from harness.errors import UsageError
from harness.identity import digest
from harness.task import IGNORED, Mask, Sample, TaskName

DeclaredLabel: TypeAlias = StrictInt | StrictStr


class MasksOptions(DatasetOptions):
    """Location of the files and meaning of their labels.

    In a pattern, `{id}` is the text that an image and its mask share, `{split}` the split's name, and `*` any
    text within one folder or file name. A pattern without `{id}` is a folder of images with any suffix, or of
    masks `*.png`.
    """

    root: Path
    """Folder that contains the images and masks."""
    images: str
    """Pattern of the image files with `{id}`, `{split}` and `*`, or their folder; relative to `root`."""
    labels: str
    """Pattern of the mask files with `{id}`, `{split}` and `*`, or their folder; relative to `root`."""
    ids: str | None = None
    """Path of a text file with the ids of the split, one per line. Without it, all files are in the split."""
    split_names: SplitNames = SPLITS
    """Values of `{split}` for train, validation and test."""
    classes: list[str] | dict[str, JsonValue]
    """Names of the labels `first_label`, `first_label` + 1, …; or each name with its label or labels."""
    first_label: int = Field(default=0, ge=0, le=255)
    """Label of the first class if `classes` is a list. ADE's is 1."""
    ignore: list[DeclaredLabel] | Literal["rest"] = Field(default_factory=list, validate_default=True)
    """Labels of ignored pixels; `rest` for all labels that no class has."""

    @field_validator("images", "labels", "ids")
    @classmethod
    def _check_pattern(cls, pattern: str | None, info: ValidationInfo) -> str | None:
        if pattern is None:
            return None
        is_list = info.field_name == "ids"
        if not pattern:
            raise ValueError("expected a path, found an empty one")
        rest = pattern.replace(SPLIT_PLACEHOLDER, "")
        if not is_list:
            rest = rest.replace(ID_PLACEHOLDER, "", 1)
        if any(mark in rest for mark in ("{", "}", "[", "?", "**")) or (is_list and "*" in rest):
            allowed = "{split}" if is_list else "{id} once, {split} and *"
            raise ValueError(f"the path may contain {allowed}, and no other braces or wildcards")
        if f"{ID_PLACEHOLDER}*" in pattern or f"*{ID_PLACEHOLDER}" in pattern:
            raise ValueError("* next to {id} is ambiguous: separate them by other characters")
        check_option_path(pattern)
        if is_list:
            return pattern
        suffix = "*" if info.field_name == "images" else "png"
        has_id = ID_PLACEHOLDER in pattern
        return str(PurePosixPath(pattern if has_id else f"{pattern}/{ID_PLACEHOLDER}.{suffix}"))

    @field_validator("classes")
    @classmethod
    def _check_classes(cls, classes: list[str] | dict[str, JsonValue]) -> list[str] | dict[str, JsonValue]:
        for name in classes:
            if isinstance(classes, list) and classes.count(name) > 1:
                raise ValueError(f"duplicate class '{name}'")
        parse_classes(_class_labels(classes, 0), [])
        return classes

    @field_validator("first_label")
    @classmethod
    def _check_first_label(cls, first: int, info: ValidationInfo) -> int:
        if first and isinstance(info.data.get("classes"), dict):
            raise ValueError("first_label requires a list of classes; these classes have labels")
        return first

    @field_validator("ignore")
    @classmethod
    def _check_ignore(
        cls, ignore: list[DeclaredLabel] | Literal["rest"], info: ValidationInfo
    ) -> list[DeclaredLabel] | Literal["rest"]:
        if "classes" in info.data and "first_label" in info.data:
            parse_classes(_class_labels(info.data["classes"], info.data["first_label"]), ignore)
        return ignore


class Masks(Dataset):
    """Images with a class per pixel. Sample ids are the values of `{id}`.

    Masks contain class indices; ignored pixels are 255. If no pattern contains `{split}`, the only split is
    `test`.
    """

    tasks = ("segmentation",)
    Options: ClassVar[type[DatasetOptions]] = MasksOptions
    options: MasksOptions
    classes: tuple[str, ...] = ()

    def __init__(self, options: DatasetOptions, split: str, task: TaskName) -> None:
        super().__init__(options, split, task)
        layout = self.options
        root = layout.root
        check_root(root)
        by_image, by_label = SPLIT_PLACEHOLDER in layout.images, SPLIT_PLACEHOLDER in layout.labels
        if split != "test" and SPLIT_PLACEHOLDER not in f"{layout.images}{layout.labels}{layout.ids}":
            raise UsageError(
                f"{root}: without {{split}} in images, labels or ids the only split is 'test', not '{split}'"
            )
        names = layout.split_names
        self._pairs = find_pairs(
            root,
            PathPattern("image", insert_split(layout.images, split, names), by_image or not by_label),
            PathPattern("label", insert_split(layout.labels, split, names), by_label or not by_image),
            root / insert_split(layout.ids, split, names) if layout.ids else None,
        )
        self._classes = parse_classes(_class_labels(layout.classes, layout.first_label), layout.ignore)
        self.classes = self._classes.names

    @property
    def fingerprint(self) -> str:
        """Hash ids, the content of all files, and the meaning of labels, but not paths."""
        classes = self._classes
        parts: list[str | bytes] = ["masks", *classes.names]
        parts += [str(classes.are_colours), str(classes.rest_ignored)]
        parts += [classes.labels.tobytes(), classes.values.tobytes()]
        return digest([*parts, *pair_hashes(self._pairs)])

    @property
    def metric_options(self) -> dict[str, object]:
        return {"ignore_index": IGNORED} if self.options.ignore else {}

    def read_labels(self, path: Path) -> Mask:
        """Read a PNG of declared labels as class indices and IGNORED: [height, width]."""
        return self._classes.read(path)

    def __len__(self) -> int:
        return len(self._pairs)

    def sample_id(self, index: int) -> str:
        return self._pairs[index].id

    def __getitem__(self, index: int) -> Sample:
        if index < 0:
            raise IndexError(f"index {index} is negative")
        pair = self._pairs[index]
        image, mask = read_image(pair.image), self.read_labels(pair.target)
        height, width = mask.shape
        if image.shape[:2] != mask.shape:
            image = read_image(pair.image, (width, height))
        if image.shape[:2] != mask.shape:
            image_height, image_width = image.shape[:2]
            raise UsageError(
                f"{pair.target}: {width}×{height} pixels, but its image {pair.image} has "
                f"{image_width}×{image_height} (width × height)"
            )
        return Sample(pair.id, image, mask)


def _class_labels(classes: list[str] | dict[str, JsonValue], first: int) -> ClassLabels:
    """Return each class name with its label or labels."""
    if isinstance(classes, list):
        return {name: first + index for index, name in enumerate(classes)}
    return classes
