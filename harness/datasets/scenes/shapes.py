"""Shapes as coverage masks: superellipses, strokes and arcs from their geometry, and handwritten glyphs.

Sums and transcendental functions are computed in float64 and rounded to float32: their last bit depends on
the processor (NumPy selects vector instructions at run time), and scenes must be identical on all processors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import PIL.Image
from numpy.typing import NDArray

Coverage: TypeAlias = NDArray[np.float32]
"""[height, width], 0–1: the fraction of each pixel that a shape covers."""
Glyph: TypeAlias = NDArray[np.uint8]
"""[8, 8], ink 0–255."""

_MARGIN = 2  # empty pixels around a glyph's 8×8, into which it may lean


@dataclass(frozen=True)
class GlyphStyle:
    """An affine transform and a boldness, shared by the digits of one hand."""

    height: float  # px of ink, approximately
    width_factor: float  # horizontal relative to vertical scale
    angle: float  # radians
    shear: float
    weight: float  # 0 thin … 1 bold

    @staticmethod
    def random(rng: np.random.Generator, height: float) -> GlyphStyle:
        """Draw a style of the given height."""
        return GlyphStyle(
            height=height,
            width_factor=rng.uniform(0.8, 1.25),
            angle=rng.uniform(-0.2, 0.2),
            shear=rng.uniform(-0.25, 0.25),
            weight=rng.random(),
        )

    def render(self, glyph: Glyph) -> Coverage:
        """Enlarge, rotate and shear a glyph, sharpen its edge, and crop it to its ink; [0, 0] without ink."""
        padded = np.pad(glyph, _MARGIN)
        scale = self.height / 8  # each glyph of the source fills its 8 rows
        across = scale * self.width_factor
        source = len(padded)
        out = int(np.ceil(source * max(scale, across))) + 1
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        # Rows map a position in the result to one in the glyph, both relative to their centres.
        inverse = (
            np.array([[1 / across, 0], [0, 1 / scale]])
            @ np.array([[1, self.shear], [0, 1]])
            @ [[cos, sin], [-sin, cos]]
        )
        offset = source / 2 - inverse @ [out / 2, out / 2]
        (a, b), (d, e) = inverse
        image = PIL.Image.fromarray(padded).transform(
            (out, out),
            PIL.Image.Transform.AFFINE,
            (a, b, offset[0], d, e, offset[1]),
            PIL.Image.Resampling.BICUBIC,
        )
        edge = 0.65 - 0.28 * self.weight  # of full ink; much lower, and the loops of 6, 8 and 9 close
        gain = max(1.0, scale)  # an edge rises by about 1 per glyph pixel; make it rise by 1 per scene pixel
        sharp = np.clip((np.asarray(image, dtype=np.float32) / 255 - edge) * gain + 0.5, 0, 1)
        return crop_to_ink(sharp.astype(np.float32))


def scramble_glyph(rng: np.random.Generator, glyph: Glyph) -> Glyph:
    """Swap the quadrants of a glyph across its centre, which gives strokes like a digit's but no digit."""
    rolled = np.roll(glyph, (4, 4), (0, 1))
    return rolled[:: rng.choice((-1, 1))]


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
    """Crop to the box of coverage ≥ 0.5 and one pixel around it, for the soft edge; [0, 0] if it is empty."""
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
