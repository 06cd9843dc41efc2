"""Preparation of images for a model: resizing, padding, stacking and normalisation."""

from collections.abc import Sequence

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from harness.task import Image, Sample

# Mean and standard deviation of red, green and blue over ImageNet, for values 0–1; torchvision's published
# weights expect inputs normalised with them.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# Channel means of VGG-16's training images, for values 0–1: Simonyan & Zisserman's 123, 117 and 104 of 255.
VGG = (0.48235, 0.45882, 0.40784)
GREY = 127  # value of padding pixels; `to_tensor` maps it to 0, up to rounding


def of_sample(sample: Sample) -> Image:
    """Return the input image of a vision sample."""
    assert isinstance(sample.input, np.ndarray)
    return sample.input


def to_uint8_tensor(images: Sequence[Image], device: str) -> Tensor:
    """Stack images of one size: uint8 [N, H, W, 3] on the device, a quarter of the bytes of floats."""
    return torch.from_numpy(np.stack(images)).to(device, non_blocking=True)


def centred(pixels: Tensor) -> Tensor:
    """Scale uint8 [N, H, W, 3] to [N, 3, H, W] with values −1…1, channels last in memory."""
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def standardised(pixels: Tensor) -> Tensor:
    """Scale uint8 [N, H, W, 3] to [N, 3, H, W] with mean 0 and deviation 1 over ImageNet, channels last."""
    mean, deviation = (torch.tensor(values, device=pixels.device)[:, None, None] for values in IMAGENET)
    return pixels.permute(0, 3, 1, 2).float().div_(255).sub_(mean).div_(deviation)


def mean_subtracted(pixels: Tensor) -> Tensor:
    """Subtract VGG's channel means from uint8 [N, H, W, 3]: [N, 3, H, W] in levels of 255, channels last."""
    mean = torch.tensor(VGG, device=pixels.device)[:, None, None]
    return pixels.permute(0, 3, 1, 2).float().div_(255).sub_(mean).mul_(255)


def to_tensor(images: Sequence[Image], device: str) -> Tensor:
    """Stack images of one size: [N, 3, H, W] with values −1…1 on the device, channels last in memory."""
    return centred(to_uint8_tensor(images, device))


def resize(image: Image, height: int, width: int) -> Image:
    """Resize an image bilinearly, antialiased along axes that shrink, and round to uint8."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(PIL.Image.fromarray(image).resize((width, height), PIL.Image.Resampling.BILINEAR))


def fit(image: Image, size: tuple[int, int]) -> tuple[Image, tuple[float, float]]:
    """Resize an image to fit a frame (height, width) in px, keeping its aspect ratio, and pad it with grey.

    Return the image, padded to the right and below, and the scale factors (x, y) from original to framed
    pixels. The two differ because sides are rounded to whole pixels.
    """
    height, width = image.shape[:2]
    new_height, new_width = fitted_size((height, width), size)
    fitted = pad(resize(image, new_height, new_width), *size)
    return fitted, (new_width / width, new_height / height)


def fitted_size(original: tuple[int, int], frame: tuple[int, int]) -> tuple[int, int]:
    """Return the largest (height, width) inside a frame that has the aspect ratio of an image."""
    scale = min(frame[0] / original[0], frame[1] / original[1])
    return max(1, round(original[0] * scale)), max(1, round(original[1] * scale))


def pad(image: Image, height: int, width: int) -> Image:
    """Pad an image with grey to the right and below, up to the given size."""
    if image.shape[:2] == (height, width):
        return image
    padded = np.full((height, width, 3), GREY, dtype=np.uint8)
    padded[: image.shape[0], : image.shape[1]] = image
    return padded
