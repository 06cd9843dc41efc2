"""Augmented training images with their boxes, and mirroring, which all detectors of photographs use."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.task import Image

MIRROR_PROBABILITY = 0.5  # per training image; Girshick 2015 §2.3


class AugmentedImage(NamedTuple):
    """A training image, its remaining boxes, and their indices among the boxes before augmentation."""

    image: Image
    boxes: NDArray[np.float64]  # [m, 4], px
    indices: NDArray[np.int64]  # [m]


def mirrored(image: Image, boxes: NDArray[np.float64]) -> tuple[Image, NDArray[np.float64]]:
    """Mirror an image and its boxes [m, 4] from left to right."""
    width = image.shape[1]
    x1, y1, x2, y2 = boxes.T
    return np.ascontiguousarray(image[:, ::-1]), np.stack([width - x2, y1, width - x1, y2], axis=1)
