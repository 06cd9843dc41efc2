"""Backgrounds of scenes: crops of images and noise textures.

As in `shapes`, sums and transcendental functions are computed in float64 to be identical on all processors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from harness.datasets.scenes.canvas import SIZE, Pixels
from harness.datasets.scenes.sampling import log_uniform
from harness.task import Image

_IMAGE_FRACTION = 0.78  # fraction of crops among backgrounds, the rest are noise; prototype of the data set
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
