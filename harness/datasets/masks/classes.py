"""The mapping from labels in mask files to classes: Cityscapes' 34 ids → 19 classes, ADE's offset of one.

A label is a value 0–255 (palette index or grey level) or a colour '#rrggbb'. A data set uses one of the two.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from harness.datasets.files import Note
from harness.datasets.masks.files import read_colours, read_mask
from harness.errors import UsageError
from harness.task import IGNORED, Mask

ClassLabels: TypeAlias = Mapping[str, JsonValue]
"""Class name → its label or labels as the suite has them, in order of class index."""
IgnoredLabels: TypeAlias = Sequence[JsonValue] | Literal["rest"]
"""Labels of ignored pixels; `rest` for all labels that no class has."""

_VALUES = 256  # of 8 bits
_MAX_LISTED = 8  # labels in a message


@dataclass(frozen=True, eq=False)
class MaskClasses:
    """The declared labels and the mask value of each."""

    names: tuple[str, ...]
    labels: NDArray[np.int64]  # [n], ascending: 0–255, or 0xRRGGBB
    values: NDArray[np.uint8]  # [n], per label: index in names, or IGNORED
    are_colours: bool
    rest_ignored: bool  # whether undeclared labels are ignored rather than an error

    def read(self, path: Path) -> Mask:
        """Read a label file as class indices and IGNORED: [height, width].

        An undeclared label is a UsageError, unless the rest is ignored.
        """
        pixels = read_colours(path) if self.are_colours else read_mask(path)
        labels = pixels if self.are_colours else np.arange(_VALUES)
        indices = np.minimum(np.searchsorted(self.labels, labels), len(self.labels) - 1)
        undeclared = self.labels[indices] != labels
        mask = np.where(undeclared, np.uint8(IGNORED), self.values[indices])
        if not self.are_colours:
            # np.take is four times as fast as an index of bytes.
            mask, undeclared = np.take(mask, pixels), np.take(undeclared, pixels)
        if undeclared.any() and not self.rest_ignored:
            row, column = np.argwhere(undeclared)[0]
            declared = [*map(self._format, self.labels)]
            if len(declared) > _MAX_LISTED:
                declared[_MAX_LISTED:] = [f"… {declared[-1]}"]
            raise UsageError(
                f"{path}: the pixel at x {column}, y {row} has the label "
                f"{self._format(pixels[row, column])}, which is neither of a class nor ignored "
                f"(declared: {', '.join(declared)})"
            )
        return mask

    def _format(self, label: int) -> str:
        return f"#{label:06x}" if self.are_colours else str(label)


def parse_classes(classes: ClassLabels, ignored: IgnoredLabels) -> MaskClasses:
    """Check the labels that a suite declares; a malformed or duplicate one is a ValueError."""
    ignored_labels = [] if ignored == "rest" else list(ignored)
    lists = [labels if isinstance(labels, list) else [labels] for labels in classes.values()]
    labels_by_value = [*enumerate(lists), (IGNORED, ignored_labels)]
    types = {type(label) for _, labels in labels_by_value for label in labels}
    values: dict[int, int] = {}  # label → mask value
    for value, labels in labels_by_value:
        for label in labels:
            number = _to_number(label)
            if number in values:
                raise ValueError(f"duplicate label {label}")
            values[number] = value
    if len(types) > 1:
        raise ValueError("expected only values 0–255 or only colours '#rrggbb', found both")
    max_classes = _VALUES - (ignored == "rest" or bool(ignored))
    if not 1 <= len(classes) <= max_classes:
        raise ValueError(f"expected 1 to {max_classes} classes, found {len(classes)}")
    numbers = sorted(values)
    return MaskClasses(
        tuple(classes),
        np.array(numbers, dtype=np.int64),
        np.array([values[number] for number in numbers], dtype=np.uint8),
        are_colours=str in types,
        rest_ignored=ignored == "rest",
    )


def binary_classes(files: Iterable[Path], classes: MaskClasses, note: Note) -> MaskClasses:
    """Return two classes with label 255 in the second one if the annotated masks contain only 0 and 255.

    Image editors write masks of one object class so. To ignore 255 would leave only the background. Of more
    classes, none can be meant, so that this is only noted.
    """
    values: set[int] = set()
    for file in files:
        values.update(np.unique(read_mask(file)).tolist())
        if not values <= {0, IGNORED}:
            return classes
    if IGNORED not in values:
        return classes
    if len(classes.names) != 2:
        note(f"all annotated pixels are 0 or {IGNORED}, and {IGNORED} is ignored; are there only 2 classes?")
        return classes
    background, foreground = classes.names
    note(
        f"all annotated pixels are 0 or {IGNORED}, so that {IGNORED} is read as class {foreground}; set an "
        f"ignore index of {IGNORED} to leave these pixels out"
    )
    return parse_classes({background: 0, foreground: [1, IGNORED]}, [])


def _to_number(label: JsonValue) -> int:
    """Convert a value 0–255, or a colour '#rrggbb' to 0xRRGGBB."""
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < _VALUES:
        return label
    if isinstance(label, str) and re.fullmatch("#[0-9A-Fa-f]{6}", label):
        return int(label[1:], 16)
    raise ValueError(f"a label is a value 0–255 or a colour '#rrggbb', found {label!r}")
