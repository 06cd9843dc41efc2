"""Training batches of detectors: augmented images of one size and the objects in them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapters import augmentation as digits
from adapters import images
from adapters.detection import detector_input, ssd_augmentation, yolo_augmentation
from adapters.detection.detector_input import BoxTransform, Size
from adapters.detection.training_images import (
    MIRROR_PROBABILITY,
    Augmentation,
    AugmentedImage,
    trainable_objects,
)
from harness.task import Image, Sample

PHOTOGRAPH_AUGMENTATIONS: Mapping[
    str | None, Callable[[Image, NDArray[np.float64], np.random.Generator], AugmentedImage]
] = {"yolo": yolo_augmentation.augment, "ssd": ssd_augmentation.augment}
"""Augmentations that change an image before it is resized."""


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


def framed_training_batch(
    samples: Sequence[Sample],
    size: Size,
    generator: np.random.Generator,
    device: str,
    augmentation: Augmentation | None = None,
) -> TrainingBatch:
    """Augment images, by default as digits, and fit them into a frame."""
    framed, transforms, boxes, labels = [], [], [], []
    for sample in samples:
        image = images.of_sample(sample)
        corners, classes = trainable_objects(sample)
        if augmentation in PHOTOGRAPH_AUGMENTATIONS:
            image, corners, indices = PHOTOGRAPH_AUGMENTATIONS[augmentation](image, corners, generator)
            classes = classes[indices]
        is_mirrored = augmentation == "flip" and generator.random() < MIRROR_PROBABILITY
        fitted, (x, y) = images.fit(image[:, ::-1] if is_mirrored else image, size)
        transform = BoxTransform((image.shape[0], image.shape[1]), size, (x, y))
        if is_mirrored:
            transform = replace(transform, scale=(-x, y), shift=(x * image.shape[1], 0.0))
        elif augmentation in (None, "digits"):
            fitted, transform = _augmented_digits(fitted, transform, corners, generator)
        framed.append(fitted)
        transforms.append(transform)
        boxes.append(_to_float_tensor(transform.apply(corners), device))
        labels.append(torch.from_numpy(classes).to(device))
    return TrainingBatch(images.to_tensor(framed, device), transforms, boxes, labels)


def _augmented_digits(
    image: Image, transform: BoxTransform, corners: NDArray[np.float64], generator: np.random.Generator
) -> tuple[Image, BoxTransform]:
    """Shift a framed image without cutting an object, and recolour it."""
    height, width = transform.size
    resized = transform.apply(corners)
    low = resized[:, :2].min(axis=0, initial=max(height, width))
    high = resized[:, 2:].max(axis=0, initial=0)
    right = digits.draw_shift(generator, low[0], high[0], width)
    down = digits.draw_shift(generator, low[1], high[1], height)
    shifted = digits.shifted(image, down, right)
    return digits.recoloured(generator, shifted), replace(transform, shift=(right, down))


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
        image = images.of_sample(sample)
        pixels, transform = detector_input.resized_photograph(image, shorter_side, longer_side, device)
        if generator.random() < MIRROR_PROBABILITY:
            x, y = transform.scale
            pixels = pixels.flip(3)
            transform = replace(transform, scale=(-x, y), shift=(pixels.shape[3], 0.0))
        resized.append(pixels)
        transforms.append(transform)
        boxes.append(_to_float_tensor(transform.apply(corners), device))
        labels.append(torch.from_numpy(classes).to(device))
    heights, widths = zip(*map(detector_input.padded_size, resized), strict=True)
    largest = max(heights), max(widths)
    padded = [detector_input.pad(image, largest) for image in resized]
    return TrainingBatch(torch.cat(padded), transforms, boxes, labels)


def stretched_training_batch(
    samples: Sequence[Sample],
    size: Size,
    generator: np.random.Generator,
    device: str,
    augmentation: Augmentation,
    normalise: Callable[[Tensor], Tensor],
    *,
    difficult: bool = False,
) -> TrainingBatch:
    """Augment images and stretch them to one size, as SSD and YOLO do.

    `normalise` maps uint8 [1, H, W, 3] to [1, 3, H, W]. For `difficult` see `trainable_objects`.
    """
    pixels, transforms, boxes, labels = [], [], [], []
    for sample in samples:
        corners, classes = trainable_objects(sample, difficult=difficult)
        original = images.of_sample(sample)
        image, corners, indices = PHOTOGRAPH_AUGMENTATIONS[augmentation](original, corners, generator)
        resized = images.resize(image, *size)
        pixels.append(normalise(images.to_uint8_tensor([resized], device)))
        transforms.append(detector_input.stretch((image.shape[0], image.shape[1]), size))
        boxes.append(_to_float_tensor(transforms[-1].apply(corners), device))
        labels.append(torch.from_numpy(classes[indices]).to(device))
    return TrainingBatch(torch.cat(pixels), transforms, boxes, labels)


def _to_float_tensor(boxes: NDArray[np.float64], device: str) -> Tensor:
    return torch.from_numpy(boxes).float().to(device)
