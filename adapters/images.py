"""Images on their way into a model: resized, padded, stacked, scaled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from harness.task import Image, Sample

# Mean and deviation of red, green, blue over ImageNet in 0–1, as torchvision's published weights expect them.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# Means of the images that VGG-16 was trained on, in 0–1; Simonyan & Zisserman's 123, 117, 104 levels.
VGG = (0.48235, 0.45882, 0.40784)
GREY = 127  # of padding; maps to 0 in `to_tensor` but for rounding


def of(sample: Sample) -> Image:
    """The sample's input, which for the tasks of vision is an image."""
    assert isinstance(sample.input, np.ndarray)
    return sample.input


def to_bytes(images: Sequence[Image], device: str) -> Tensor:
    """Images of one size → [N, H, W, 3], uint8, on the device: a quarter of what floats would take."""
    return torch.from_numpy(np.stack(images)).to(device, non_blocking=True)


def centred(pixels: Tensor) -> Tensor:
    """[N, H, W, 3], uint8 → [N, 3, H, W] in −1…1, channels last in memory."""
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def standardised(pixels: Tensor) -> Tensor:
    """[N, H, W, 3], uint8 → [N, 3, H, W], of mean 0 and deviation 1 over ImageNet; channels last."""
    mean, deviation = (torch.tensor(values, device=pixels.device)[:, None, None] for values in IMAGENET)
    return pixels.permute(0, 3, 1, 2).float().div_(255).sub_(mean).div_(deviation)


def of_vgg(pixels: Tensor) -> Tensor:
    """[N, H, W, 3], uint8 → [N, 3, H, W], levels less VGG's mean; channels last."""
    mean = torch.tensor(VGG, device=pixels.device)[:, None, None]
    return pixels.permute(0, 3, 1, 2).float().div_(255).sub_(mean).mul_(255)


def to_tensor(images: Sequence[Image], device: str) -> Tensor:
    """Images of one size → [N, 3, H, W] in −1…1 on the device, channels last in memory."""
    return centred(to_bytes(images, device))


def resize(image: Image, height: int, width: int) -> Image:
    """Bilinear, averaging what falls on one pixel where it shrinks (antialiased), rounded to bytes."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(PIL.Image.fromarray(image).resize((width, height), PIL.Image.Resampling.BILINEAR))


def fit(image: Image, side: int) -> tuple[Image, tuple[float, float]]:
    """Scale to fit a square, its proportions kept, and pad with grey to the right and below.

    Returns the square image and the factors (x, y) from original to square pixels; these differ by the
    rounding to whole pixels.
    """
    height, width = image.shape[:2]
    scale = side / max(height, width)
    new_height, new_width = max(1, round(height * scale)), max(1, round(width * scale))
    fitted = pad(resize(image, new_height, new_width), side, side)
    return fitted, (new_width / width, new_height / height)


def pad(image: Image, height: int, width: int) -> Image:
    """Grey to the right and below until the size is reached."""
    if image.shape[:2] == (height, width):
        return image
    padded = np.full((height, width, 3), GREY, dtype=np.uint8)
    padded[: image.shape[0], : image.shape[1]] = image
    return padded
