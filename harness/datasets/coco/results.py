"""COCO's results files (https://cocodataset.org/#format-results), checked entry by entry."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from harness.datasets.coco import columns
from harness.datasets.coco.annotations import AnnotatedImages, group_rows
from harness.datasets.coco.ids import Id, find_positions, leave_out_unknown, stem
from harness.datasets.coco.oddities import (
    note_box_form,
    note_missing_predictions,
    note_negative_sides,
    note_ties,
)
from harness.datasets.coco.segmentation import read_masks
from harness.datasets.files import JsonObject, Note, describe_json, read_json
from harness.errors import UsageError
from harness.task import Detections

_KEYS = ("image_id", "category_id", "score")


def read_results(path: Path, annotated: AnnotatedImages, note: Note) -> dict[Id, Detections]:
    """Read a COCO results file: a list of {image_id, category_id, bbox [x, y, w, h], score}.

    If the annotations have masks, a `segmentation` takes the place of the bbox. A COCO data set whose
    annotations have a `score` is read as well. Its images and categories are then matched by name. Detections
    of images and categories that are not annotated are left out; if these are all, it is a UsageError.
    Return those of each annotated image, in float64 and in the order of the file.
    """
    document = read_json(path)
    location, entries = _entries(path, document)
    images = {image_id: index for index, image_id in enumerate(annotated.files)}
    paths = [file.path for file in annotated.files.values()]
    labels = dict(annotated.labels)
    if isinstance(document, dict):
        images = _by_name(str(path), document, ("images", "file_name"), paths, stem, note) or images
        names = annotated.classes
        labels = _by_name(str(path), document, ("categories", "name"), names, str.casefold, note) or labels
    image_ids, category_ids, scores = ([entry[key] for entry in entries] for key in _KEYS)
    owners = find_positions(location, "image_id", images, image_ids, paths, stem)
    kinds = find_positions(location, "category_id", labels, category_ids, annotated.classes)
    class_names = {*annotated.classes} - labels.keys()
    named = sum(category in class_names for category in category_ids)
    if named:
        note(f"{location}: category_id: {named} of {len(entries)} are names of classes")
    leave_out_unknown(location, "detections", "image_id", image_ids, owners, images, note)
    leave_out_unknown(
        location, "detections", "category_id", category_ids, kinds, [*labels, *annotated.classes], note
    )
    rows = np.flatnonzero((owners >= 0) & (owners < len(annotated.targets)) & (kinds >= 0)).tolist()
    boxes, masks = _boxes_and_masks(location, entries, owners, rows, annotated, note)
    numbers = columns.read_numbers(location, "score", scores)
    return split_by_image(
        location, annotated, owners, boxes=boxes, scores=numbers, labels=kinds, masks=masks, note=note
    )


def split_by_image(
    location: str,
    annotated: AnnotatedImages,
    owners: NDArray[np.int64],
    *,
    boxes: NDArray[np.float64],
    scores: NDArray[np.float64],
    labels: NDArray[np.int64],
    masks: NDArray[np.object_] | None = None,
    note: Note,
) -> dict[Id, Detections]:
    """Group the detections of a whole file by image, keep their order, and note what is odd about them.

    Args:
        location: file, for notes.
        owners: [n], the position of each detection's image in `annotated.files`, or −1 to leave it out.
        boxes: [n, 4], corners in px.
        scores: [n], of any range.
        labels: [n], −1 to leave the detection out.
        masks: [n], compressed run lengths.
    """
    count = len(annotated.targets)
    outside = np.count_nonzero(owners >= count)
    if outside:
        note(f"{location}: {outside} of {len(owners)} detections are outside the image set and are left out")
    if not ((owners >= 0) & (owners < count) & (labels >= 0)).all():
        rows = np.flatnonzero((owners >= 0) & (owners < count) & (labels >= 0))
        owners, boxes, scores, labels = owners[rows], boxes[rows], scores[rows], labels[rows]
        masks = None if masks is None else masks[rows]
    note_negative_sides(location, boxes, note)
    note_box_form(location, "detections", boxes, annotated.sizes[owners], note)
    note_ties(location, owners, labels, scores, note)
    contents = [*map(bytes, np.column_stack([owners, labels, scores, boxes]))]
    different = set(contents) if masks is None else set(zip(contents, masks, strict=True))
    copies = len(contents) - len(different)
    if copies:
        note(
            f"{location}: {copies} of {len(owners)} detections are exact copies of others; each counts again"
        )
    note_missing_predictions(location, owners, [*annotated.targets.values()], note)
    return {
        # Keep the precision of the file: float32, the precision of a model, would change areas and ties.
        image_id: Detections(
            boxes[rows],  # type: ignore[arg-type]
            scores[rows],  # type: ignore[arg-type]
            labels[rows],
            None if masks is None else annotated.files[image_id].masks(masks[rows]),
        )
        for image_id, rows in zip(annotated.targets, group_rows(owners, count), strict=True)
    }


def _entries(path: Path, document: JsonValue) -> tuple[str, Sequence[JsonObject]]:
    """Return the detections, and their location for messages."""
    if isinstance(document, list):
        return str(path), columns.read_objects(str(path), document, _KEYS)
    if isinstance(document, dict) and isinstance(document.get("annotations"), list):
        entries = columns.read_section(str(path), document, "annotations", ())
        if entries and not any("score" in entry for entry in entries):
            raise UsageError(
                f"{path}: annotations without 'score' are no predictions; expected a list of detections"
            )
        location = f"{path}: annotations"
        return location, columns.read_objects(location, entries, _KEYS)
    raise UsageError(
        f"{path}: expected a list of detections, or a data set whose 'annotations' have a 'score', found "
        f"{describe_json(document)}"
    )


def _by_name(
    location: str,
    document: JsonObject,
    column: tuple[str, str],
    known: Sequence[str],
    simplify: Callable[[str], str],
    note: Note,
) -> dict[Id, int]:
    """Return the positions of the ids of a section by name; empty, with a note, if the files share no name.

    `column` is the section and the key of its names, and `known` the name at each position, empty if it has
    none. Where none is equal as it is written, names are compared in the form that `simplify` returns.
    """
    section, key = column
    listed = columns.read_section(location, document, section, ("id",)) if document.get(section) else []
    ids = [(entry["id"], entry.get(key)) for entry in listed]
    names = {
        entry_id: name for entry_id, name in ids if isinstance(entry_id, int | str) and isinstance(name, str)
    }
    for form in (str, simplify):
        positions = {form(name): position for position, name in enumerate(known) if name}
        matched = {
            entry_id: positions[form(name)] for entry_id, name in names.items() if form(name) in positions
        }
        if matched and len(positions) == sum(map(bool, known)):
            return matched
    if listed:
        note(f"{location}: no {key} of its {section} is in the annotations, so their ids are compared")
    return {}


def _boxes_and_masks(
    location: str,
    entries: Sequence[JsonObject],
    owners: NDArray[np.int64],
    rows: Sequence[int],
    annotated: AnnotatedImages,
    note: Note,
) -> tuple[NDArray[np.float64], NDArray[np.object_] | None]:
    """Return corners [n, 4] in px, and the run lengths [n] of masks if masks are compared.

    A missing `bbox` is that of the segmentation, as in pycocotools. Where masks are compared, every box is.
    `rows` are the detections that are not left out; the others need no box.
    """
    boxes = [entry.get("bbox") or None for entry in entries]
    if annotated.with_masks:
        if any(boxes):
            note(
                f"{location}: 'bbox' is not used: the area of a detection is that of its mask, where "
                f"pycocotools takes that of the 'bbox'"
            )
        boxes = [None] * len(entries)
    missing = [row for row in rows if boxes[row] is None]
    sizes = annotated.sizes[owners]
    masks = read_masks(location, entries, missing, sizes, note, required=annotated.with_masks)
    for row in missing:
        if masks.counts[row] is None:
            raise UsageError(f"{location}[{row}]: missing key 'bbox'")
        boxes[row] = masks.boxes[row].tolist()
    corners = columns.read_boxes(location, [box or [0, 0, 0, 0] for box in boxes])
    return corners, masks.counts if annotated.with_masks else None
