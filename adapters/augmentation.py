"""What may change in a picture of digits without changing what it shows. No flips: a mirrored 5 is no 5."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harness.task import Image

MOST = 24  # px; measured with the prototype of the recipes


def draw_shift(generator: np.random.Generator, low: float, high: float, length: int) -> int:
    """A whole shift along one axis that keeps objects between low and high px inside 0…length."""
    least = -min(MOST, max(0, int(low)))
    most = min(MOST, max(0, int(length - high)))
    return int(generator.integers(least, most + 1))


def shifted(pixels: NDArray[np.uint8], down: int, right: int, fill: int | None = None) -> NDArray[np.uint8]:
    """[H, W, …] moved by whole pixels; what comes in repeats the edge, or is `fill`."""
    height, width = pixels.shape[:2]
    rows, columns = np.arange(height) - down, np.arange(width) - right
    moved: NDArray[np.uint8] = pixels[rows.clip(0, height - 1)][:, columns.clip(0, width - 1)]
    if fill is not None:
        moved[(rows < 0) | (rows >= height)] = fill
        moved[:, (columns < 0) | (columns >= width)] = fill
    return moved


def recoloured(generator: np.random.Generator, image: Image) -> Image:
    """Channels in a random order, and in half of the cases the negative."""
    permuted: Image = image[..., generator.permutation(3)]
    return 255 - permuted if generator.random() < 0.5 else permuted
