"""SSD's augmentation of photographs, worth 19 points of VOC07 mAP (Liu et al. 2016, table 2).

In order: the colours are distorted, the image is placed on a larger canvas (§3.6: small objects), a part is
cropped that has a minimum overlap with an object (§2.2), and the result is mirrored.
"""

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torchvision.ops import box_iou

from adapters import images
from adapters.detection.training_images import MIRROR_PROBABILITY, AugmentedImage, mirrored
from harness.task import Image

# Minimum IoU of a crop with an object; 0: any crop, None: the whole image. §2.2.
MIN_OVERLAPS = (0.1, 0.3, 0.5, 0.7, 0.9, 0.0, None)
TRIALS = 50  # crops drawn per minimum overlap; Liu's published code, as are the next four lines
MAX_ZOOM = 4.0  # side of the largest canvas / side of the image
ZOOM_PROBABILITY = DISTORTION_PROBABILITY = 0.5  # per image; per image and kind of distortion
BRIGHTNESS, HUE = 32, 18  # maximum change in levels (of 255), in degrees
CONTRAST, SATURATION = (0.5, 1.5), (0.5, 1.5)  # smallest and largest factor
# Limits of a crop: minimum side / side of the image, instead of an area of .1 to 1 as in §2.2; height / width
# as in §2.2.
MIN_SIDE, ASPECT_RATIOS = 0.3, (0.5, 2.0)

Boxes = NDArray[np.float64]


def augment(image: Image, boxes: Boxes, generator: np.random.Generator) -> AugmentedImage:
    """Apply all steps to an image and its boxes [m, 4]."""
    image = distort_colours(image, generator)
    if generator.random() < ZOOM_PROBABILITY:
        image, boxes = zoom_out(image, boxes, generator)
    image, boxes, indices = crop(image, boxes, generator)
    if generator.random() < MIRROR_PROBABILITY:
        image, boxes = mirrored(image, boxes)
    return AugmentedImage(image, boxes, indices)


def distort_colours(image: Image, generator: np.random.Generator) -> Image:
    """Change brightness, contrast, saturation and hue, each with DISTORTION_PROBABILITY."""
    pixels = image.astype(np.float32)
    if generator.random() < DISTORTION_PROBABILITY:
        pixels += generator.uniform(-BRIGHTNESS, BRIGHTNESS)
    if generator.random() < DISTORTION_PROBABILITY:
        pixels *= generator.uniform(*CONTRAST)
    hsv = PIL.Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert("HSV")
    hue, saturation, value = (np.asarray(band, dtype=np.float32) for band in hsv.split())
    if generator.random() < DISTORTION_PROBABILITY:
        saturation = (saturation * generator.uniform(*SATURATION)).clip(0, 255)
    if generator.random() < DISTORTION_PROBABILITY:
        hue = (hue + generator.uniform(-HUE, HUE) * 256 / 360) % 256
    bands = np.stack([hue, saturation, value], axis=-1).astype(np.uint8)
    return np.asarray(PIL.Image.fromarray(bands, mode="HSV").convert("RGB"))


def zoom_out(image: Image, boxes: Boxes, generator: np.random.Generator) -> tuple[Image, Boxes]:
    """Place an image at random on a canvas of up to 16 times its area, filled with ImageNet's mean colour."""
    height, width = image.shape[:2]
    ratio = generator.uniform(1, MAX_ZOOM)
    top, left = (int(generator.uniform(0, side * ratio - side)) for side in (height, width))
    mean = np.array(images.IMAGENET[0]) * 255
    canvas = np.broadcast_to(mean.astype(np.uint8), (int(height * ratio), int(width * ratio), 3)).copy()
    canvas[top : top + height, left : left + width] = image
    return canvas, boxes + np.array([left, top, left, top])


def crop(image: Image, boxes: Boxes, generator: np.random.Generator) -> AugmentedImage:
    """Crop a part of an image; objects with their centre in it remain, clipped to the crop."""
    height, width = image.shape[:2]
    all_indices = np.arange(len(boxes))
    while len(boxes):
        min_overlap = MIN_OVERLAPS[int(generator.integers(len(MIN_OVERLAPS)))]
        if min_overlap is None:
            break
        for _ in range(TRIALS):
            window = _draw_window(height, width, generator)
            # the maximum of all objects, as in Liu's published code
            if window is None:
                continue
            overlaps = box_iou(torch.from_numpy(boxes), torch.from_numpy(window)[None].double())
            if overlaps.max() < min_overlap:
                continue
            centres = (boxes[:, :2] + boxes[:, 2:]) / 2
            indices = all_indices[((centres > window[:2]) & (centres < window[2:])).all(axis=1)]
            if len(indices):
                left, top, right, bottom = window
                origin, limit = np.tile(window[:2], 2), np.tile(window[2:], 2)
                clipped = np.clip(boxes[indices], origin, limit) - origin
                cropped = np.ascontiguousarray(image[top:bottom, left:right])
                return AugmentedImage(cropped, clipped, indices)
    return AugmentedImage(image, boxes, all_indices)


def _draw_window(height: int, width: int, generator: np.random.Generator) -> NDArray[np.int64] | None:
    """Draw the corners (x1, y1, x2, y2) of a crop; return None if its aspect ratio is not allowed."""
    high, wide = (int(side * generator.uniform(MIN_SIDE, 1)) for side in (height, width))
    if min(high, wide) < 1 or not ASPECT_RATIOS[0] <= high / wide <= ASPECT_RATIOS[1]:
        return None
    left, top = int(generator.integers(0, width - wide + 1)), int(generator.integers(0, height - high + 1))
    return np.array([left, top, left + wide, top + high])
