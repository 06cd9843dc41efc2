"""PASCAL VOC's annotation files (development kit documentation, 2007 and 2012).

VOC counts pixels from 1 and includes both ends; boxes here are continuous. The inclusive box
(xmin, ymin, xmax, ymax) covers (xmin − 1, ymin − 1, xmax, ymax), so that widths are the devkit's
xmax − xmin + 1 and each IoU equals the devkit's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from harness.datasets.coco.annotations import AnnotatedImages, ImageFile
from harness.datasets.coco.columns import MOST
from harness.datasets.coco.ids import Id, whole_number
from harness.datasets.coco.oddities import note_uncounted
from harness.datasets.files import Note, read_xml, visible_files
from harness.errors import UsageError
from harness.task import Annotations

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train"),
    "tvmonitor",
)  # VOCinit.m
IMAGE_SETS: dict[str, str] = {"train": "train", "validation": "val", "test": "test"}
"""Name of each split's list in the folders of ImageSets."""
SIDES = ("xmin", "ymin", "xmax", "ymax")

_FLAGS = {"": False, "0": False, "false": False, "1": True, "true": True}


@dataclass(frozen=True)
class VocImage:
    """The objects of an XML file, and the size of its image."""

    names: tuple[str, ...]  # class of each object
    boxes: tuple[list[float], ...]  # continuous corners x1, y1, x2, y2 in px
    difficult: tuple[bool, ...]
    width: int  # px; 0 if unknown, as many tools write it
    height: int

    def annotations(self, classes: Sequence[str]) -> Annotations:
        """Return the objects, whose classes must all be among the given ones."""
        objects = Annotations.of_boxes(self.boxes, [classes.index(name) for name in self.names])
        return replace(objects, difficult=np.array(self.difficult, dtype=bool))


def read_annotations(folder: Path, note: Note) -> AnnotatedImages:
    """Read a folder of VOC XML files. The id of an image is the stem of its file.

    The classes are VOC's twenty if no others are annotated, and the sorted annotated classes otherwise.

    A COCO results file may identify a class by its name or by its position in this order, counted from 1,
    and an image by its stem, its file name, or its number if the stem is a number.
    """
    files = visible_files(folder, ".xml")
    if not files:
        raise UsageError(f"{folder}: expected VOC annotations, found no .xml file; PNG masks need --classes")
    images = {file.stem: read_image_annotations(file) for file in files}
    images = dict(sorted(images.items()))
    names = {name for image in images.values() for name in image.names}
    classes = CLASSES if names <= set(CLASSES) else tuple(sorted(names))
    labels: dict[Id, int] = {label + 1: label for label in range(len(classes))}
    targets: dict[Id, Annotations] = {stem: image.annotations(classes) for stem, image in images.items()}
    paths: dict[Id, ImageFile] = {
        stem: ImageFile(stem, image.width, image.height) for stem, image in images.items()
    }
    note_uncounted(str(folder), [*targets.values()], note)
    return AnnotatedImages(classes, targets, labels, paths)


def read_image_annotations(file: Path) -> VocImage:
    """Read an XML file; one that is malformed or has a bad box is a UsageError.

    `<filename>` is not used: tools write absolute names and those of other machines there.
    """
    root = read_xml(file)
    if root.tag != "annotation":
        raise UsageError(f"{file}: expected a VOC <annotation>, found <{root.tag}>")
    width, height = (whole_number(root.findtext(f"size/{side}", "").strip()) for side in ("width", "height"))
    objects = [
        _parse_object(f"{file}: object[{index}]", element)
        for index, element in enumerate(root.iter("object"))
    ]
    names, boxes, difficult = zip(*objects, strict=True) if objects else ((), (), ())
    return VocImage(names, boxes, difficult, max(width or 0, 0), max(height or 0, 0))


def _parse_object(location: str, element: Element) -> tuple[str, list[float], bool]:
    """Return the class, the box and the flag `difficult` of an object."""
    name = element.findtext("name", "").strip()
    if not name:
        raise UsageError(f"{location}: missing <name>")
    sides = [element.findtext(f"bndbox/{side}") for side in SIDES]
    if None in sides:
        raise UsageError(f"{location}: bndbox: missing <{SIDES[sides.index(None)]}>")
    flag = element.findtext("difficult", "").strip().lower()
    if flag not in _FLAGS:
        raise UsageError(f"{location}: difficult: expected 0 or 1, found {flag!r}")
    texts = [text or "" for text in sides]
    box = parse_box(location, texts)
    if box[2] <= box[0] or box[3] <= box[1]:
        raise UsageError(f"{location}: expected xmin ≤ xmax and ymin ≤ ymax, found {' '.join(texts)}")
    return name, box, _FLAGS[flag]


def parse_box(location: str, texts: Sequence[str]) -> list[float]:
    """Convert the text of inclusive pixels, counted from 1, to continuous corners."""
    x1, y1, x2, y2 = (
        parse_number(f"{location}: {side}", text) for side, text in zip(SIDES, texts, strict=True)
    )
    return [x1 - 1, y1 - 1, x2, y2]


def parse_number(location: str, text: str) -> float:
    """Convert a text to a finite number, or raise a UsageError."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not abs(number) < MOST:  # also NaN
        most = "" if math.isnan(number) else " below 2^53"
        raise UsageError(f"{location}: expected a finite number{most}, found {text.strip()!r}")
    return number
