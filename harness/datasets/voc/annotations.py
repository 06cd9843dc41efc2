"""PASCAL VOC's annotation and submission files (development kit documentation, 2007 and 2012).

VOC counts pixels from 1 and includes both ends; boxes here are continuous. The inclusive box
(xmin, ymin, xmax, ymax) covers (xmin − 1, ymin − 1, xmax, ymax), so that widths are the devkit's
xmax − xmin + 1 and each IoU equals the devkit's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from harness.datasets.coco.annotations import AnnotatedImages, split_by_image
from harness.datasets.coco.columns import Id, shorten
from harness.datasets.files import check_inside, read_lines
from harness.errors import UsageError
from harness.registry import unknown
from harness.task import Annotations, Detections

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train"),
    "tvmonitor",
)  # VOCinit.m
IMAGE_SETS: dict[str, str] = {"train": "train", "validation": "val", "test": "test"}
"""Name of each split's list in the folders of ImageSets."""
SIDES = ("xmin", "ymin", "xmax", "ymax")

_MAX_KNOWN_IDS = 1000  # in the message about an unknown id


@dataclass(frozen=True)
class VocObject:
    """An annotated object."""

    name: str  # name of its class
    box: list[float]  # continuous corners x1, y1, x2, y2 in px
    difficult: bool


def read_annotations(folder: Path) -> AnnotatedImages:
    """Read a folder of VOC XML files. The id of an image is the stem of its file.

    The classes are VOC's twenty if no others are annotated, and the sorted annotated classes otherwise.

    A COCO results file may identify a class by its name or by its position in this order, counted from 1,
    and an image by its stem, or by its number if the stem is a number.

    Raises:
        UsageError: there is no XML file, or one is malformed or has a bad box or file name.
    """
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() == ".xml")
    if not files:
        raise UsageError(f"{folder}: expected VOC annotations, found no .xml file")
    objects = {file.stem: read_objects(file) for file in files}
    names = {voc_object.name for image_objects in objects.values() for voc_object in image_objects}
    classes = CLASSES if names <= set(CLASSES) else tuple(sorted(names))
    labels: dict[Id, int] = {name: label for label, name in enumerate(classes)}
    targets: dict[Id, Annotations] = {
        stem: to_annotations(image_objects, classes) for stem, image_objects in sorted(objects.items())
    }
    aliases: dict[Id, Id] = {int(stem): stem for stem in objects if stem.isdecimal()}
    aliases |= {stem: stem for stem in objects}
    labels |= {label + 1: label for label in range(len(classes))}
    return AnnotatedImages(classes, targets, labels, aliases)


def read_submission(path: Path, annotated: AnnotatedImages) -> dict[Id, Detections]:
    """Read VOC's submission format: one file per class with one detection per line.

    A line is `image-id score xmin ymin xmax ymax`. A file is named `CLASS.txt` or
    `comp4_det_test_CLASS.txt`. A class without a file has no detections.

    Args:
        path: such a file, or a folder of them.

    Raises:
        UsageError: a file or line is malformed, or names an unknown class or image.
    """
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    if not files:
        raise UsageError(f"{path}: expected one .txt file per class, found none")
    positions = {image_id: position for position, image_id in enumerate(annotated.targets)}
    file_of_class: dict[str, Path] = {}
    owners: list[int] = []
    rows: list[list[float]] = []  # score, x1, y1, x2, y2
    labels: list[int] = []
    for file in files:
        name = _class_of(file, annotated.classes)
        if name in file_of_class:
            raise UsageError(f"{file}: class '{name}' already has the file {file_of_class[name].name}")
        file_of_class[name] = file
        for number, line in enumerate(read_lines(file), start=1):
            if line.strip():
                image_id, row = _parse_detection(f"{file}:{number}", line)
                if image_id not in positions:
                    known = map(str, list(positions)[:_MAX_KNOWN_IDS])
                    raise UsageError(f"{file}:{number}: {shorten(unknown('image id', image_id, known))}")
                owners.append(positions[image_id])
                rows.append(row)
                labels.append(annotated.classes.index(name))
    table = np.array(rows, dtype=np.float64).reshape(-1, 5)
    return split_by_image(
        annotated,
        np.array(owners, dtype=np.int64),
        boxes=table[:, 1:],
        scores=table[:, 0],
        labels=np.array(labels, dtype=np.int64),
    )


def _parse_detection(location: str, line: str) -> tuple[str, list[float]]:
    """Return image id and [score, x1, y1, x2, y2] of a line."""
    fields = line.split()
    if len(fields) != 6:
        raise UsageError(
            f"{location}: expected image id, score, xmin, ymin, xmax, ymax; found {len(fields)} fields"
        )
    return fields[0], [_parse_number(f"{location}: score", fields[1]), *_parse_box(location, fields[2:])]


def to_annotations(objects: Sequence[VocObject], classes: Sequence[str]) -> Annotations:
    """Convert the objects of an image, whose classes must all be known."""
    annotations = Annotations.of_boxes(
        [voc_object.box for voc_object in objects],
        [classes.index(voc_object.name) for voc_object in objects],
    )
    difficult = np.array([voc_object.difficult for voc_object in objects], dtype=bool)
    return replace(annotations, difficult=difficult)


def read_objects(file: Path) -> list[VocObject]:
    """Read the objects of an XML file, in its order.

    Raises:
        UsageError: the file is malformed, or has a bad box or file name.
    """
    try:
        root = ElementTree.parse(file).getroot()
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror}") from error
    except ElementTree.ParseError as error:
        raise UsageError(f"{file}:{error.position[0]}: malformed XML: {error}") from error
    if root.tag != "annotation":
        raise UsageError(f"{file}: expected a VOC <annotation>, found <{root.tag}>")
    check_inside(f"{file}: filename", root.findtext("filename", ""))
    return [
        _parse_object(f"{file}: object[{index}]", element)
        for index, element in enumerate(root.findall("object"))
    ]


def _parse_object(location: str, element: ElementTree.Element) -> VocObject:
    name = element.findtext("name", "").strip()
    if not name:
        raise UsageError(f"{location}: missing <name>")
    sides = [element.findtext(f"bndbox/{side}") for side in SIDES]
    missing = [side for side, text in zip(SIDES, sides, strict=True) if text is None]
    if missing:
        raise UsageError(f"{location}: bndbox: missing <{missing[0]}>")
    difficult = element.findtext("difficult", "0").strip()
    if difficult not in ("0", "1"):
        raise UsageError(f"{location}: difficult: expected 0 or 1, found {difficult!r}")
    return VocObject(name, _parse_box(location, [text or "" for text in sides]), difficult == "1")


def _parse_box(location: str, texts: Sequence[str]) -> list[float]:
    """Convert inclusive pixels counted from 1 to continuous corners."""
    x1, y1, x2, y2 = (
        _parse_number(f"{location}: {side}", text) for side, text in zip(SIDES, texts, strict=True)
    )
    if x2 < x1 or y2 < y1:
        raise UsageError(f"{location}: expected xmin ≤ xmax and ymin ≤ ymax, found {' '.join(texts)}")
    return [x1 - 1, y1 - 1, x2, y2]


def _parse_number(location: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{location}: expected a finite number, found {text.strip()!r}")
    return number


def _class_of(file: Path, classes: Sequence[str]) -> str:
    """Return the longest class name that ends the file's stem, alone or after an underscore."""
    candidates = [name for name in classes if file.stem == name or file.stem.endswith(f"_{name}")]
    if not candidates:
        raise UsageError(f"{file}: {unknown('class', file.stem.rpartition('_')[2], classes)}")
    return max(candidates, key=len)
