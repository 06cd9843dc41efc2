"""COCO's `segmentation` of an object: polygons, or run lengths (RLE) as numbers or compressed text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TypeAlias, TypeGuard

from pycocotools import mask as rle
from pydantic import JsonValue

from harness.datasets.coco.ids import whole_number
from harness.datasets.files import JsonObject
from harness.errors import UsageError

RunLengths: TypeAlias = dict[str, object]
"""`size` and `counts` as pycocotools takes them."""

_MIN_CORNERS = 3
_MAX_REACH = 10  # largest distance of a corner in image sides; pycocotools allocates that much memory


def box_and_area(
    location: str, segmentation: JsonValue, height: JsonValue, width: JsonValue
) -> tuple[list[float], float, int] | None:
    """Measure the pixels of a segmentation, as pycocotools rasterises it.

    Polygons of fewer than three corners cover nothing and are dropped. Tools leave them beside good ones.

    Args:
        location: file and key, for messages.
        height, width: of the image, as in the file.

    Returns:
        Box [x, y, width, height], area in px², and the number of polygons dropped; None if there is no other.

    Raises:
        UsageError: the segmentation or the size of the image is malformed, or they do not fit.
    """
    dropped = 0
    if not isinstance(segmentation, dict):
        polygons = _as_polygons(location, segmentation)
        dropped = sum(isinstance(polygon, list) and len(polygon) < 2 * _MIN_CORNERS for polygon in polygons)
        if dropped == len(polygons):
            return None
    elif height is None and width is None and isinstance(segmentation.get("size"), list):
        height, width = (segmentation["size"], *[None] * 2)[:2]
    rows, columns = whole_number(height), whole_number(width)
    if rows is None or columns is None or min(rows, columns) < 1:
        raise UsageError(
            f"{location}: needs the image's height and width, which are {height!r} and {width!r} in the file"
        )
    if isinstance(segmentation, dict):
        encoded = _parse_run_lengths(location, segmentation, rows, columns)
    else:
        good = _check_polygons(location, polygons, _MAX_REACH * max(rows, columns))
        encoded = rle.merge(rle.frPyObjects(good, rows, columns))
    area = float(rle.area(encoded))
    if area > rows * columns:
        raise UsageError(f"{location}: covers {area:.0f} px² of an image of {columns}×{rows} px")
    return [float(side) for side in rle.toBbox(encoded)], area, dropped


def _parse_run_lengths(location: str, segmentation: JsonObject, height: int, width: int) -> RunLengths:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
        raise UsageError(f"{location}: size: expected [{height}, {width}] as in its image, found {size!r}")
    if isinstance(counts, str):
        if not counts or any(not "0" <= character <= "o" for character in counts):
            raise UsageError(f"{location}: counts: not compressed run lengths: {counts[:40]!r}")
        return {"size": size, "counts": counts.encode()}
    lengths = [count for count in counts if type(count) is int] if isinstance(counts, list) else []
    if lengths != counts or any(length < 0 for length in lengths):
        raise UsageError(f"{location}: counts: expected run lengths as a list of integers or as text")
    if sum(lengths) != height * width:
        raise UsageError(
            f"{location}: counts: expected a sum of {height * width} (height × width), found {sum(lengths)}"
        )
    encoded: RunLengths = rle.frPyObjects(segmentation, height, width)
    return encoded


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
