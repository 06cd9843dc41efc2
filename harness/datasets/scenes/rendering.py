"""Rendering of scenes: plates, ink with shading and shadow, and the exposure of the finished image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import PIL.Image
import PIL.ImageFilter

from harness.datasets.scenes.background import smooth_noise
from harness.datasets.scenes.canvas import LUMA, Canvas, Colour, Pixels, Placement
from harness.task import Image

# Constants without another source are those of the prototype that the recipes were tuned on.
_CANDIDATE_COLOURS = 8
_PLATE_CONTRAST = 25  # luma, 0–255
_INK_CONTRAST = 45
_RIM_FRACTION = 0.4
_SHADOW_FRACTION = 0.3
_SHADOW_OPACITY = 0.4
_BLUR_FRACTION = 0.4


@dataclass(frozen=True, eq=False)
class Mark:
    """A shape to be drawn in ink; `digit` is None for a distractor."""

    placement: Placement
    digit: int | None


def draw_plate(rng: np.random.Generator, canvas: Canvas, placement: Placement) -> None:
    """Draw a plate in a contrasting colour, sometimes with a rim of another colour."""
    colour = _contrasting_colour(rng, canvas, placement, _PLATE_CONTRAST)
    canvas.blend(placement, colour, rng.uniform(0.75, 1))
    if rng.random() < _RIM_FRACTION:
        _draw_inner_plate(rng, canvas, placement, rim=int(rng.integers(1, 4)))
    canvas.occlude(placement)


def _draw_inner_plate(rng: np.random.Generator, canvas: Canvas, placement: Placement, rim: int) -> None:
    """Draw a smaller plate that leaves a rim of the outer one, in px, unless the outer one is too small."""
    outer = placement.coverage
    if min(outer.shape) <= 4 * rim:
        return
    height, width = outer.shape
    inner = np.zeros_like(outer)
    inner[rim:-rim, rim:-rim] = np.asarray(
        PIL.Image.fromarray(outer).resize((width - 2 * rim, height - 2 * rim))
    )
    colour = _contrasting_colour(rng, canvas, placement, _PLATE_CONTRAST)
    canvas.blend(Placement(inner, placement.left, placement.top), colour)


def draw_ink(rng: np.random.Generator, canvas: Canvas, marks: Sequence[Mark]) -> None:
    """Draw marks in one contrasting, shaded colour, sometimes with a shadow, and annotate the digits."""
    middle = marks[len(marks) // 2].placement
    colour = _contrasting_colour(rng, canvas, middle, _INK_CONTRAST)
    slope = rng.uniform(-30, 30, 2).astype(np.float32)
    shadow = rng.integers(1, 3, 2) * rng.choice((-1, 1), 2) if rng.random() < _SHADOW_FRACTION else None
    for mark in marks:
        placement = mark.placement
        if shadow is not None:
            right, down = (int(offset) for offset in shadow)
            canvas.blend(placement.shifted(right, down), np.zeros(3, np.float32), _SHADOW_OPACITY)
        height, width = placement.coverage.shape
        y = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None, None]
        x = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None, :, None]
        canvas.blend(placement, colour + y * slope[0] + x * slope[1])
        if mark.digit is None:
            canvas.occlude(placement)
        else:
            canvas.add_digit(placement, mark.digit)


def expose(rng: np.random.Generator, pixels: Pixels) -> Image:
    """Apply uneven light, sometimes blur, and sensor noise, and round to 8 bits."""
    pixels = pixels * (1 + np.float32(rng.uniform(0, 0.3)) * smooth_noise(rng, 3))[..., None]
    if rng.random() < _BLUR_FRACTION:
        sharp = PIL.Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        blur = PIL.ImageFilter.GaussianBlur(rng.uniform(0.3, 1.0))
        pixels = np.asarray(sharp.filter(blur), dtype=np.float32)
    noise = rng.standard_normal(pixels.shape, dtype=np.float32) * np.float32(rng.uniform(0, 9))
    return np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)


def _contrasting_colour(
    rng: np.random.Generator, canvas: Canvas, placement: Placement, contrast: float
) -> Colour:
    """Draw a colour whose luma differs by at least `contrast` from that of the pixels under the shape.

    Among a fixed number of candidates, take the first that does, or else the one that differs most.
    """
    colours = rng.uniform(0, 255, (_CANDIDATE_COLOURS, 3))
    differences = np.abs(colours @ LUMA - canvas.luma_under(placement))
    sufficient = np.flatnonzero(differences >= contrast)
    colour: Colour = colours[sufficient[0] if len(sufficient) else differences.argmax()].astype(np.float32)
    return colour
