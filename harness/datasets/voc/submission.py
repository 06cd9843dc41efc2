"""PASCAL VOC's submission files: one per class, with one detection per line."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from harness.datasets.coco.annotations import AnnotatedImages
from harness.datasets.coco.ids import Id, find_positions, leave_out_unknown, shorten, stem
from harness.datasets.coco.results import split_by_image
from harness.datasets.files import Note, read_lines, visible_files
from harness.datasets.voc.annotations import parse_box, parse_number
from harness.errors import UsageError
from harness.registry import unknown
from harness.task import Detections

_DEVKIT_PREFIX = re.compile(r"(?:comp\d+_.*det_.*_)?")  # comp4_det_test_; tools add an id: comp4_ID_det_test_


def read_submission(path: Path, annotated: AnnotatedImages, note: Note) -> dict[Id, Detections]:
    """Read VOC's submission format, a file or a folder: one file per class with one detection per line.

    A line is `image-id score xmin ymin xmax ymax`. A file is named `CLASS.txt` or
    `comp4_det_test_CLASS.txt`. A class without a file has no detections. Detections of classes and images
    that are not annotated are left out; if these are all, it is a UsageError.
    """
    files = visible_files(path, ".txt") if path.is_dir() else [path]
    if not files:
        raise UsageError(f"{path}: expected one .txt file per class, found none")
    ids: list[str] = []
    rows: list[list[float]] = []  # label, score, x1, y1, x2, y2
    for name, file in _files_by_class(files, annotated, note).items():
        for number, line in enumerate(read_lines(file), start=1):
            if not line.strip():
                continue
            location, fields = f"{file}:{number}", line.rsplit(maxsplit=5)
            if len(fields) != 6:
                raise UsageError(
                    f"{location}: expected image id, score, xmin, ymin, xmax, ymax; "
                    f"found {len(fields)} fields"
                )
            ids.append(fields[0].strip())
            score = parse_number(f"{location}: score", fields[1])
            rows.append([annotated.classes.index(name), score, *parse_box(location, fields[2:])])
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    labels = table[:, 0].astype(np.int64)
    images = {image_id: index for index, image_id in enumerate(annotated.files)}
    paths = [file.path for file in annotated.files.values()]
    owners = find_positions(str(path), "image id", images, ids, paths, stem)
    leave_out_unknown(str(path), "detections", "image id", ids, owners, images, note)
    return split_by_image(
        str(path), annotated, owners, boxes=table[:, 2:], scores=table[:, 1], labels=labels, note=note
    )


def _files_by_class(files: Sequence[Path], annotated: AnnotatedImages, note: Note) -> dict[str, Path]:
    """Return the file of each annotated class: the class's name, alone or after the devkit's prefix."""
    by_class: dict[str, Path] = {}
    others = []
    for file in files:
        ends = (name for name in annotated.classes if file.stem.endswith(name))
        names = [name for name in ends if _DEVKIT_PREFIX.fullmatch(file.stem.removesuffix(name))]
        if not names:
            others.append(file)
        elif (name := max(names, key=len)) in by_class:
            raise UsageError(f"{file}: class '{name}' already has the file {by_class[name].name}")
        else:
            by_class[name] = file
    if not by_class:
        images = {stem(image.path) for image in annotated.files.values()}
        if any(file.stem in images for file in files):
            raise UsageError(
                f"{files[0]}: is named after an image; expected one file per class, CLASS.txt with lines "
                f"'ID SCORE XMIN YMIN XMAX YMAX' in px, or a COCO results file"
            )
        name = _DEVKIT_PREFIX.sub("", files[0].stem, count=1)
        raise UsageError(f"{files[0]}: {unknown('class', name, annotated.classes)}")
    if others:
        note(
            f"{others[0].parent}: {len(others)} of {len(files)} files are of no annotated class "
            f"({shorten(', '.join(file.name for file in others))}) and are left out"
        )
    return by_class
