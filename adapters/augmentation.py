"""Augmentation of images of digits by shifts and colours, without flips, because a mirrored 5 is not a 5."""

import numpy as np
from numpy.typing import NDArray

from harness.task import Image

MAX_SHIFT = 24  # px; measured with the prototype of the recipes


def draw_shift(generator: np.random.Generator, low: float, high: float, length: int) -> int:
    """Draw a shift along an axis, in whole px, that keeps objects from low to high px inside 0…length."""
    smallest = -min(MAX_SHIFT, max(0, int(low)))
    largest = min(MAX_SHIFT, max(0, int(length - high)))
    return int(generator.integers(smallest, largest + 1))


def shifted(pixels: NDArray[np.uint8], down: int, right: int, fill: int | None = None) -> NDArray[np.uint8]:
    """Shift [H, W, …] by whole pixels; the uncovered border repeats the edge, or is `fill`."""
    height, width = pixels.shape[:2]
    rows, columns = np.arange(height) - down, np.arange(width) - right
    moved: NDArray[np.uint8] = pixels[rows.clip(0, height - 1)][:, columns.clip(0, width - 1)]
    if fill is not None:
        moved[(rows < 0) | (rows >= height)] = fill
        moved[:, (columns < 0) | (columns >= width)] = fill
    return moved


def recoloured(generator: np.random.Generator, image: Image) -> Image:
    """Permute the colour channels at random, and invert the colours with probability 0.5."""
    permuted: Image = image[..., generator.permutation(3)]
    return 255 - permuted if generator.random() < 0.5 else permuted
