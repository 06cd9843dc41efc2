"""COCO's annotation and results files (https://cocodataset.org/#format-data), checked entry by entry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from harness.datasets.coco import columns
from harness.datasets.coco.columns import Id
from harness.datasets.coco.segmentation import box_and_area
from harness.datasets.files import JsonObject, check_inside, read_json
from harness.errors import UsageError
from harness.task import Annotations, Detections


@dataclass(frozen=True)
class ImageFile:
    """The file of an image as an annotation file describes it."""

    path: str  # relative
    width: int  # px
    height: int  # px


@dataclass(frozen=True, eq=False)
class AnnotatedImages:
    """The annotations of a data set, and the names that prediction files use for its images and classes."""

    classes: tuple[str, ...]
    targets: Mapping[Id, Annotations]  # by image id, in ascending order
    labels: Mapping[Id, int]  # category id → index in classes
    aliases: Mapping[Id, Id]  # image id in prediction files → key of targets
    files: Mapping[Id, ImageFile] = field(default_factory=dict)  # by image id; empty unless requested


def read_annotations(path: Path, *, with_files: bool = False) -> AnnotatedImages:
    """Read COCO instance annotations: boxes, areas, and the flags `iscrowd` and `ignore` (0 if absent).

    The box and area of an annotation without `bbox` or `area` are computed from its `segmentation`.

    Args:
        with_files: require file name, width and height of each image, and return them.

    Raises:
        UsageError: a key is missing or has a wrong type, an id is duplicate or unknown, a box has a negative
            side, or a `file_name` leaves the annotation root. With `with_files` also: a box is completely
            outside its image, or two images have the same `file_name`.
    """
    categories, images, entries = _read_sections(path, with_files)
    names = _category_names(path, categories)
    image_ids = _image_ids(path, images)
    columns.read_unique_ids(f"{path}: annotations", [entry for entry in entries if "id" in entry])
    images_by_id = dict(zip(image_ids, images, strict=True))

    ordered_ids = sorted(image_ids)
    positions = {image_id: position for position, image_id in enumerate(ordered_ids)}
    labels = {category_id: label for label, category_id in enumerate(names)}
    location = f"{path}: annotations"
    owners = columns.read_indices(location, "image_id", positions, [entry["image_id"] for entry in entries])
    entries = [
        _with_box_and_area(f"{location}[{index}]", entry, images_by_id[ordered_ids[owner]])
        for index, (entry, owner) in enumerate(zip(entries, owners, strict=True))
    ]
    objects = _read_objects(location, entries, labels)
    files = {}
    if with_files:
        files = dict(zip(image_ids, _image_files(path, images), strict=True))
        _check_boxes_inside(location, entries, objects.boxes, [files[ordered_ids[owner]] for owner in owners])
    rows_by_image = zip(ordered_ids, group_rows(owners, len(ordered_ids)), strict=True)
    return AnnotatedImages(
        classes=tuple(names.values()),
        targets={image_id: _select(objects, rows) for image_id, rows in rows_by_image},
        labels=labels,
        aliases={image_id: image_id for image_id in ordered_ids},
        files=files,
    )


def read_results(path: Path, annotated: AnnotatedImages) -> dict[Id, Detections]:
    """Read a COCO results file: a list of {image_id, category_id, bbox [x, y, w, h], score}.

    Returns:
        The detections of each annotated image, in float64 and in the order of the file.

    Raises:
        UsageError: an entry is malformed, or names an image or category that is not annotated.
    """
    document = read_json(path)
    if not isinstance(document, list):
        raise UsageError(f"{path}: expected a list of detections, found a {type(document).__name__}")
    location = str(path)
    entries = columns.read_objects(location, document, ("image_id", "category_id", "bbox", "score"))
    positions = {image_id: position for position, image_id in enumerate(annotated.targets)}
    known = {alias: positions[image_id] for alias, image_id in annotated.aliases.items()}
    return split_by_image(
        annotated,
        columns.read_indices(location, "image_id", known, [entry["image_id"] for entry in entries]),
        boxes=columns.read_boxes(location, [entry["bbox"] for entry in entries]),
        scores=columns.read_numbers(location, "score", [entry["score"] for entry in entries]),
        labels=columns.read_indices(
            location, "category_id", annotated.labels, [entry["category_id"] for entry in entries]
        ),
    )


def split_by_image(
    annotated: AnnotatedImages,
    owners: NDArray[np.int64],
    *,
    boxes: NDArray[np.float64],
    scores: NDArray[np.float64],
    labels: NDArray[np.int64],
) -> dict[Id, Detections]:
    """Group the detections of a whole file by image, and keep their order.

    Args:
        owners: [n], the position of each detection's image in `annotated.targets`.
        boxes: [n, 4], corners in px.
        scores: [n], of any range.
        labels: [n]
    """
    return {
        # Keep the precision of the file: float32, the precision of a model, would change areas and ties.
        image_id: Detections(boxes[rows], scores[rows], labels[rows])  # type: ignore[arg-type]
        for image_id, rows in zip(annotated.targets, group_rows(owners, len(annotated.targets)), strict=True)
    }


def group_rows(owners: NDArray[np.int64], count: int) -> list[NDArray[np.int64]]:
    """Return the indices of the rows of each owner 0 … count − 1, in ascending order."""
    order = np.argsort(owners, kind="stable")
    return np.split(order, np.searchsorted(owners[order], np.arange(1, count)))


def _read_sections(
    path: Path, with_files: bool
) -> tuple[list[JsonObject], list[JsonObject], list[JsonObject]]:
    """Return categories, images and annotations, each with its required keys."""
    document = read_json(path)
    if not isinstance(document, dict):
        raise UsageError(
            f"{path}: expected an object with images, annotations and categories, "
            f"found a {type(document).__name__}"
        )
    location = str(path)
    file_keys = ("file_name", "width", "height") if with_files else ()
    categories = columns.read_section(location, document, "categories", ("id", "name"))
    images = columns.read_section(location, document, "images", ("id", *file_keys))
    entries = columns.read_section(location, document, "annotations", ("image_id", "category_id"))
    if not categories or not images:
        raise UsageError(f"{path}: expected at least one category and one image")
    return categories, images, entries


def _category_names(path: Path, categories: Sequence[JsonObject]) -> dict[Id, str]:
    """Return category id → name, in ascending order of id."""
    ids = columns.read_unique_ids(f"{path}: categories", categories)
    names = {
        category_id: str(category["name"]) for category_id, category in zip(ids, categories, strict=True)
    }
    if len(set(names.values())) < len(names):
        raise UsageError(f"{path}: categories: two have the same name")
    return {category_id: names[category_id] for category_id in sorted(ids)}


def _image_ids(path: Path, images: Sequence[JsonObject]) -> list[Id]:
    """Return the ids in the order of the entries; check that no `file_name` leaves the annotation root."""
    ids = columns.read_unique_ids(f"{path}: images", images)
    for index, image in enumerate(images):
        check_inside(f"{path}: images[{index}]: file_name", image.get("file_name", ""))
    return ids


def _read_objects(location: str, entries: Sequence[JsonObject], labels: Mapping[Id, int]) -> Annotations:
    """Return the objects of all images, in the order of the file."""
    return Annotations(
        boxes=columns.read_boxes(location, [entry["bbox"] for entry in entries]),
        labels=columns.read_indices(
            location, "category_id", labels, [entry["category_id"] for entry in entries]
        ),
        areas=columns.read_non_negative(location, "area", [entry["area"] for entry in entries]),
        crowd=columns.read_flags(location, "iscrowd", entries),
        difficult=columns.read_flags(location, "ignore", entries),
    )


def _select(objects: Annotations, rows: NDArray[np.int64]) -> Annotations:
    return Annotations(
        objects.boxes[rows],
        objects.labels[rows],
        objects.areas[rows],
        objects.crowd[rows],
        objects.difficult[rows],
    )


def _with_box_and_area(location: str, entry: JsonObject, image: JsonObject) -> JsonObject:
    """Compute the box and area of an annotation from its segmentation if one of them is missing."""
    missing = [key for key in ("bbox", "area") if key not in entry]
    if not missing:
        return entry
    if not entry.get("segmentation"):
        raise UsageError(f"{location}: missing key '{missing[0]}', and no segmentation to compute it from")
    box, area = box_and_area(
        f"{location}: segmentation", entry["segmentation"], image.get("height"), image.get("width")
    )
    return {"bbox": list(box), "area": area, **entry}


def _image_files(path: Path, images: Sequence[JsonObject]) -> list[ImageFile]:
    """Return the file of each image, in the order of the entries."""
    index_by_name: dict[str, int] = {}
    files = []
    for index, image in enumerate(images):
        location = f"{path}: images[{index}]"
        name = str(image["file_name"])
        file = ImageFile(name, *(_pixels(location, key, image[key]) for key in ("width", "height")))
        first = index_by_name.setdefault(name, index)
        if first != index:
            raise UsageError(f"{location}: file_name: {name!r} is also that of images[{first}]")
        files.append(file)
    return files


def _pixels(location: str, key: str, value: JsonValue) -> int:
    if type(value) is not int or value < 1:
        raise UsageError(f"{location}: {key}: expected a number of px, found {value!r}")
    return value


def _check_boxes_inside(
    location: str, entries: Sequence[JsonObject], boxes: NDArray[np.float64], files: Sequence[ImageFile]
) -> None:
    """Check that no box is completely outside its image; an empty box may lie on the edge.

    COCO has boxes that extend beyond the edge.

    Args:
        boxes: [n, 4], corners in px.
        files: [n], of the image of each box.
    """
    sizes = np.array([(file.width, file.height) for file in files]).reshape(-1, 2)
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
            f"{location}[{index}]: bbox: {entries[index]['bbox']} is outside its image of "
            f"{files[index].width}×{files[index].height} px"
        )
