"""COCO's `segmentation` of an object: polygons, or run lengths (RLE) as numbers or compressed text."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypedDict, TypeGuard, cast

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle
from pydantic import JsonValue

from harness.datasets.coco.ids import whole_number
from harness.datasets.files import JsonObject, Note
from harness.errors import UsageError

_MIN_CORNERS = 3
_MAX_REACH = 10  # largest distance of a corner in image sides; pycocotools allocates that much memory
_MAX_PIXELS = 2**32  # of an image; pycocotools counts in 32 bits
_COMPRESSED = re.compile("[0-o]+")  # 6 bits per character
_BLOCK = 200  # masks that are checked and measured at a time; pycocotools' `area` takes at most 255


class RunLengths(TypedDict):
    """A mask as pycocotools takes it."""

    size: list[int]  # height, width
    counts: bytes


@dataclass(frozen=True, eq=False)
class MeasuredMasks:
    """The segmentations of n objects of several images."""

    counts: NDArray[np.object_]  # [n], compressed run lengths as bytes, or None
    boxes: NDArray[np.float64]  # [n, 4], x, y, width, height in px
    areas: NDArray[np.float64]  # [n], px²


def read_masks(
    location: str,
    entries: Sequence[JsonObject],
    rows: Sequence[int],
    sizes: NDArray[np.int64],
    note: Note,
    *,
    required: bool,
) -> MeasuredMasks:
    """Read and measure the `segmentation` of some objects, as pycocotools rasterises it.

    Polygons of fewer than three corners cover nothing and are left out. Tools leave them beside good ones.

    Args:
        rows: indices of the objects to read.
        sizes: [n, 2], width and height of each object's image in px, 0 if unknown.
        required: every object needs a segmentation. If all its polygons are left out, its mask is empty;
            otherwise the object counts as one without segmentation.
    """
    n = len(entries)
    masks = MeasuredMasks(np.full(n, None, dtype=object), np.zeros((n, 4)), np.zeros(n))
    dropped = empty = 0
    for start in range(0, len(rows), _BLOCK):
        encoded: dict[int, RunLengths] = {}
        for row in rows[start : start + _BLOCK]:
            mask, left_out = _encode(f"{location}[{row}]", entries[row], sizes[row].tolist(), required)
            dropped += left_out
            if mask is not None:
                encoded[row] = mask
        if not encoded:
            continue
        block = [*encoded]
        counts = [mask["counts"] for mask in encoded.values()]
        pixels = np.array([math.prod(mask["size"]) for mask in encoded.values()])
        if not (sound := _are_sound(counts, pixels)).all():
            index = int(sound.argmin())
            raise UsageError(
                f"{location}[{block[index]}]: segmentation: counts: not compressed run lengths with a sum of "
                f"{pixels[index]} (height × width): {counts[index][:40].decode()!r}"
            )
        masks.counts[block] = counts
        masks.boxes[block] = rle.toBbox([*encoded.values()])
        masks.areas[block] = rle.area([*encoded.values()])
        empty += int((masks.areas[block] == 0).sum())
    if dropped:
        note(f"{location}: polygons of fewer than 3 corners are left out, {dropped} in number")
    if empty and required:
        note(f"{location}: {empty} of {len(rows)} masks are empty and match nothing")
    return masks


def _encode(
    location: str, entry: JsonObject, size: Sequence[int], required: bool
) -> tuple[RunLengths | None, int]:
    """Return an object's mask, or None if it has none, and the number of its polygons that are left out."""
    segmentation = entry.get("segmentation") or None
    if required and segmentation is None:
        raise UsageError(f"{location}: missing key 'segmentation'; iou type bbox compares boxes")
    location = f"{location}: segmentation"
    dropped = 0
    columns, rows = size
    if not isinstance(segmentation, dict):
        polygons = _as_polygons(location, segmentation)
        dropped = sum(isinstance(polygon, list) and len(polygon) < 2 * _MIN_CORNERS for polygon in polygons)
        if dropped == len(polygons) and not required:
            return None, 0
    elif not any(size) and isinstance(segmentation.get("size"), list):
        sides = cast("list[JsonValue]", segmentation["size"])
        rows, columns = (whole_number(side) or 0 for side in [*sides, 0, 0][:2])
    if min(rows, columns) < 1 or rows * columns >= _MAX_PIXELS:
        raise UsageError(
            f"{location}: needs the image's height and width, which are {rows} and {columns} in the file"
        )
    if isinstance(segmentation, dict):
        return _parse_run_lengths(location, segmentation, rows, columns), 0
    good = _check_polygons(location, polygons, _MAX_REACH * max(rows, columns))
    if not good:
        return rle.frPyObjects({"size": [rows, columns], "counts": [rows * columns]}, rows, columns), dropped
    return rle.merge(rle.frPyObjects(good, rows, columns)), dropped


def _parse_run_lengths(location: str, segmentation: JsonObject, height: int, width: int) -> RunLengths:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
        raise UsageError(f"{location}: size: expected [{height}, {width}] as in its image, found {size!r}")
    if isinstance(counts, str):
        if not _COMPRESSED.fullmatch(counts):
            raise UsageError(f"{location}: counts: not compressed run lengths: {counts[:40]!r}")
        return {"size": [height, width], "counts": counts.encode()}
    lengths = [count for count in counts if type(count) is int] if isinstance(counts, list) else []
    if lengths != counts or any(length < 0 for length in lengths):
        raise UsageError(f"{location}: counts: expected run lengths as a list of integers or as text")
    if sum(lengths) != height * width:
        raise UsageError(
            f"{location}: counts: expected a sum of {height * width} (height × width), found {sum(lengths)}"
        )
    encoded: RunLengths = rle.frPyObjects(segmentation, height, width)
    return encoded


def _are_sound(counts: Sequence[bytes], pixels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return whether each of n compressed masks decodes to run lengths ≥ 0 of all pixels [n] of its image.

    pycocotools assumes it: it would read beyond a text that ends within a number, and never end if a sum is
    wrong. A number has 5 bits per character, the lowest first; the sixth bit says that more follow, and the
    highest bit of the last is the sign. From the fourth number on, it is the difference from the last but one
    (`rleFrString` in pycocotools' maskApi.c).
    """
    characters = np.frombuffer(b"".join(counts), dtype=np.uint8).astype(np.int64) - ord("0")
    text_ends = np.cumsum([len(text) for text in counts]) - 1
    is_last = characters < 32
    whole = is_last[text_ends]
    is_last[text_ends] = True
    ends = np.flatnonzero(is_last)
    digits = np.diff(ends, prepend=-1)
    places = np.minimum(np.arange(len(characters)) - np.repeat(ends - digits + 1, digits), 7)
    values = np.add.reduceat((characters & 31) << 5 * places, ends - digits + 1)
    values -= (characters[ends] >> 4 & 1) << 5 * np.minimum(digits, 8)
    owners = np.searchsorted(text_ends, ends)
    sizes = np.bincount(owners)
    index = np.arange(len(ends)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    runs = np.zeros((len(counts), sizes.max()), dtype=np.int64)
    runs[owners, index] = values
    for chain_start in (1, 2):
        runs[:, chain_start::2] = np.cumsum(runs[:, chain_start::2], axis=1)
    runs *= np.arange(runs.shape[1]) < sizes[:, None]
    whole[owners[digits > 7]] = False  # 35 bits suffice
    sound: NDArray[np.bool_] = whole & (runs >= 0).all(axis=1) & (runs.sum(axis=1) == pixels)
    return sound


def _as_polygons(location: str, segmentation: JsonValue) -> list[JsonValue]:
    """Return polygons in COCO's form. VIA writes a single one as a flat list, others as a list of points."""
    if segmentation is None:
        return []
    if not isinstance(segmentation, list):
        raise UsageError(f"{location}: expected polygons or run lengths, found {str(segmentation)[:40]!r}")
    if segmentation and all(map(_is_number, segmentation)):
        return [segmentation]
    points = [point for point in segmentation if isinstance(point, list) and len(point) == 2]
    if len(points) == len(segmentation) >= _MIN_CORNERS:
        return [[*chain.from_iterable(points)]]
    return segmentation


def _check_polygons(location: str, polygons: Sequence[JsonValue], max_distance: int) -> list[list[float]]:
    """Return the polygons of at least three corners."""
    good = []
    for index, polygon in enumerate(polygons):
        coordinates = [value for value in polygon if _is_number(value)] if isinstance(polygon, list) else []
        if coordinates != polygon or len(coordinates) % 2:
            raise UsageError(
                f"{location}[{index}]: expected x, y, x, y, … of at least {_MIN_CORNERS} corners"
            )
        for coordinate in coordinates:
            if not -max_distance <= coordinate <= max_distance:  # also catches NaN
                raise UsageError(
                    f"{location}[{index}]: expected corners within ±{max_distance} px, "
                    f"found {str(coordinate)[:40]}"
                )
        if len(coordinates) >= 2 * _MIN_CORNERS:
            good.append(coordinates)
    return good


def _is_number(value: JsonValue) -> TypeGuard[float]:
    return type(value) in (int, float)  # excludes bool
