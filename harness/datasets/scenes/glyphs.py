"""Handwritten glyphs: from 8×8 pixels of ink to a sharp coverage mask of any size and slant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from harness.datasets.scenes.shapes import Coverage, crop_to_ink

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
        """Enlarge, rotate and shear a glyph, sharpen its edge, and crop it to its ink.

        Returns:
            [0, 0] if no ink remains.
        """
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
