"""The option `augmentation` of the detectors: how training images are varied."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from adapters.detection import ssd_augmentation, yolo_augmentation
from adapters.detection.box_augmentation import AugmentedImage
from harness.task import Image

RegionAugmentation: TypeAlias = Literal["none", "digits", "flip"]
Augmentation: TypeAlias = Literal["none", "digits", "flip", "yolo", "ssd"]
"""Variation of training images:

- `digits`: shifts, permuted and inverted colours, no flips.
- `flip`: half of the images are mirrored (Girshick 2015 §2.3).
- `yolo`: also scale, translation, exposure and saturation (Redmon et al. 2016 §2.2).
- `ssd`: also colours, a larger canvas and crops (Liu et al. 2016 §2.2 and §3.6).
"""


def _augment_as_yolo(
    image: Image, boxes: NDArray[np.float64], generator: np.random.Generator
) -> AugmentedImage:
    window, clipped, indices = yolo_augmentation.augment(image, boxes, generator)
    return AugmentedImage(yolo_augmentation.distort_exposure(window, generator), clipped, indices)


PHOTOGRAPH_AUGMENTATIONS: Mapping[
    str | None, Callable[[Image, NDArray[np.float64], np.random.Generator], AugmentedImage]
] = {"yolo": _augment_as_yolo, "ssd": ssd_augmentation.augment}
"""Augmentations that change an image before it is resized."""
