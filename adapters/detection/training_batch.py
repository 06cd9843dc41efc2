"""Training batches of detectors: augmented images of one size and the objects in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapters import augmentation, images
from adapters.detection.box_augmentation import MIRROR_PROBABILITY, AugmentedImage
from adapters.detection.detector_input import (
    BoxTransform,
    Size,
    pad,
    padded_size,
    resized_photograph,
    stretch,
)
from adapters.detection.trainable_objects import trainable_objects
from harness.task import Image, Sample


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """Images of one size and the objects in them."""

    pixels: Tensor  # [N, 3, H, W]
    transforms: list[BoxTransform]  # per image
    boxes: list[Tensor]  # per image, [Mᵢ, 4] in px of the input
    labels: list[Tensor]  # per image, [Mᵢ]

    @property
    def sizes(self) -> list[Size]:
        """Size of each image without padding."""
        return [transform.size for transform in self.transforms]


def square_training_batch(
    samples: Sequence[Sample], side: int, generator: np.random.Generator, device: str
) -> TrainingBatch:
    """Fit images of digits into a square, shift them without cutting an object, and recolour them."""
    augmented, transforms, boxes, labels = [], [], [], []
    for sample in samples:
        original = images.of_sample(sample)
        corners, classes = trainable_objects(sample)
        fitted, scale = images.fit(original, side)
        transform = BoxTransform((original.shape[0], original.shape[1]), (side, side), scale)
        resized = transform.apply(corners)
        low = resized[:, :2].min(axis=0, initial=side)
        high = resized[:, 2:].max(axis=0, initial=0)
        right = augmentation.draw_shift(generator, low[0], high[0], side)
        down = augmentation.draw_shift(generator, low[1], high[1], side)
        shifted = augmentation.shifted(fitted, down, right)
        augmented.append(augmentation.recoloured(generator, shifted))
        transforms.append(replace(transform, shift=(right, down)))
        boxes.append(_to_float_tensor(transforms[-1].apply(corners), device))
        labels.append(torch.from_numpy(classes).to(device))
    return TrainingBatch(images.to_tensor(augmented, device), transforms, boxes, labels)


def photograph_training_batch(
    samples: Sequence[Sample],
    shorter_side: int,
    longer_side: int,
    generator: np.random.Generator,
    device: str,
) -> TrainingBatch:
    """Resize photographs as for inference, mirror half of them, and pad all to the largest."""
    resized, transforms, boxes, labels = [], [], [], []
    for sample in samples:
        corners, classes = trainable_objects(sample)
        pixels, transform = resized_photograph(images.of_sample(sample), shorter_side, longer_side, device)
        if generator.random() < MIRROR_PROBABILITY:
            x, y = transform.scale
            pixels = pixels.flip(3)
            transform = replace(transform, scale=(-x, y), shift=(pixels.shape[3], 0.0))
        resized.append(pixels)
        transforms.append(transform)
        boxes.append(_to_float_tensor(transform.apply(corners), device))
        labels.append(torch.from_numpy(classes).to(device))
    heights, widths = zip(*map(padded_size, resized), strict=True)
    largest = max(heights), max(widths)
    return TrainingBatch(torch.cat([pad(image, largest) for image in resized]), transforms, boxes, labels)


def stretched_training_batch(
    samples: Sequence[Sample],
    side: int,
    augment: Callable[[Image, NDArray[np.float64]], AugmentedImage],
    to_input: Callable[[Image], Tensor],
    device: str,
    *,
    difficult: bool = False,
) -> TrainingBatch:
    """Augment images and stretch them to a square, as SSD and YOLO do.

    Args:
        augment: augments an image and its boxes.
        to_input: a stretched image → [1, 3, side, side].
        difficult: see `trainable_objects`.
    """
    pixels, transforms, boxes, labels = [], [], [], []
    for sample in samples:
        corners, classes = trainable_objects(sample, difficult=difficult)
        image, corners, indices = augment(images.of_sample(sample), corners)
        pixels.append(to_input(images.resize(image, side, side)))
        transforms.append(stretch((image.shape[0], image.shape[1]), side))
        boxes.append(_to_float_tensor(transforms[-1].apply(corners), device))
        labels.append(torch.from_numpy(classes[indices]).to(device))
    return TrainingBatch(torch.cat(pixels), transforms, boxes, labels)


def _to_float_tensor(boxes: NDArray[np.float64], device: str) -> Tensor:
    return torch.from_numpy(boxes).float().to(device)
