"""The parts of a scene: backgrounds, glyphs, badges, strokes and arcs, each a small pure function.

A shape is its opacity, [height, width] in 0–1; randomness comes from the generator that is passed in.
Sums and transcendental functions are computed in float64 and rounded to float32: their last bit depends on
the processor (NumPy picks its vector instructions at run time), and scenes must be the same on all of them.
"""

from __future__ import annotations

import numpy as np
import PIL.Image
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_PHOTOGRAPHS = 0.78  # share of backgrounds, the rest is noise; prototype of the data set
_MARGIN = 2  # empty pixels around a glyph's 8×8, into which it may lean
_CROP_SIDES = (64, 156)  # px of the photograph; the narrowest strip has 160


def background(rng: np.random.Generator, photographs: tuple[NDArray[np.uint8], ...], size: int) -> Floats:
    """[size, size, 3] in 0–255: a turned crop of a photograph or a noise texture, in changed light."""
    if rng.random() < _PHOTOGRAPHS:
        photograph = photographs[rng.integers(len(photographs))]
        side = log_uniform(rng, *_CROP_SIDES)
        top = rng.uniform(0, photograph.shape[0] - side)
        left = rng.uniform(0, photograph.shape[1] - side)
        crop = PIL.Image.fromarray(photograph).resize(
            (size, size), PIL.Image.Resampling.BICUBIC, (left, top, left + side, top + side)
        )
        pixels = np.asarray(crop, dtype=np.float32)
        pixels = np.rot90(pixels, int(rng.integers(4)))[:, :: rng.choice((-1, 1))]
        if rng.random() < 0.5:
            pixels = pixels[..., rng.permutation(3)]
    else:
        pixels = _noise(rng, size)
    mean = pixels.mean(dtype=np.float64)
    contrast, brightness = rng.uniform(0.6, 1.1), rng.uniform(-30, 50)
    return np.clip((pixels - np.float32(mean)) * np.float32(contrast) + np.float32(mean + brightness), 0, 255)


def _noise(rng: np.random.Generator, size: int) -> Floats:
    """Two colours mixed by smooth noise of several scales, sometimes in stripes, with grain."""
    field = sum((smooth_field(rng, cells, size) / cells for cells in (3, 8, 24, 64)), np.float32(0))
    field = field * np.float32(rng.uniform(0.5, 2.5))
    if rng.random() < 0.4:
        angle, waves = rng.uniform(0, np.pi), rng.uniform(3, 16)
        y, x = np.mgrid[:size, :size] / size
        stripes = np.sin(2 * np.pi * waves * (x * np.cos(angle) + y * np.sin(angle)))
        field = field + stripes.astype(np.float32) * np.float32(0.4)
    weight = (0.5 + 0.5 * np.tanh(field * 2.0, dtype=np.float64))[..., None].astype(np.float32)
    one, other = rng.uniform(20, 235, (2, 3)).astype(np.float32)
    grain = rng.standard_normal((size, size, 1), dtype=np.float32) * np.float32(rng.uniform(0, 14))
    return np.clip(one * weight + other * (1 - weight) + grain, 0, 255)


def smooth_field(rng: np.random.Generator, cells: int, size: int) -> Floats:
    """[size, size], about −1 to 1: a random grid of cells × cells, interpolated."""
    grid = PIL.Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype(np.float32))
    return np.asarray(grid.resize((size, size), PIL.Image.Resampling.BICUBIC))


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A number between low and high whose logarithm is uniform."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def glyph_shape(
    glyph: NDArray[np.uint8], height: float, width_factor: float, angle: float, shear: float, weight: float
) -> Floats:
    """A glyph of 8×8, enlarged to about `height` px of ink, turned and slanted, as a crisp shape.

    `angle` in radians; `weight` moves the edge of the ink (0 thin … 1 bold). Cut to its ink;
    may be empty, [0, 0].
    """
    padded = np.pad(glyph, _MARGIN)
    scale = height / 8  # every glyph of the source fills its 8 rows
    across = scale * width_factor
    source = len(padded)
    out = int(np.ceil(source * max(scale, across))) + 1
    cos, sin = np.cos(angle), np.sin(angle)
    # Rows map a position in the result to one in the glyph, both measured from their centres.
    inverse = (
        np.array([[1 / across, 0], [0, 1 / scale]])
        @ np.array([[1, shear], [0, 1]])
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
    edge = 0.65 - 0.28 * weight  # of full ink; much lower, and the loops of 6, 8 and 9 close
    gain = max(1.0, scale)  # an edge rises by about 1 over a glyph's pixel, so by 1 over a scene's pixel
    shape = np.clip((np.asarray(image, dtype=np.float32) / 255 - edge) * gain + 0.5, 0, 1).astype(np.float32)
    return cut_to_ink(shape)


def cut_to_ink(shape: Floats) -> Floats:
    """Cut to the bounding box of opacity ≥ .5, plus one pixel all around for the soft edge."""
    padded = np.pad(shape, 1)
    solid = padded >= 0.5
    rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
    if not len(rows):
        return shape[:0, :0]
    return padded[rows[0] - 1 : rows[-1] + 2, columns[0] - 1 : columns[-1] + 2]


def scrambled(rng: np.random.Generator, glyph: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A glyph whose quadrants changed places across the centre: a digit's strokes, but no digit."""
    rolled = np.roll(glyph, (4, 4), (0, 1))
    return rolled[:: rng.choice((-1, 1))]


def badge(width: float, height: float, power: float) -> Floats:
    """A superellipse: power 1 is a diamond, 2 an ellipse, 5 a rounded and 20 a sharp rectangle."""
    y, x = _centred(int(np.ceil(height)) + 2, int(np.ceil(width)) + 2)
    radius = (np.abs(2 * x / width) ** power + np.abs(2 * y / height) ** power) ** (1 / power)
    return np.clip(0.5 + (1 - radius) * (min(width, height) / 2), 0, 1).astype(np.float32)


def stroke(length: float, thickness: float, angle: float) -> Floats:
    """A straight line with round ends, turned by `angle` from the horizontal."""
    side = int(np.ceil(length + thickness)) + 2
    y, x = _centred(side, side)
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle)
    beyond = np.maximum(np.abs(along) - length / 2, 0)
    return cut_to_ink(np.clip(0.5 + thickness / 2 - np.hypot(beyond, across), 0, 1).astype(np.float32))


def arc(diameter: float, thickness: float, start: float, extent: float) -> Floats:
    """Part of a ring: from the angle `start`, `extent` radians on."""
    side = int(np.ceil(diameter + thickness)) + 2
    y, x = _centred(side, side)
    ring = np.clip(0.5 + thickness / 2 - np.abs(np.hypot(x, y) - diameter / 2), 0, 1)
    inside = (np.arctan2(y, x) - start) % (2 * np.pi) < extent
    return cut_to_ink(np.where(inside, ring, 0).astype(np.float32))


def _centred(height: int, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates of pixel centres from the middle of the patch, as a column and a row."""
    y = np.arange(height, dtype=np.float64)[:, None] - (height - 1) / 2
    x = np.arange(width, dtype=np.float64)[None, :] - (width - 1) / 2
    return y, x
