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
class VocObject:
    """An annotated object."""

    name: str  # name of its class
    box: list[float]  # continuous corners x1, y1, x2, y2 in px
    difficult: bool


@dataclass(frozen=True)
class VocImage:
    """An XML file of an image."""

    objects: tuple[VocObject, ...]
    width: int  # px; 0 if unknown, as many tools write it
    height: int


def read_annotations(folder: Path, note: Note) -> AnnotatedImages:
    """Read a folder of VOC XML files. The id of an image is the stem of its file.

    The classes are VOC's twenty if no others are annotated, and the sorted annotated classes otherwise.

    A COCO results file may identify a class by its name or by its position in this order, counted from 1,
    and an image by its stem, its file name, or its number if the stem is a number.

    Raises:
        UsageError: there is no XML file, or one is malformed or has a bad box.
    """
    files = visible_files(folder, ".xml")
    if not files:
        raise UsageError(f"{folder}: expected VOC annotations, found no .xml file; PNG masks need --classes")
    images: dict[Id, VocImage] = {file.stem: read_image_annotations(file) for file in files}
    names = {voc_object.name for image in images.values() for voc_object in image.objects}
    classes = CLASSES if names <= set(CLASSES) else tuple(sorted(names))
    labels: dict[Id, int] = {label + 1: label for label in range(len(classes))}
    ids = sorted(file.stem for file in files)
    targets: dict[Id, Annotations] = {stem: to_annotations(images[stem].objects, classes) for stem in ids}
    files_by_id: dict[Id, ImageFile] = {
        stem: ImageFile(stem, images[stem].width, images[stem].height) for stem in ids
    }
    note_uncounted(str(folder), [*targets.values()], note)
    return AnnotatedImages(classes, targets, labels, files_by_id)


def to_annotations(objects: Sequence[VocObject], classes: Sequence[str]) -> Annotations:
    """Convert the objects of an image, whose classes must all be known."""
    annotations = Annotations.of_boxes(
        [voc_object.box for voc_object in objects], [classes.index(voc_object.name) for voc_object in objects]
    )
    difficult = np.array([voc_object.difficult for voc_object in objects], dtype=bool)
    return replace(annotations, difficult=difficult)


def read_image_annotations(file: Path) -> VocImage:
    """Read the objects of an XML file in its order, and the size of its image.

    `<filename>` is not used: tools write absolute names and those of other machines there.

    Raises:
        UsageError: the file is malformed, or has a bad box.
    """
    root = read_xml(file)
    if root.tag != "annotation":
        raise UsageError(f"{file}: expected a VOC <annotation>, found <{root.tag}>")
    width, height = (whole_number(root.findtext(f"size/{side}", "").strip()) for side in ("width", "height"))
    objects = [
        _parse_object(f"{file}: object[{index}]", element)
        for index, element in enumerate(root.iter("object"))
    ]
    return VocImage(tuple(objects), max(width or 0, 0), max(height or 0, 0))


def _parse_object(location: str, element: Element) -> VocObject:
    name = element.findtext("name", "").strip()
    if not name:
        raise UsageError(f"{location}: missing <name>")
    sides = [element.findtext(f"bndbox/{side}") for side in SIDES]
    missing = [side for side, text in zip(SIDES, sides, strict=True) if text is None]
    if missing:
        raise UsageError(f"{location}: bndbox: missing <{missing[0]}>")
    flag = element.findtext("difficult", "").strip().lower()
    if flag not in _FLAGS:
        raise UsageError(f"{location}: difficult: expected 0 or 1, found {flag!r}")
    texts = [text or "" for text in sides]
    box = parse_box(location, texts)
    if box[2] <= box[0] or box[3] <= box[1]:
        raise UsageError(f"{location}: expected xmin ≤ xmax and ymin ≤ ymax, found {' '.join(texts)}")
    return VocObject(name, box, _FLAGS[flag])


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
