"""COCO's annotation files (https://cocodataset.org/#format-data), checked entry by entry."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from harness.datasets.coco import columns
from harness.datasets.coco.ids import Id, find_positions, leave_out_unknown, read_unique_ids, whole_number
from harness.datasets.coco.oddities import note_box_form, note_uncounted
from harness.datasets.coco.segmentation import read_masks
from harness.datasets.files import JsonObject, Note, check_inside, describe_json, read_json
from harness.errors import UsageError
from harness.task import Annotations, InstanceMasks


@dataclass(frozen=True)
class ImageFile:
    """The file of an image as an annotation file describes it."""

    path: str  # relative; empty if unknown
    width: int  # px; 0 if unknown
    height: int  # px; 0 if unknown

    def masks(self, counts: NDArray[np.object_]) -> InstanceMasks:
        """Return masks of this image from their run lengths."""
        return InstanceMasks((self.height, self.width), tuple(counts))


@dataclass(frozen=True, eq=False)
class AnnotatedImages:
    """The annotations of a data set, and the names that prediction files use for its images and classes."""

    classes: tuple[str, ...]
    targets: Mapping[Id, Annotations]  # by image id, in ascending order
    labels: Mapping[Id, int]  # category id → index in classes
    files: Mapping[Id, ImageFile]
    """Image files by image id: those of `targets` in their order, then those that an image set excludes."""
    with_masks: bool = False
    """The targets have masks, and so must detections."""

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Return width and height of each file in px, 0 if unknown: [files, 2]."""
        return _sizes(self.files)


def _sizes(files: Mapping[Id, ImageFile]) -> NDArray[np.int64]:
    return np.array([(file.width, file.height) for file in files.values()], dtype=np.int64)


def read_annotations(
    path: Path, note: Note, *, with_files: bool = False, with_masks: bool = False
) -> AnnotatedImages:
    """Read COCO instance annotations: boxes, areas, and the flags `iscrowd` and `ignore` (0 if absent).

    A missing box or area is computed from the `segmentation`; without one, the area is that of the box.
    Annotations of images and categories that the file does not list are left out, as in pycocotools.

    Args:
        with_files: require file name, width and height of each image, and boxes inside their images.
        with_masks: read the masks of the objects; require their `segmentation`, and width and height of each
            image.

    Raises:
        UsageError: an entry is malformed, an id is duplicate, or a box has a negative side.
    """
    categories, files, entries = _read_sections(path, with_files, with_masks)
    location = f"{path}: annotations"
    owners = _positions(location, "image_id", entries, files, note)
    kinds = _positions(location, "category_id", entries, categories, note)
    kept = (owners >= 0) & (kinds >= 0)
    uses = np.bincount(kinds[kept], minlength=len(categories))
    names, label_of_kind = _read_classes(path, categories, uses, note)
    sizes = _sizes(files)[owners]
    objects, counts = _read_objects(location, entries, kept, sizes, note, with_masks)
    objects = replace(objects, labels=label_of_kind[kinds])
    note_uncounted(location, [_select(objects, kept)], note)
    note_box_form(location, "boxes", objects.boxes[kept], sizes[kept], note)
    if with_files:
        _check_boxes_inside(location, entries, kept, objects.boxes, sizes)
    targets = {
        image_id: replace(
            _select(objects, rows), masks=files[image_id].masks(counts[rows]) if with_masks else None
        )
        for image_id, rows in zip(files, group_rows(np.where(kept, owners, -1), len(files)), strict=True)
    }
    label_of_id = dict(zip(categories, label_of_kind.tolist(), strict=True))
    labels = {category_id: label for category_id, label in label_of_id.items() if label >= 0}
    return AnnotatedImages(names, targets, labels, files, with_masks)


def group_rows(owners: NDArray[np.int64], count: int) -> list[NDArray[np.int64]]:
    """Return the indices of the rows of each owner 0 … count − 1, in ascending order; −1 is no owner."""
    order = np.argsort(owners, kind="stable")
    return np.split(order, np.searchsorted(owners[order], np.arange(count + 1)))[1:-1]


def _read_sections(
    path: Path, with_files: bool, with_masks: bool
) -> tuple[dict[Id, JsonObject], dict[Id, ImageFile], list[JsonObject]]:
    """Return categories by id, the files of images in ascending order of id, and annotations."""
    document = read_json(path)
    if not isinstance(document, dict):
        raise UsageError(
            f"{path}: expected an object with images, annotations and categories, "
            f"found {describe_json(document)}"
        )
    location = str(path)
    file_keys = ("file_name",) * with_files + ("width", "height") * (with_files or with_masks)
    categories = columns.read_section(location, document, "categories", ("id", "name"))
    images = columns.read_section(location, document, "images", ("id", *file_keys))
    entries = columns.read_section(location, document, "annotations", ("image_id", "category_id"))
    if not categories or not images:
        raise UsageError(f"{path}: expected at least one category and one image")
    category_ids = read_unique_ids(f"{path}: categories", categories)
    image_ids = read_unique_ids(f"{path}: images", images)
    files = dict(zip(image_ids, _image_files(path, images, file_keys), strict=True))
    ids = [str(entry["id"]) for entry in entries if entry.get("id") is not None]  # of no other use
    if len(set(ids)) < len(ids):
        raise UsageError(f"{path}: annotations: duplicate id {Counter(ids).most_common(1)[0][0]}")
    return (
        dict(zip(category_ids, categories, strict=True)),
        {image_id: files[image_id] for image_id in sorted(image_ids)},
        entries,
    )


def _read_classes(
    path: Path, categories: Mapping[Id, JsonObject], uses: NDArray[np.int64], note: Note
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the class names in ascending order of category id, and the label of each category or −1.

    A category without annotations is left out if another has its name, or if it is the root that Roboflow
    writes: id 0, without a supercategory, and the supercategory of others.

    `categories` are in the order of the file, and `uses` [categories] are their numbers of annotations. Two
    with annotations that have the same name are a UsageError.
    """
    ids, entries = [*categories], [*categories.values()]
    order = sorted(range(len(ids)), key=lambda kind: ids[kind])
    namesakes: defaultdict[str, list[int]] = defaultdict(list)
    for kind in order:
        namesakes[str(entries[kind]["name"])].append(kind)
    parents = {str(entry.get("supercategory")) for entry in entries}
    label_of_kind = np.full(len(ids), -1, dtype=np.int64)
    names: list[str] = []
    for kind in order:
        name = str(entries[kind]["name"])
        used = [other for other in namesakes[name] if uses[other]]
        if len(used) > 1:
            raise UsageError(
                f"{path}: categories: {ids[used[0]]} and {ids[used[1]]} have the same name '{name}', and "
                f"both have annotations; rename or merge them"
            )
        is_root = ids[kind] == 0 and entries[kind].get("supercategory") == "none" and name in parents
        if kind != (used or namesakes[name])[-1] or (is_root and not used):
            reason = "is the supercategory of others" if is_root else "shares its name with another"
            note(f"{path}: category {ids[kind]} '{name}' has no annotation, {reason}, and is left out")
            continue
        label_of_kind[kind] = len(names)
        names.append(name)
    return tuple(names), label_of_kind


def _positions(
    location: str, key: str, entries: Sequence[JsonObject], ids: Iterable[Id], note: Note
) -> NDArray[np.int64]:
    """Return the index of each annotation's image or category among the listed ids, or −1."""
    known = {known_id: position for position, known_id in enumerate(ids)}
    values = [entry[key] for entry in entries]
    positions = find_positions(location, key, known, values)
    leave_out_unknown(location, "annotations", key, values, positions, known, note)
    return positions


def _read_objects(
    location: str,
    entries: Sequence[JsonObject],
    kept: NDArray[np.bool_],
    sizes: NDArray[np.int64],
    note: Note,
    with_masks: bool,
) -> tuple[Annotations, NDArray[np.object_]]:
    """Return the objects of all images without labels, in the order of the file, and their run lengths."""
    shapes: list[tuple[JsonValue, JsonValue]] = [([0, 0, 0, 0], 0)] * len(entries)
    rows = np.flatnonzero(kept).tolist()
    for index in rows:
        shapes[index] = entries[index].get("bbox") or None, entries[index].get("area")
    incomplete = [index for index in rows if None in shapes[index]]
    masks = read_masks(
        location, entries, rows if with_masks else incomplete, sizes, note, required=with_masks
    )
    for index in incomplete:
        box, area = shapes[index]
        if masks.counts[index] is not None:
            measured_area = float(masks.areas[index])
            shapes[index] = box or masks.boxes[index].tolist(), measured_area if area is None else area
        elif box is None:
            raise UsageError(
                f"{location}[{index}]: missing key 'bbox', and no segmentation to compute it from"
            )
    boxes = columns.read_boxes(location, [box for box, _ in shapes])
    for index in np.flatnonzero((boxes[:, 2:] < boxes[:, :2]).any(axis=1))[:1].tolist():
        raise UsageError(
            f"{location}[{index}]: bbox: expected a width and height of at least 0, found {shapes[index][0]}"
        )
    missing = np.array([area is None for _, area in shapes], dtype=bool)
    listed = [0 if area is None else area for _, area in shapes]
    areas = columns.read_numbers(location, "area", listed, limit=columns.MOST)
    for index in np.flatnonzero(areas < 0)[:1].tolist():
        raise UsageError(f"{location}[{index}]: area: expected at least 0, found {listed[index]}")
    sides = boxes[:, 2:] - boxes[:, :2]
    if missing.any():
        note(f"{location}: {missing.sum()} of {len(entries)} have no area, and take that of their box")
    objects = Annotations(
        boxes=boxes,
        labels=np.zeros(len(entries), dtype=np.int64),
        areas=np.where(missing, sides[:, 0] * sides[:, 1], areas),
        crowd=columns.read_flags(location, "iscrowd", entries),
        difficult=columns.read_flags(location, "ignore", entries),
    )
    return objects, masks.counts


def _select(objects: Annotations, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Annotations:
    columns_of = (objects.boxes, objects.labels, objects.areas, objects.crowd, objects.difficult)
    return Annotations(*(column[rows] for column in columns_of))  # type: ignore[arg-type]


def _image_files(path: Path, images: Sequence[JsonObject], required: Collection[str]) -> list[ImageFile]:
    index_by_name: dict[str, int] = {}
    files = []
    for index, image in enumerate(images):
        location = f"{path}: images[{index}]"
        name = image.get("file_name")
        if "file_name" in required:
            check_inside(f"{location}: file_name", name)
            first = index_by_name.setdefault(str(name), index)
            if first != index:
                raise UsageError(f"{location}: file_name: {name!r} is also that of images[{first}]")
        sizes = [whole_number(image.get(key)) or 0 for key in ("width", "height")]
        if "width" in required and min(sizes) < 1:
            key = "width" if sizes[0] < 1 else "height"
            raise UsageError(f"{location}: {key}: expected a number of px, found {image[key]!r}")
        files.append(ImageFile(name if isinstance(name, str) else "", *(max(size, 0) for size in sizes)))
    return files


def _check_boxes_inside(
    location: str,
    entries: Sequence[JsonObject],
    kept: NDArray[np.bool_],
    boxes: NDArray[np.float64],
    sizes: NDArray[np.int64],
) -> None:
    """Check that none of the boxes [n, 4] to be kept [n] is completely outside its image of `sizes` [n, 2].

    COCO has boxes that extend beyond the edge. An empty box may lie on the edge.
    """
    low, high = boxes[:, :2], boxes[:, 2:]
    beyond = np.where(low < high, (low >= sizes) | (high <= 0), (low > sizes) | (high < 0)).any(axis=1)
    for index in np.flatnonzero(kept & beyond)[:1].tolist():
        width, height = sizes[index]
        raise UsageError(
            f"{location}[{index}]: bbox: {entries[index].get('bbox')} is outside its image of "
            f"{width}×{height} px"
        )
