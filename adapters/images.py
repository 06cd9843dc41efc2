"""Images on their way into a model: resized, padded, stacked, scaled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from harness.task import Image, Sample

GREY = 127  # of padding; maps to 0 in `to_tensor` but for rounding


def of(sample: Sample) -> Image:
    """The sample's input, which for the tasks of vision is an image."""
    assert isinstance(sample.input, np.ndarray)
    return sample.input


def to_tensor(images: Sequence[Image], device: str) -> Tensor:
    """Images of one size → [N, 3, H, W] in −1…1 on the device, channels last in memory."""
    pixels = torch.from_numpy(np.stack(images)).to(device, non_blocking=True)
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def fit(image: Image, side: int) -> tuple[Image, tuple[float, float]]:
    """Scale to fit a square, its proportions kept, and pad with grey to the right and below.

    Returns the square image and the factors (x, y) from original to square pixels; these differ by the
    rounding to whole pixels.
    """
    height, width = image.shape[:2]
    scale = side / max(height, width)
    new_height, new_width = max(1, round(height * scale)), max(1, round(width * scale))
    if (new_height, new_width) != (height, width):
        resized = PIL.Image.fromarray(image).resize((new_width, new_height), PIL.Image.Resampling.BILINEAR)
        image = np.asarray(resized)
    return pad(image, side, side), (new_width / width, new_height / height)


def pad(image: Image, height: int, width: int) -> Image:
    """Grey to the right and below until the size is reached."""
    if image.shape[:2] == (height, width):
        return image
    padded = np.full((height, width, 3), GREY, dtype=np.uint8)
    padded[: image.shape[0], : image.shape[1]] = image
    return padded
