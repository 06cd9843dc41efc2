"""COCO's `segmentation` of an object: polygons, or run lengths (RLE) as numbers or compressed text."""

from __future__ import annotations

from typing import TypeAlias, TypeGuard

from pycocotools import mask as rle
from pydantic import JsonValue

from harness.datasets.files import JsonObject
from harness.errors import UsageError

RunLengths: TypeAlias = dict[str, object]
"""`size` and `counts` as pycocotools takes them."""

_MIN_CORNERS = 3
_MAX_REACH = 10  # largest distance of a corner in image sides; pycocotools allocates that much memory


def box_and_area(
    location: str, segmentation: JsonValue, height: JsonValue, width: JsonValue
) -> tuple[list[float], float]:
    """Return box [x, y, width, height] and area (px²) of the pixels of a segmentation, as in pycocotools.

    Args:
        location: file and key, for messages.
        height, width: of the image, as in the file.

    Raises:
        UsageError: the segmentation or the size of the image is malformed, or they do not fit.
    """
    if type(height) is not int or type(width) is not int or min(height, width) < 1:
        raise UsageError(
            f"{location}: needs the image's height and width, which are {height!r} and {width!r} in the file"
        )
    if isinstance(segmentation, dict):
        encoded = _parse_run_lengths(location, segmentation, height, width)
    else:
        _check_polygons(location, segmentation, _MAX_REACH * max(height, width))
        encoded = rle.merge(rle.frPyObjects(segmentation, height, width))
    area = float(rle.area(encoded))
    if area > height * width:
        raise UsageError(f"{location}: covers {area:.0f} px² of an image of {width}×{height} px")
    return [float(side) for side in rle.toBbox(encoded)], area


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


def _check_polygons(location: str, polygons: JsonValue, max_distance: int) -> None:
    if not isinstance(polygons, list) or not polygons:
        raise UsageError(f"{location}: expected polygons or run lengths, found {str(polygons)[:40]!r}")
    for index, polygon in enumerate(polygons):
        coordinates = [value for value in polygon if _is_number(value)] if isinstance(polygon, list) else []
        if coordinates != polygon or len(coordinates) % 2 or len(coordinates) < 2 * _MIN_CORNERS:
            raise UsageError(
                f"{location}[{index}]: expected x, y, x, y, … of at least {_MIN_CORNERS} corners"
            )
        for coordinate in coordinates:
            if not -max_distance <= coordinate <= max_distance:  # also catches NaN
                raise UsageError(
                    f"{location}[{index}]: expected corners within ±{max_distance} px, "
                    f"found {str(coordinate)[:40]}"
                )


def _is_number(value: JsonValue) -> TypeGuard[float]:
    return type(value) in (int, float)  # excludes bool
