"""COCO's `segmentation` of an object: polygons, or run lengths (RLE) as numbers or compressed text."""

from __future__ import annotations

from typing import Any

from pycocotools import mask as rle

from harness.errors import UsageError

CORNERS = 3  # the least of a polygon
REACH = 10  # image sides from the image that a corner may be: pycocotools allocates as far as corners are


def box_and_area(where: str, shape: Any, height: Any, width: Any) -> tuple[list[float], float]:
    """[x, y, width, height] and area in px² of the pixels that a shape covers, as pycocotools counts them.

    Args:
        where: file and key, for messages.
        height, width: of the image, as the file says.

    Raises:
        UsageError: the shape or the image's size is malformed, or the shape is of another size.
    """
    if type(height) is not int or type(width) is not int or min(height, width) < 1:
        raise UsageError(
            f"{where}: needs the image's height and width, which are {height!r} and {width!r} in the file"
        )
    if isinstance(shape, dict):
        encoded = _checked_runs(where, shape, height, width)
    else:
        _check_polygons(where, shape, REACH * max(height, width))
        encoded = rle.merge(rle.frPyObjects(shape, height, width))
    area = float(rle.area(encoded))
    if area > height * width:
        raise UsageError(f"{where}: covers {area:.0f} px² of an image of {width}×{height} px")
    return [float(side) for side in rle.toBbox(encoded)], area


def _checked_runs(where: str, shape: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    size, counts = shape.get("size"), shape.get("counts")
    if size != [height, width]:
        raise UsageError(f"{where}: size: expected [{height}, {width}], its image's, found {size!r}")
    if isinstance(counts, str):
        if not counts or any(not "0" <= character <= "o" for character in counts):
            raise UsageError(f"{where}: counts: no compressed run lengths: {counts[:40]!r}")
        return {"size": size, "counts": counts.encode()}
    if not isinstance(counts, list) or any(type(count) is not int or count < 0 for count in counts):
        raise UsageError(f"{where}: counts: expected run lengths as a list of integers or as text")
    if sum(counts) != height * width:
        raise UsageError(
            f"{where}: counts: expected a sum of {height * width}, height × width, found {sum(counts)}"
        )
    encoded: dict[str, Any] = rle.frPyObjects(shape, height, width)
    return encoded


def _check_polygons(where: str, shape: Any, furthest: int) -> None:
    if not isinstance(shape, list) or not shape:
        raise UsageError(f"{where}: expected polygons or run lengths, found {str(shape)[:40]!r}")
    for index, polygon in enumerate(shape):
        numbers = isinstance(polygon, list) and all(type(place) in (int, float) for place in polygon)
        if not numbers or len(polygon) % 2 or len(polygon) < 2 * CORNERS:
            raise UsageError(f"{where}[{index}]: expected x, y, x, y, … of at least {CORNERS} corners")
        for place in polygon:
            if not -furthest <= place <= furthest:  # NaN, too
                raise UsageError(
                    f"{where}[{index}]: expected corners within ±{furthest} px, found {str(place)[:40]}"
                )
