"""Shapes as coverage masks: superellipses, strokes and arcs, computed from their geometry.

Sums and transcendental functions are computed in float64 and rounded to float32: their last bit depends on
the processor (NumPy selects vector instructions at run time), and scenes must be identical on all processors.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Coverage: TypeAlias = NDArray[np.float32]
"""[height, width], 0–1: the fraction of each pixel that a shape covers."""


def superellipse(width: float, height: float, power: float) -> Coverage:
    """Return a superellipse: power 1 is a diamond, 2 an ellipse, 5 a rounded and 20 a sharp rectangle."""
    y, x = _pixel_centres(int(np.ceil(height)) + 2, int(np.ceil(width)) + 2)
    radius = (np.abs(2 * x / width) ** power + np.abs(2 * y / height) ** power) ** (1 / power)
    return np.clip(0.5 + (1 - radius) * (min(width, height) / 2), 0, 1).astype(np.float32)


def stroke(length: float, thickness: float, angle: float) -> Coverage:
    """Return a straight line with round ends, rotated by `angle` radians from the horizontal."""
    side = int(np.ceil(length + thickness)) + 2
    y, x = _pixel_centres(side, side)
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle)
    beyond = np.maximum(np.abs(along) - length / 2, 0)
    return crop_to_ink(np.clip(0.5 + thickness / 2 - np.hypot(beyond, across), 0, 1).astype(np.float32))


def arc(diameter: float, thickness: float, start: float, extent: float) -> Coverage:
    """Return the part of a ring between the angles `start` and `start + extent`, in radians."""
    side = int(np.ceil(diameter + thickness)) + 2
    y, x = _pixel_centres(side, side)
    ring = np.clip(0.5 + thickness / 2 - np.abs(np.hypot(x, y) - diameter / 2), 0, 1)
    inside = (np.arctan2(y, x) - start) % (2 * np.pi) < extent
    return crop_to_ink(np.where(inside, ring, 0).astype(np.float32))


def crop_to_ink(coverage: Coverage) -> Coverage:
    """Crop to the bounding box of coverage ≥ 0.5, with one pixel on each side for the soft edge.

    Returns:
        [0, 0] if there is no such pixel.
    """
    padded = np.pad(coverage, 1)
    solid = padded >= 0.5
    rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
    if not len(rows):
        return coverage[:0, :0]
    return padded[rows[0] - 1 : rows[-1] + 2, columns[0] - 1 : columns[-1] + 2]


def _pixel_centres(height: int, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return y [height, 1] and x [1, width] of the pixel centres, relative to the centre of the mask."""
    y = np.arange(height, dtype=np.float64)[:, None] - (height - 1) / 2
    x = np.arange(width, dtype=np.float64)[None, :] - (width - 1) / 2
    return y, x
