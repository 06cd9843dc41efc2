"""Training batches of segmentation models: shifts of digits, and scales, flips and crops of photographs."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import PIL.Image
from torch import Tensor

from adapters import augmentation, images
from harness.task import IGNORED, Image, Mask, Sample

Augmentation: TypeAlias = Literal["none", "digits", "flip", "crop"]
"""Variation of training images:

- `digits`: shifts, permuted and inverted colours, no flips.
- `flip`: half of the images are mirrored (Jégou et al. 2017 §4.1).
- `crop`: also a random scale, and a square crop (torchvision's reference training).
"""

# torchvision's reference training, `references/segmentation/presets.py`
SHORTER_SIDE = 520  # px, at scale 1
SCALES = (0.5, 2.0)
CROP = 480  # px
FLIP_PROBABILITY = 0.5


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """Images of one size and their classes."""

    pixels: Tensor  # [N, 3, H, W]
    masks: Tensor  # [N, H, W], int64


def shifted(
    image: Image, mask: Mask, generator: np.random.Generator, background: Collection[int]
) -> tuple[Image, Mask]:
    """Shift an image of digits and its mask alike, and recolour the image.

    If a class is the background, `background` are its mask values, and no shift cuts an object.
    """
    objects = ~np.isin(mask, [*background, IGNORED]) if background else np.zeros(mask.shape, bool)
    down, right = (
        augmentation.draw_shift(
            generator, positions.min(initial=length), positions.max(initial=-1) + 1, length
        )
        for positions, length in zip(np.nonzero(objects), mask.shape, strict=True)
    )
    moved = augmentation.shifted(image, down, right)
    return augmentation.recoloured(generator, moved), augmentation.shifted(mask, down, right, fill=IGNORED)


def flipped(image: Image, mask: Mask, generator: np.random.Generator) -> tuple[Image, Mask]:
    """Mirror half of the images and their masks."""
    if generator.random() < FLIP_PROBABILITY:
        return np.ascontiguousarray(image[:, ::-1]), np.ascontiguousarray(mask[:, ::-1])
    return image, mask


def cropped(
    image: Image,
    mask: Mask,
    generator: np.random.Generator,
    crop: int = CROP,
    shorter_side: int | None = SHORTER_SIDE,
) -> tuple[Image, Mask]:
    """Scale, flip and crop an image and its mask alike: [crop, crop, 3] and [crop, crop].

    `shorter_side` is in px at scale 1; None is the image's own.
    """
    height, width = mask.shape
    scale = generator.uniform(*SCALES)
    if shorter_side is not None:
        scale = scale * shorter_side / min(height, width)
    image, mask = resized(image, mask, max(1, round(scale * height)), max(1, round(scale * width)))
    image, mask = flipped(image, mask, generator)
    height, width = mask.shape
    top = int(generator.integers(0, max(0, height - crop) + 1))
    left = int(generator.integers(0, max(0, width - crop) + 1))
    part = mask[top : top + crop, left : left + crop]
    return images.pad(image[top : top + crop, left : left + crop], crop, crop), padded(part, crop, crop)


def resized(image: Image, mask: Mask, height: int, width: int) -> tuple[Image, Mask]:
    """Resize an image and its mask alike."""
    # Classes cannot be interpolated, so each pixel takes the class of its nearest neighbour.
    nearest = PIL.Image.fromarray(mask).resize((width, height), PIL.Image.Resampling.NEAREST)
    return images.resize(image, height, width), np.asarray(nearest)


def padded(mask: Mask, height: int, width: int) -> Mask:
    """Pad a mask to the right and below with pixels that the loss ignores."""
    frame = np.full((height, width), IGNORED, dtype=np.uint8)
    frame[: mask.shape[0], : mask.shape[1]] = mask
    return frame


def image_and_mask(sample: Sample) -> tuple[Image, Mask]:
    """Return the image of a sample and its mask."""
    assert isinstance(sample.target, np.ndarray)
    return images.of_sample(sample), sample.target


def frequency_weights(masks: Sequence[Mask], classes: int) -> list[float]:
    """Return weights by median frequency balancing (Eigen & Fergus 2015 §6.3.2).

    The frequency of a class is the number of its pixels, divided by the number of labelled pixels of the
    images in which it occurs. The weight of a class is the median of all frequencies divided by its
    frequency. A class that does not occur has weight 1.

    The masks [H, W] have values below `classes`, or IGNORED.
    """
    counts = np.stack([np.bincount(mask.ravel(), minlength=IGNORED + 1)[:classes] for mask in masks])
    labelled = (counts > 0) * counts.sum(axis=1, keepdims=True)
    occurs = counts.any(axis=0)
    frequencies = counts.sum(axis=0)[occurs] / labelled.sum(axis=0)[occurs]
    weights = np.ones(classes)
    weights[occurs] = np.median(frequencies) / frequencies
    return [float(weight) for weight in weights]
