"""Images as a detector sees them, and the way back for its boxes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adapters import augmentation, images
from adapters.detection.boxes import clip
from harness.task import Annotations, Image, Sample

MULTIPLE = 32  # px, that heights and widths are padded to: the coarsest stride of the trunks
MIRRORED = 0.5  # of the training images; Girshick 2015 §2.3
Size = tuple[int, int]
"""(height, width), px."""
Varied = tuple[Image, NDArray[np.float64], NDArray[np.int64]]
"""A training picture, the boxes that are left in it [m, 4], and which of the given ones they are."""


@dataclass(frozen=True, eq=False)
class Group:
    """Images of one padded size; what surrounds an image depends on the image alone, not on the batch."""

    pixels: Tensor  # [n, 3, H, W]
    members: list[int]  # places in the batch
    inside: list[Size]  # of each image without its padding


@dataclass(frozen=True, eq=False)
class Views:
    """A batch."""

    groups: list[Group]
    factors: list[tuple[float, float]]  # original → seen pixels, (x, y)
    sizes: list[Size]  # of the originals

    def restored(self, place: int, boxes: Tensor) -> Tensor:
        """Boxes in seen pixels → in pixels of the original, cut to it: [n, 4]."""
        x, y = self.factors[place]
        return clip(boxes / boxes.new_tensor([x, y, x, y]), self.sizes[place])


@dataclass(frozen=True)
class Placement:
    """Where an image lies in its view: x ↦ factor · x + shift along each axis; below 0 if mirrored."""

    factors: tuple[float, float]
    shift: tuple[float, float] = (0.0, 0.0)

    def seen(self, boxes: NDArray[np.generic]) -> NDArray[np.float64]:
        """Boxes [n, 4] in px of the image → in px of the view."""
        corners = boxes * np.array([*self.factors, *self.factors]) + np.array([*self.shift, *self.shift])
        low, high = corners[:, :2], corners[:, 2:]
        return np.concatenate([np.minimum(low, high), np.maximum(low, high)], axis=1)


@dataclass(frozen=True, eq=False)
class TrainingViews:
    """Images of one size and the objects in them."""

    pixels: Tensor  # [N, 3, H, W]
    inside: list[Size]
    boxes: list[Tensor]  # per image, [Mᵢ, 4] in seen pixels
    labels: list[Tensor]  # per image, [Mᵢ]
    placements: list[Placement] = field(default_factory=list)  # for models that search the images for regions


def square(originals: Sequence[Image], side: int, device: str) -> Views:
    """Scaled to fit a square, padded with grey; values −1…1."""
    fitted = [images.fit(image, side) for image in originals]
    pixels = images.to_tensor([image for image, _ in fitted], device)
    group = Group(pixels, list(range(len(originals))), [(side, side)] * len(originals))
    sizes = [(image.shape[0], image.shape[1]) for image in originals]
    return Views([group], [factors for _, factors in fitted], sizes)


def photographs(originals: Sequence[Image], shorter: int, longer: int, device: str) -> Views:
    """The shorter side scaled to `shorter` px unless the longer exceeds `longer`; ImageNet-standardised."""
    members: dict[Size, list[int]] = defaultdict(list)
    scaled, factors = [], []
    for place, image in enumerate(originals):
        pixels = _scaled(image, shorter, longer, device)
        height, width = pixels.shape[-2:]
        members[_padded(height), _padded(width)].append(place)
        scaled.append(pixels)
        factors.append((width / image.shape[1], height / image.shape[0]))
    groups = [
        Group(
            torch.cat([_pad(scaled[place], size) for place in places]),
            places,
            [(scaled[place].shape[2], scaled[place].shape[3]) for place in places],
        )
        for size, places in members.items()
    ]
    return Views(groups, factors, [(image.shape[0], image.shape[1]) for image in originals])


def stretched(
    originals: Sequence[Image], side: int, colours: Callable[[Tensor], Tensor], device: str
) -> Views:
    """Scaled to a square whatever their proportions, as SSD and YOLO do.

    Args:
        colours: [N, H, W, 3], uint8 → [N, 3, H, W].
    """
    pixels = [colours(images.to_bytes([image], device)) for image in originals]
    scaled = [
        nn.functional.interpolate(one, (side, side), mode="bilinear", align_corners=False) for one in pixels
    ]
    group = Group(torch.cat(scaled), list(range(len(originals))), [(side, side)] * len(originals))
    sizes = [(image.shape[0], image.shape[1]) for image in originals]
    return Views([group], [(side / width, side / height) for height, width in sizes], sizes)


def square_lessons(
    samples: Sequence[Sample], side: int, generator: np.random.Generator, device: str
) -> TrainingViews:
    """Digits: moved without being cut, recoloured, never mirrored. Crowds are not learnt from."""
    pictures, boxes, labels, placements = [], [], [], []
    for sample in samples:
        original, classes = learnt_objects(sample)
        picture, factors = images.fit(images.of(sample), side)
        corners = Placement(factors).seen(original)
        low = corners[:, :2].min(axis=0, initial=side)
        high = corners[:, 2:].max(axis=0, initial=0)
        right = augmentation.draw_shift(generator, low[0], high[0], side)
        down = augmentation.draw_shift(generator, low[1], high[1], side)
        moved = augmentation.shifted(picture, down, right)
        pictures.append(augmentation.recoloured(generator, moved))
        placements.append(Placement(factors, (right, down)))
        boxes.append(torch.from_numpy(placements[-1].seen(original)).float().to(device))
        labels.append(torch.from_numpy(classes).to(device))
    pixels = images.to_tensor(pictures, device)
    return TrainingViews(pixels, [(side, side)] * len(samples), boxes, labels, placements)


def photograph_lessons(
    samples: Sequence[Sample], shorter: int, longer: int, generator: np.random.Generator, device: str
) -> TrainingViews:
    """Photographs: half of them mirrored, padded to the largest. Crowds are not learnt from."""
    scaled, boxes, labels, placements = [], [], [], []
    for sample in samples:
        image = images.of(sample)
        corners, classes = learnt_objects(sample)
        pixels = _scaled(image, shorter, longer, device)
        x, y = pixels.shape[3] / image.shape[1], pixels.shape[2] / image.shape[0]
        placement = Placement((x, y))
        if generator.random() < MIRRORED:
            pixels, placement = pixels.flip(3), Placement((-x, y), (pixels.shape[3], 0))
        scaled.append(pixels)
        placements.append(placement)
        boxes.append(torch.from_numpy(placement.seen(corners)).float().to(device))
        labels.append(torch.from_numpy(classes).to(device))
    largest = (max(_padded(one.shape[2]) for one in scaled), max(_padded(one.shape[3]) for one in scaled))
    pixels = torch.cat([_pad(one, largest) for one in scaled])
    inside = [(one.shape[2], one.shape[3]) for one in scaled]
    return TrainingViews(pixels, inside, boxes, labels, placements)


def stretched_lessons(
    samples: Sequence[Sample],
    side: int,
    varied: Callable[[Image, NDArray[np.float64]], Varied],
    colours: Callable[[Image], Tensor],
    device: str,
    *,
    difficult: bool = False,
) -> TrainingViews:
    """Pictures that are varied and stretched to a square, as SSD and YOLO learn from them.

    Args:
        varied: a picture and its boxes.
        colours: a stretched picture → [1, 3, side, side].
        difficult: see `learnt_objects`.
    """
    pixels, boxes, labels = [], [], []
    for sample in samples:
        corners, classes = learnt_objects(sample, difficult=difficult)
        image, corners, kept = varied(images.of(sample), corners)
        x, y = side / image.shape[1], side / image.shape[0]
        pixels.append(colours(images.resize(image, side, side)))
        boxes.append(torch.from_numpy(corners * (x, y, x, y)).float().to(device))
        labels.append(torch.from_numpy(classes[kept]).to(device))
    return TrainingViews(torch.cat(pixels), [(side, side)] * len(samples), boxes, labels)


def mirrored(image: Image, boxes: NDArray[np.float64]) -> tuple[Image, NDArray[np.float64]]:
    """Left and right exchanged, of a picture and its boxes [m, 4]."""
    width = image.shape[1]
    x1, y1, x2, y2 = boxes.T
    return np.ascontiguousarray(image[:, ::-1]), np.stack([width - x2, y1, width - x1, y2], axis=1)


def learnt_objects(
    sample: Sample, *, difficult: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Boxes and labels of what is learnt: no crowds, nothing without area.

    Args:
        difficult: whether VOC's difficult objects are learnt. The published code of Fast and Faster R-CNN
            (`use_diff`) and of YOLO leaves them out, Liu's of SSD (`train_on_diff_gt`) does not. Where they
            are left out, what shows them is background.
    """
    target = sample.target
    assert isinstance(target, Annotations)
    sides = target.boxes[:, 2:] - target.boxes[:, :2]
    keep = ~target.crowd & (sides > 0).all(axis=1)
    if not difficult:
        keep &= ~target.difficult
    return target.boxes[keep], target.labels[keep]


def _scaled(image: Image, shorter: int, longer: int, device: str) -> Tensor:
    """[1, 3, h, w]: standardised, then resized without antialiasing, as published weights were trained."""
    pixels = images.standardised(images.to_bytes([image], device))
    sides = image.shape[:2]
    scale = min(shorter / min(sides), longer / max(sides))
    height, width = (max(1, int(side * scale)) for side in sides)
    return nn.functional.interpolate(pixels, (height, width), mode="bilinear", align_corners=False)


def _padded(length: int) -> int:
    return -(-length // MULTIPLE) * MULTIPLE


def _pad(pixels: Tensor, size: Size) -> Tensor:
    height, width = pixels.shape[-2:]
    return nn.functional.pad(pixels, (0, size[1] - width, 0, size[0] - height))
