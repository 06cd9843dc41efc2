"""COCO's annotation and results files (https://cocodataset.org/#format-data), checked entry by entry."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from harness.datasets.coco.shapes import box_and_area
from harness.datasets.files import check_inside, read_json
from harness.errors import UsageError
from harness.registry import unknown
from harness.task import Annotations, Detections

Id: TypeAlias = int | str


@dataclass(frozen=True)
class ImageEntry:
    """What an annotation file says of an image's own file."""

    file: str  # relative path
    width: int  # px
    height: int  # px


@dataclass(frozen=True, eq=False)
class AnnotatedImages:
    """The annotations of a data set, and how prediction files name its images and classes."""

    classes: tuple[str, ...]
    targets: Mapping[Id, Annotations]  # in ascending order of image id
    labels: Mapping[Id, int]  # category id → index into classes
    aliases: Mapping[Id, Id]  # image id as written in predictions → key of targets
    images: Mapping[Id, ImageEntry] = field(default_factory=dict)  # where they were asked for


def read_annotations(path: Path, *, with_images: bool = False) -> AnnotatedImages:
    """Read COCO instance annotations: boxes, areas, `iscrowd` and `ignore` (both 0 where absent).

    An annotation without `bbox` or `area` has those of its `segmentation`.

    Args:
        with_images: every image is to have its file's name and size.

    Raises:
        UsageError: a key is missing or of a wrong type, an id is duplicate or unknown, a box is reversed or
            wholly outside its image, or a `file_name` leaves the annotation's root or is another image's.
    """
    document = read_json(path)
    if not isinstance(document, dict):
        raise UsageError(
            f"{path}: expected an object with images, annotations and categories, "
            f"found a {type(document).__name__}"
        )
    categories = _section(path, document, "categories", ("id", "name"))
    of_file = ("file_name", "width", "height") if with_images else ()
    images = _section(path, document, "images", ("id", *of_file))
    entries = _section(path, document, "annotations", ("image_id", "category_id"))
    if not categories or not images:
        raise UsageError(f"{path}: expected at least one category and one image")

    category_ids = _unique_ids(path, "categories", categories)
    names = {category["id"]: category["name"] for category in categories}
    classes = tuple(str(names[identity]) for identity in category_ids)
    if len(set(classes)) < len(classes):
        raise UsageError(f"{path}: categories: two have the same name")
    image_ids = _unique_ids(path, "images", images)
    for index, image in enumerate(images):
        check_inside(f"{path}: images[{index}]: file_name", image.get("file_name", ""))
    _unique_ids(path, "annotations", [entry for entry in entries if "id" in entry])

    place = f"{path}: annotations"
    labels = {identity: label for label, identity in enumerate(category_ids)}
    positions = {identity: position for position, identity in enumerate(image_ids)}
    owners = lookup(place, "image_id", positions, [entry["image_id"] for entry in entries])
    by_id = {image["id"]: image for image in images}
    entries = [_completed(f"{place}[{index}]", entry, by_id) for index, entry in enumerate(entries)]
    objects = _objects(place, entries, labels)
    targets = {
        identity: Annotations(**{name: values[own] for name, values in vars(objects).items()})
        for identity, own in zip(image_ids, groups(owners, len(image_ids)), strict=True)
    }
    found = AnnotatedImages(classes, targets, labels, {identity: identity for identity in image_ids})
    if not with_images:
        return found
    known = _image_entries(path, images)
    _check_places(place, entries, objects.boxes, known)
    return replace(found, images=known)


def _objects(place: str, entries: Sequence[dict[str, Any]], labels: Mapping[Id, int]) -> Annotations:
    """Those of all images, in the order of the file."""
    return Annotations(
        boxes=read_boxes(place, [entry["bbox"] for entry in entries]),
        labels=lookup(place, "category_id", labels, [entry["category_id"] for entry in entries]),
        areas=read_numbers(place, "area", [entry["area"] for entry in entries]),
        crowd=_flags(place, "iscrowd", entries),
        difficult=_flags(place, "ignore", entries),
    )


def read_results(path: Path, annotated: AnnotatedImages) -> dict[Id, Detections]:
    """Read a COCO results file: a list of {image_id, category_id, bbox [x, y, w, h], score}.

    Returns:
        Detections of every annotated image, in float64, in the order of the file.

    Raises:
        UsageError: an entry is malformed, or names an image or category that is not annotated.
    """
    entries = read_json(path)
    if not isinstance(entries, list):
        raise UsageError(f"{path}: expected a list of detections, found a {type(entries).__name__}")
    place = str(path)
    _check_keys(place, entries, ("image_id", "category_id", "bbox", "score"))
    positions = {identity: position for position, identity in enumerate(annotated.targets)}
    known = {alias: positions[identity] for alias, identity in annotated.aliases.items()}
    owners = lookup(place, "image_id", known, [entry["image_id"] for entry in entries])
    labels = lookup(place, "category_id", annotated.labels, [entry["category_id"] for entry in entries])
    boxes = read_boxes(place, [entry["bbox"] for entry in entries])
    scores = _finite(place, "score", [entry["score"] for entry in entries], per_entry=1)  # logits, too
    return split_detections(annotated, owners, boxes, scores, labels)


def split_detections(
    annotated: AnnotatedImages,
    owners: NDArray[np.int64],
    boxes: NDArray[np.float64],
    scores: NDArray[np.float64],
    labels: NDArray[np.int64],
) -> dict[Id, Detections]:
    """Rows of a whole file → detections by image, in the file's order; `owners` are image positions."""
    return {
        # As precise as the file: float32, a model's precision, would move areas and ties.
        identity: Detections(boxes[own], scores[own], labels[own])  # type: ignore[arg-type]
        for identity, own in zip(annotated.targets, groups(owners, len(annotated.targets)), strict=True)
    }


def groups(owners: NDArray[np.int64], count: int) -> list[NDArray[np.int64]]:
    """For each owner 0 … count − 1, the indices of its rows, ascending."""
    order = np.argsort(owners, kind="stable")
    return np.split(order, np.searchsorted(owners[order], np.arange(1, count)))


def lookup(place: str, key: str, known: Mapping[Id, int], values: Sequence[Any]) -> NDArray[np.int64]:
    """Translate ids to indices; UsageError naming the first entry whose id is unknown."""
    found = [known.get(value) if type(value) in (int, str) else None for value in values]
    if None in found:
        index = found.index(None)
        what = unknown(key, str(values[index]), [str(identity) for identity in known][:1000])
        raise UsageError(f"{place}[{index}]: {_shortened(what)}")
    return np.array(found, dtype=np.int64)


def read_boxes(place: str, values: Sequence[Any]) -> NDArray[np.float64]:
    """Boxes [x, y, w, h] → continuous corners [n, 4]; sides may be 0, not negative."""
    for index, value in enumerate(values):
        if type(value) is not list or len(value) != 4:
            raise UsageError(f"{place}[{index}]: bbox: expected [x, y, width, height], found {value!r}")
    numbers = _finite(place, "bbox", list(chain.from_iterable(values)), per_entry=4).reshape(-1, 4)
    reversed_ = np.flatnonzero((numbers[:, 2:] < 0).any(axis=1))
    if len(reversed_):
        index = int(reversed_[0])
        raise UsageError(
            f"{place}[{index}]: bbox: expected a width and height of at least 0, found {values[index]}"
        )
    return np.concatenate([numbers[:, :2], numbers[:, :2] + numbers[:, 2:]], axis=1)


def read_numbers(place: str, key: str, values: Sequence[Any]) -> NDArray[np.float64]:
    """Finite numbers of at least 0: [n]."""
    numbers = _finite(place, key, values, per_entry=1)
    negative = np.flatnonzero(numbers < 0)
    if len(negative):
        index = int(negative[0])
        raise UsageError(f"{place}[{index}]: {key}: expected at least 0, found {values[index]}")
    return numbers


def _finite(place: str, key: str, values: Sequence[Any], per_entry: int) -> NDArray[np.float64]:
    index = -1
    if not set(map(type, values)) <= {int, float}:
        index = next(at for at, value in enumerate(values) if type(value) not in (int, float))
    else:
        try:
            numbers = np.array(values, dtype=np.float64)
        except OverflowError:  # an integer beyond a double's range
            limit = sys.float_info.max
            numbers = np.array([value if abs(value) <= limit else np.inf for value in values])
        strange = np.flatnonzero(~np.isfinite(numbers))
        if not len(strange):
            return numbers
        index = int(strange[0])
    raise UsageError(
        f"{place}[{index // per_entry}]: {key}: expected a finite number, found {str(values[index])[:40]!r}"
    )


def _completed(where: str, entry: dict[str, Any], images: Mapping[Id, dict[str, Any]]) -> dict[str, Any]:
    """An annotation with box and area, from its shape where they are not given."""
    missing = [key for key in ("bbox", "area") if key not in entry]
    if not missing:
        return entry
    if not entry.get("segmentation"):
        raise UsageError(f"{where}: missing key '{missing[0]}', and no segmentation to take it from")
    image = images[entry["image_id"]]
    shape = f"{where}: segmentation", entry["segmentation"]
    box, area = box_and_area(*shape, image.get("height"), image.get("width"))
    return {"bbox": box, "area": area, **entry}


def _image_entries(path: Path, images: Sequence[dict[str, Any]]) -> dict[Id, ImageEntry]:
    first: dict[str, int] = {}
    for index, image in enumerate(images):
        where, name = f"{path}: images[{index}]", image["file_name"]
        for key in ("width", "height"):
            if type(image[key]) is not int or image[key] < 1:
                raise UsageError(f"{where}: {key}: expected a number of px, found {image[key]!r}")
        if first.setdefault(name, index) != index:
            raise UsageError(f"{where}: file_name: {name!r} is that of images[{first[name]}], too")
    return {image["id"]: ImageEntry(image["file_name"], image["width"], image["height"]) for image in images}


def _check_places(
    place: str,
    entries: Sequence[dict[str, Any]],
    boxes: NDArray[np.float64],
    images: Mapping[Id, ImageEntry],
) -> None:
    """Refuse boxes wholly outside their images; COCO has some over the edge, and empty ones may lie on it."""
    owners = [images[entry["image_id"]] for entry in entries]
    sizes = np.array([(owner.width, owner.height) for owner in owners]).reshape(-1, 2)
    outside = np.flatnonzero(
        np.where(
            boxes[:, :2] < boxes[:, 2:],
            (boxes[:, :2] >= sizes) | (boxes[:, 2:] <= 0),
            (boxes[:, :2] > sizes) | (boxes[:, 2:] < 0),
        ).any(axis=1)
    )
    if len(outside):
        index = int(outside[0])
        raise UsageError(
            f"{place}[{index}]: bbox: {entries[index]['bbox']} is outside its image of "
            f"{owners[index].width}×{owners[index].height} px"
        )


def _flags(place: str, key: str, entries: Sequence[dict[str, Any]]) -> NDArray[np.bool_]:
    values = [entry.get(key, 0) for entry in entries]
    for index, value in enumerate(values):
        if value not in (0, 1):
            raise UsageError(f"{place}[{index}]: {key}: expected 0 or 1, found {value!r}")
    return np.array(values, dtype=bool)


def _section(path: Path, document: dict[str, Any], name: str, keys: Sequence[str]) -> list[dict[str, Any]]:
    """A list of objects of the document, each of which has the keys."""
    if name not in document:
        raise UsageError(f"{path}: missing key '{name}' (found: {', '.join(document) or 'none'})")
    entries = document[name]
    if not isinstance(entries, list):
        raise UsageError(f"{path}: {name}: expected a list, found a {type(entries).__name__}")
    _check_keys(f"{path}: {name}", entries, keys)
    return entries


def _check_keys(place: str, entries: Sequence[Any], keys: Sequence[str]) -> None:
    for index, entry in enumerate(entries):
        if type(entry) is not dict:
            raise UsageError(f"{place}[{index}]: expected an object, found a {type(entry).__name__}")
        for key in keys:
            if key not in entry:
                raise UsageError(f"{place}[{index}]: missing key '{key}'")


def _unique_ids(path: Path, name: str, entries: Sequence[dict[str, Any]]) -> list[Any]:
    """The ids of the entries, ascending: all integers or all text."""
    ids = [entry["id"] for entry in entries]
    if len({type(identity) for identity in ids}) > 1 or not all(type(i) in (int, str) for i in ids[:1]):
        raise UsageError(f"{path}: {name}: id: expected only integers or only text")
    ordered = sorted(ids)
    for one, other in pairwise(ordered):
        if one == other:
            raise UsageError(f"{path}: {name}: duplicate id {one!r}")
    return ordered


def _shortened(message: str) -> str:
    """Thousands of image ids are no help."""
    return message if len(message) <= 300 else f"{message[:300]}…)"
