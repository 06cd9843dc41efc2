"""Which labels of mask files mean which class: Cityscapes' 34 ids → 19 classes, ADE's shift by one.

A label is a value 0–255 (palette index or grey level) or a colour '#rrggbb'; one data set has one kind.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from harness.datasets.masks.files import read_colours, read_mask
from harness.errors import UsageError
from harness.task import IGNORED, Mask

VALUES = 256  # a label that is no colour has 8 bits
SHOWN = 8  # labels in a message
Label: TypeAlias = int | str
Classes: TypeAlias = Mapping[str, Label | Sequence[Label]]
"""Names with their labels, in order of class index."""
Ignore: TypeAlias = Sequence[Label] | Literal["rest"]
"""Labels whose pixels do not count; `rest`: all that are of no class."""


@dataclass(frozen=True, eq=False)
class MaskClasses:
    """Declared labels, and the mask value that each becomes."""

    names: tuple[str, ...]
    labels: NDArray[np.int64]  # [n], ascending: 0–255, or 0xRRGGBB
    values: NDArray[np.uint8]  # [n], of each label: index into names, or IGNORED
    are_colours: bool
    rest_ignored: bool  # else labels that are not declared are refused

    def read(self, path: Path) -> Mask:
        """A label file as class indices and IGNORED: [height, width].

        Raises:
            UsageError: the file is bad, or has a label that is not declared.
        """
        found = read_colours(path) if self.are_colours else read_mask(path)
        places = np.searchsorted(self.labels, found if self.are_colours else np.arange(VALUES))
        places = np.minimum(places, len(self.labels) - 1)
        if not self.are_colours:
            places = places[found]
        mask = self.values[places]
        unknown = self.labels[places] != found
        if unknown.any():
            if not self.rest_ignored:
                row, column = np.argwhere(unknown)[0]
                raise UsageError(
                    f"{path}: the pixel at x {column}, y {row} has the label "
                    f"{self._written(found[row, column])}, which is neither of a class nor ignored "
                    f"(declared: {self._declared()})"
                )
            mask[unknown] = IGNORED
        return mask

    def _written(self, label: int) -> str:
        return f"#{label:06x}" if self.are_colours else str(label)

    def _declared(self) -> str:
        shown = ", ".join(map(self._written, self.labels[:SHOWN]))
        return f"{shown}, … {self._written(self.labels[-1])}" if len(self.labels) > SHOWN else shown


def declared(classes: Classes, ignore: Ignore) -> MaskClasses:
    """What a suite declares, checked.

    Raises:
        ValueError: no class or too many, labels of two kinds, or a label that is wrong or stands twice.
    """
    ignored = [] if ignore == "rest" else list(ignore)
    owners: dict[int, int] = {}  # label → mask value
    kinds = {type(label) for own in [*map(labels_of, classes.values()), ignored] for label in own}
    for value, labels in [*enumerate(map(labels_of, classes.values())), (IGNORED, ignored)]:
        for label in labels:
            number = _number(label)
            if number in owners:
                raise ValueError(f"the label {label} stands twice")
            owners[number] = value
    if len(kinds) > 1:
        raise ValueError("expected only values 0–255 or only colours '#rrggbb', found both")
    most = VALUES - (ignore == "rest" or bool(ignored))
    if not 1 <= len(classes) <= most:
        raise ValueError(f"expected 1 to {most} classes, found {len(classes)}")
    known = sorted(owners)
    return MaskClasses(
        tuple(classes),
        np.array(known, dtype=np.int64),
        np.array([owners[label] for label in known], dtype=np.uint8),
        are_colours=str in kinds,
        rest_ignored=ignore == "rest",
    )


def labels_of(declared: Label | Sequence[Label]) -> list[Label]:
    """The labels of one class: one, or a list of them."""
    if isinstance(declared, Sequence) and not isinstance(declared, str):
        return list(declared)
    return [declared]


def _number(label: Label) -> int:
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < VALUES:
        return label
    if isinstance(label, str) and re.fullmatch("#[0-9A-Fa-f]{6}", label):
        return int(label[1:], 16)
    raise ValueError(f"a label is a value 0–255 or a colour '#rrggbb', found {label!r}")
