"""SSD's augmentation of photographs: without it, 19 points of VOC07 mAP are lost (Liu et al. 2016, table 2).

In order: colours distorted, the picture put on a larger canvas (§3.6: small objects), a part cut out that
keeps a minimal overlap with an object (§2.2), mirrored.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from adapters import images
from adapters.detection.views import MIRRORED, TrainingViews, Varied, mirrored, stretched_lessons
from harness.task import Image, Sample

OVERLAPS = (0.1, 0.3, 0.5, 0.7, 0.9, 0.0, None)  # least IoU with an object; 0: any part, None: all. §2.2
TRIALS = 50  # draws for one overlap; Liu's published code, as are the next three
ZOOM = 4.0  # the largest canvas by the picture's side
ZOOMED = DISTORTED = 0.5  # of the pictures
BRIGHTNESS, CONTRAST, SATURATION, HUE = 32, (0.5, 1.5), (0.5, 1.5), 18  # levels, factors, factors, degrees
LEAST_SIDE, ASPECTS = 0.3, (0.5, 2.0)  # of a part: §2.2 has an area of .1 to 1; aspects as there

Boxes = NDArray[np.float64]


def lessons(
    samples: Sequence[Sample], side: int, generator: np.random.Generator, device: str
) -> TrainingViews:
    """Pictures stretched to a square of `side` px; crowds are not learnt from."""
    return stretched_lessons(
        samples,
        side,
        partial(augmented, generator=generator),
        lambda picture: images.of_vgg(images.to_bytes([picture], device)),
        device,
        difficult=True,
    )


def augmented(image: Image, boxes: Boxes, generator: np.random.Generator) -> Varied:
    """One picture and its boxes [m, 4], all of this in turn."""
    image = distorted(image, generator)
    if generator.random() < ZOOMED:
        image, boxes = zoomed_out(image, boxes, generator)
    image, boxes, kept = cut_out(image, boxes, generator)
    if generator.random() < MIRRORED:
        image, boxes = mirrored(image, boxes)
    return image, boxes, kept


def distorted(image: Image, generator: np.random.Generator) -> Image:
    """Brightness, contrast, saturation and hue, each in half of the pictures."""
    pixels = image.astype(np.float32)
    if generator.random() < DISTORTED:
        pixels += generator.uniform(-BRIGHTNESS, BRIGHTNESS)
    if generator.random() < DISTORTED:
        pixels *= generator.uniform(*CONTRAST)
    coloured = PIL.Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert("HSV")
    hue, saturation, value = (np.asarray(band, dtype=np.float32) for band in coloured.split())
    if generator.random() < DISTORTED:
        saturation = (saturation * generator.uniform(*SATURATION)).clip(0, 255)
    if generator.random() < DISTORTED:
        hue = (hue + generator.uniform(-HUE, HUE) * 256 / 360) % 256
    bands = np.stack([hue, saturation, value], axis=-1).astype(np.uint8)
    return np.asarray(PIL.Image.fromarray(bands, mode="HSV").convert("RGB"))


def zoomed_out(image: Image, boxes: Boxes, generator: np.random.Generator) -> tuple[Image, Boxes]:
    """The picture somewhere on a canvas up to 16 times its area, of ImageNet's mean colour."""
    height, width = image.shape[:2]
    ratio = generator.uniform(1, ZOOM)
    top, left = (int(generator.uniform(0, side * ratio - side)) for side in (height, width))
    mean = np.array(images.IMAGENET[0]) * 255
    canvas = np.broadcast_to(mean.astype(np.uint8), (int(height * ratio), int(width * ratio), 3)).copy()
    canvas[top : top + height, left : left + width] = image
    return canvas, boxes + np.array([left, top, left, top])


def cut_out(image: Image, boxes: Boxes, generator: np.random.Generator) -> Varied:
    """A part of the picture; an object stays if its centre is in it, cut to what is seen."""
    height, width = image.shape[:2]
    everything = np.arange(len(boxes))
    while len(boxes):
        least = OVERLAPS[int(generator.integers(len(OVERLAPS)))]
        if least is None:
            break
        for _ in range(TRIALS):
            part = _part(height, width, generator)
            if part is None or _ious(boxes, part).max() < least:  # of any object, in Liu's published code
                continue
            centres = (boxes[:, :2] + boxes[:, 2:]) / 2
            kept = everything[((centres > part[:2]) & (centres < part[2:])).all(axis=1)]
            if len(kept):
                left, top, right, bottom = part
                seen = np.clip(boxes[kept], np.tile(part[:2], 2), np.tile(part[2:], 2)) - np.tile(part[:2], 2)
                return np.ascontiguousarray(image[top:bottom, left:right]), seen, kept
    return image, boxes, everything


def _part(height: int, width: int, generator: np.random.Generator) -> NDArray[np.int64] | None:
    """x1 y1 x2 y2 of a random part; None where its aspect is not allowed."""
    high, wide = (int(side * generator.uniform(LEAST_SIDE, 1)) for side in (height, width))
    if min(high, wide) < 1 or not ASPECTS[0] <= high / wide <= ASPECTS[1]:
        return None
    left, top = int(generator.integers(0, width - wide + 1)), int(generator.integers(0, height - high + 1))
    return np.array([left, top, left + wide, top + high])


def _ious(boxes: Boxes, part: NDArray[np.int64]) -> NDArray[np.float64]:
    shared = (
        (np.minimum(boxes[:, 2:], part[2:]) - np.maximum(boxes[:, :2], part[:2])).clip(min=0).prod(axis=1)
    )
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return np.asarray(shared / (areas + (part[2:] - part[:2]).prod() - shared))
