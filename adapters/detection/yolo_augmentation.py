"""YOLO's augmentation of photographs (Redmon et al. 2016 §2.2): scale, translation, exposure, saturation."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from adapters import images
from adapters.detection.training_images import MIRROR_PROBABILITY, AugmentedImage, mirrored
from harness.task import Image

JITTER = 0.2  # maximum scaling and translation as a fraction of the image's size, §2.2
MAX_FACTOR = 1.5  # of exposure and saturation, §2.2
MIN_SIDE = 1e-3  # fraction of the window's side; objects clipped to less are dropped (published code)


def augment(image: Image, boxes: NDArray[np.float64], generator: np.random.Generator) -> AugmentedImage:
    """Apply all steps to an image and its boxes [m, 4], and mirror half of the images."""
    window, clipped, indices = jitter(image, boxes, generator)
    if generator.random() < MIRROR_PROBABILITY:
        window, clipped = mirrored(window, clipped)
    return AugmentedImage(distort_exposure(window, generator), clipped, indices)


def jitter(image: Image, boxes: NDArray[np.float64], generator: np.random.Generator) -> AugmentedImage:
    """Move each edge of an image by up to 20% inwards or outwards, filled with grey; clip the boxes."""
    height, width = image.shape[:2]
    spread = np.array([width, height, width, height]) * JITTER
    edges = np.array([0, 0, width, height]) + generator.uniform(-spread, spread)
    left, top, right, bottom = (int(edge) for edge in edges.round())
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    window = np.full((bottom - top, right - left, 3), images.GREY, dtype=np.uint8)
    visible = image[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    down, across = max(-top, 0), max(-left, 0)
    window[down : down + visible.shape[0], across : across + visible.shape[1]] = visible
    limits = np.array([right - left, bottom - top] * 2)
    corners = (boxes - (left, top, left, top)).clip(0, limits)
    large = (corners[:, 2:] - corners[:, :2] > MIN_SIDE * limits[:2]).all(axis=1)
    indices = large.nonzero()[0]
    return AugmentedImage(window, corners[indices], indices)


def distort_exposure(image: Image, generator: np.random.Generator) -> Image:
    """Multiply or divide saturation and exposure (HSV) by up to MAX_FACTOR."""
    factors = generator.uniform(1, MAX_FACTOR, 2) ** generator.choice([-1, 1], 2)
    hsv = np.asarray(PILImage.fromarray(image).convert("HSV")).astype(np.float64)
    hsv[..., 1:] *= factors
    distorted = hsv.round().clip(0, 255).astype(np.uint8)
    return np.asarray(PILImage.fromarray(distorted, "HSV").convert("RGB"))
