"""Lists of the images to use, such as ImageSets/Main/test.txt of the VOC development kit."""

import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from harness.datasets.coco.annotations import AnnotatedImages
from harness.datasets.coco.ids import find_positions, stem
from harness.datasets.files import Note, composed, read_lines
from harness.errors import UsageError

_PRESENCE = re.compile(r"\s+(-1|0|1)$")  # second column of the devkit's list of a class


def read_image_set(path: Path, known: Collection[str]) -> dict[str, int]:
    """Read a list of images, one per line, and return the line number of each.

    A line that is not in `known` is read without the second column 1, 0 or −1 that lists of a class have in
    VOC, and without folder and suffix. An empty list and an image that is listed twice are UsageErrors.
    """
    lines: dict[str, int] = {}
    for number, text in enumerate(read_lines(path), start=1):
        line = text.strip()
        if not line:
            continue
        plain = _PRESENCE.sub("", line)
        forms = (line, plain, stem(line), stem(plain), composed(plain), composed(stem(plain)))
        image = next((name for name in forms if name in known), plain)
        if image in lines:
            raise UsageError(f"{path}:{number}: duplicate id '{image}', first in line {lines[image]}")
        lines[image] = number
    if not lines:
        raise UsageError(f"{path}: expected one id per line, found none")
    return lines


def restrict(annotated: AnnotatedImages, path: Path, note: Note) -> AnnotatedImages:
    """Keep the images that a list names by id, number or file name; an unknown one is a UsageError."""
    images = {image_id: index for index, image_id in enumerate(annotated.files)}
    paths = [file.path for file in annotated.files.values()]
    lines = read_image_set(path, {*map(str, images), *paths})
    positions = find_positions(str(path), "image id", images, [*lines], paths, stem).tolist()
    for name, position in zip(lines, positions, strict=True):
        if position < 0:
            raise UsageError(f"{path}:{lines[name]}: '{name}' is not an annotated image")
    listed = set(positions)
    inside = [image_id for image_id, index in images.items() if index in listed]
    others = [image_id for image_id, index in images.items() if index not in listed]
    if others:
        note(f"{path}: {len(others)} of {len(images)} annotated images are outside the image set")
    return replace(
        annotated,
        targets={image_id: annotated.targets[image_id] for image_id in inside},
        files={image_id: annotated.files[image_id] for image_id in [*inside, *others]},
    )
