"""Rendering of scenes: backgrounds, plates, ink with shading and shadow, and the exposure of the image.

As in `shapes`, sums and transcendental functions are computed in float64 to be identical on all processors.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import PIL.Image
import PIL.ImageFilter
from numpy.typing import NDArray

from harness.datasets.scenes.canvas import LUMA, SIZE, Canvas, Colour, Pixels, Placement, log_uniform
from harness.task import Image

# Constants without another source are those of the prototype that the recipes were tuned on.
_CANDIDATE_COLOURS = 8
_PLATE_CONTRAST = 25  # luma, 0–255
_INK_CONTRAST = 45
_RIM_FRACTION = 0.4
_SHADOW_FRACTION = 0.3
_SHADOW_OPACITY = 0.4
_BLUR_FRACTION = 0.4
_IMAGE_FRACTION = 0.78  # fraction of crops among backgrounds, the rest are noise
_CROP_SIDES = (64, 156)  # px of the source image, whose narrowest strip has 160


def random_background(rng: np.random.Generator, images: Sequence[Image]) -> Pixels:
    """Draw a background [SIZE, SIZE, 3]: an image crop or a noise texture of random contrast."""
    if rng.random() < _IMAGE_FRACTION:
        pixels = _random_crop(rng, images[int(rng.integers(len(images)))])
    else:
        pixels = _noise_texture(rng)
    mean = pixels.mean(dtype=np.float64)
    contrast, brightness = rng.uniform(0.6, 1.1), rng.uniform(-30, 50)
    pixels = (pixels - np.float32(mean)) * np.float32(contrast) + np.float32(mean + brightness)
    return pixels.clip(0, 255)


def _random_crop(rng: np.random.Generator, image: Image) -> Pixels:
    """Crop a square, resize it, rotate it by a multiple of 90°, and flip and permute channels at random."""
    side = log_uniform(rng, *_CROP_SIDES)
    top = rng.uniform(0, image.shape[0] - side)
    left = rng.uniform(0, image.shape[1] - side)
    crop = PIL.Image.fromarray(image).resize(
        (SIZE, SIZE), PIL.Image.Resampling.BICUBIC, (left, top, left + side, top + side)
    )
    pixels: Pixels = np.asarray(crop, dtype=np.float32)
    pixels = np.rot90(pixels, int(rng.integers(4)))[:, :: rng.choice((-1, 1))]
    return pixels[..., rng.permutation(3)] if rng.random() < 0.5 else pixels


def _noise_texture(rng: np.random.Generator) -> Pixels:
    """Mix two colours by smooth noise at four scales, sometimes with stripes, and add grain."""
    noise = sum((smooth_noise(rng, cells) / cells for cells in (3, 8, 24, 64)), np.float32(0))
    noise = noise * np.float32(rng.uniform(0.5, 2.5))
    if rng.random() < 0.4:
        angle, waves = rng.uniform(0, np.pi), rng.uniform(3, 16)
        y, x = np.mgrid[:SIZE, :SIZE] / SIZE
        stripes = np.sin(2 * np.pi * waves * (x * np.cos(angle) + y * np.sin(angle)))
        noise = noise + stripes.astype(np.float32) * np.float32(0.4)
    weight = (0.5 + 0.5 * np.tanh(noise * 2.0, dtype=np.float64))[..., None].astype(np.float32)
    colour, other_colour = rng.uniform(20, 235, (2, 3)).astype(np.float32)
    grain = rng.standard_normal((SIZE, SIZE, 1), dtype=np.float32) * np.float32(rng.uniform(0, 14))
    pixels: Pixels = colour * weight + other_colour * (1 - weight) + grain
    return pixels.clip(0, 255)


def smooth_noise(rng: np.random.Generator, cells: int) -> NDArray[np.float32]:
    """Interpolate a random grid of cells × cells to [SIZE, SIZE], approximately −1 to 1."""
    grid = PIL.Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype(np.float32))
    return np.asarray(grid.resize((SIZE, SIZE), PIL.Image.Resampling.BICUBIC))


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
