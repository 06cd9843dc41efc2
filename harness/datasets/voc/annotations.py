"""PASCAL VOC's annotation and submission files (development kit documentation, 2007 and 2012).

VOC counts pixels from 1 and includes both ends; boxes here are continuous. The inclusive box
(xmin, ymin, xmax, ymax) covers (xmin − 1, ymin − 1, xmax, ymax), so that widths are the devkit's
xmax − xmin + 1 and every IoU is the devkit's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from harness.datasets.coco.annotations import AnnotatedImages, Id, split_detections
from harness.datasets.files import check_inside, read_lines
from harness.errors import UsageError
from harness.registry import unknown
from harness.task import Annotations, Detections

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train"),
    "tvmonitor",
)  # VOCinit.m
SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class VocObject:
    """An annotated object."""

    name: str  # of its class
    box: list[float]  # continuous corners
    difficult: bool


def read_annotations(folder: Path) -> AnnotatedImages:
    """Read a folder of VOC XML files; an image's id is its file's stem.

    The classes are VOC's twenty if no other is annotated, else those annotated, sorted. A COCO results
    file may name a class by its name or its place in this order, counted from 1, and an image by its
    stem or, where that is a number, by the number.

    Raises:
        UsageError: no XML file, a malformed one, or one with a wrong box or file name.
    """
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() == ".xml")
    if not files:
        raise UsageError(f"{folder}: expected VOC annotations, found no .xml file")
    objects = {file.stem: read_objects(file) for file in files}
    names = {one.name for found in objects.values() for one in found}
    classes = CLASSES if names <= set(CLASSES) else tuple(sorted(names))
    labels: dict[Id, int] = {name: label for label, name in enumerate(classes)}
    targets: dict[Id, Annotations] = {
        stem: to_annotations(found, classes) for stem, found in sorted(objects.items())
    }
    aliases: dict[Id, Id] = {int(stem): stem for stem in objects if stem.isdecimal()}
    aliases |= {stem: stem for stem in objects}
    labels |= {label + 1: label for label in range(len(classes))}
    return AnnotatedImages(classes, targets, labels, aliases)


def read_submission(path: Path, annotated: AnnotatedImages) -> dict[Id, Detections]:
    """Read the submission form: a file a class, a line a detection.

    A line is `image-id score xmin ymin xmax ymax`; a file is named `CLASS.txt` or
    `comp4_det_test_CLASS.txt`. `path` is one such file or a folder of them; a class without a file has
    no detections.

    Raises:
        UsageError: with file and line.
    """
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    if not files:
        raise UsageError(f"{path}: expected one .txt file a class, found none")
    positions = {identity: position for position, identity in enumerate(annotated.targets)}
    seen: dict[str, Path] = {}
    owners: list[int] = []
    numbers: list[list[float]] = []
    labels: list[int] = []
    for file in files:
        name = _class_of(file, annotated.classes)
        if name in seen:
            raise UsageError(f"{file}: class '{name}' already has the file {seen[name].name}")
        seen[name] = file
        for number, line in enumerate(read_lines(file), start=1):
            fields = line.split()
            if not fields:
                continue
            if len(fields) != 6:
                raise UsageError(
                    f"{file}:{number}: expected image id, score, xmin, ymin, xmax, ymax; "
                    f"found {len(fields)} fields"
                )
            if fields[0] not in positions:
                what = unknown("image id", fields[0], map(str, list(positions)[:1000]))
                raise UsageError(f"{file}:{number}: {what[:300]}")
            owners.append(positions[fields[0]])
            score = _number(f"{file}:{number}: score", fields[1])
            numbers.append([score, *_box(f"{file}:{number}", fields[2:])])
            labels.append(annotated.classes.index(name))
    table = np.array(numbers, dtype=np.float64).reshape(-1, 5)
    return split_detections(
        annotated,
        np.array(owners, dtype=np.int64),
        table[:, 1:],
        table[:, 0],
        np.array(labels, dtype=np.int64),
    )


def to_annotations(objects: Sequence[VocObject], classes: Sequence[str]) -> Annotations:
    """The objects of an image, all of which are of the classes."""
    plain = Annotations.of_boxes([one.box for one in objects], [classes.index(one.name) for one in objects])
    return replace(plain, difficult=np.array([one.difficult for one in objects], dtype=bool))


def read_objects(file: Path) -> list[VocObject]:
    """The objects of one XML file, in its order.

    Raises:
        UsageError: malformed, or a box or file name is wrong.
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
    found = []
    for index, item in enumerate(root.findall("object")):
        where = f"{file}: object[{index}]"
        name = item.findtext("name", "").strip()
        if not name:
            raise UsageError(f"{where}: missing <name>")
        sides = [item.findtext(f"bndbox/{side}") for side in SIDES]
        missing = [side for side, text in zip(SIDES, sides, strict=True) if text is None]
        if missing:
            raise UsageError(f"{where}: bndbox: missing <{missing[0]}>")
        difficult = item.findtext("difficult", "0").strip()
        if difficult not in ("0", "1"):
            raise UsageError(f"{where}: difficult: expected 0 or 1, found {difficult!r}")
        found.append(VocObject(name, _box(where, [text or "" for text in sides]), difficult == "1"))
    return found


def _box(where: str, texts: list[str]) -> list[float]:
    """Inclusive pixels from 1 → continuous corners."""
    x1, y1, x2, y2 = (_number(f"{where}: {side}", text) for side, text in zip(SIDES, texts, strict=True))
    if x2 < x1 or y2 < y1:
        raise UsageError(f"{where}: expected xmin ≤ xmax and ymin ≤ ymax, found {' '.join(texts)}")
    return [x1 - 1, y1 - 1, x2, y2]


def _number(where: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{where}: expected a finite number, found {text.strip()!r}")
    return number


def _class_of(file: Path, classes: tuple[str, ...]) -> str:
    """The longest class name that ends the file's stem, alone or after an underscore."""
    fitting = [name for name in classes if file.stem == name or file.stem.endswith(f"_{name}")]
    if not fitting:
        raise UsageError(f"{file}: {unknown('class', file.stem.rpartition('_')[2], classes)}")
    return max(fitting, key=len)
