"""Preprocessed images of a detector, and the transform between boxes in an image and in its input."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from adapters import images
from harness.task import Image

MULTIPLE = 32  # px; heights and widths are padded to multiples of the coarsest stride of the trunks
Size = tuple[int, int]  # (height, width) in px


@dataclass(frozen=True)
class BoxTransform:
    """Transform of boxes from an image to its input: x ↦ scale · x + shift along each axis."""

    original: Size  # size of the image
    size: Size
    """Size to which boxes in the input are clipped: the frame, or the image without a batch's padding."""
    scale: tuple[float, float]  # (x, y), where x is negative if the image is mirrored
    shift: tuple[float, float] = (0.0, 0.0)  # (x, y) in px of the input

    def apply(self, boxes: NDArray[np.generic]) -> NDArray[np.float64]:
        """Transform boxes [n, 4] from px of the image to px of the input."""
        corners = boxes * np.array([*self.scale, *self.scale]) + np.array([*self.shift, *self.shift])
        low, high = corners[:, :2], corners[:, 2:]
        return np.concatenate([np.minimum(low, high), np.maximum(low, high)], axis=1)

    def invert(self, boxes: Tensor) -> Tensor:
        """Transform boxes [n, 4] from px of the input to px of the image, and clip them to it.

        Only for images that are neither shifted nor mirrored, as in inference.
        """
        assert self.shift == (0.0, 0.0) and min(self.scale) > 0
        restored: Tensor = clip_boxes_to_image(boxes / boxes.new_tensor([*self.scale] * 2), self.original)
        return restored


@dataclass(frozen=True, eq=False)
class DetectorInput:
    """Images of one padded size; the padding of an image depends on that image alone, not on the batch."""

    pixels: Tensor  # [N, 3, H, W]
    transforms: list[BoxTransform]  # per image
    indices: list[int]  # of these images in the preprocessed batch

    @property
    def sizes(self) -> list[Size]:
        """Size of each image without padding."""
        return [transform.size for transform in self.transforms]


def framed_input(originals: Sequence[Image], size: Size, device: str) -> DetectorInput:
    """Resize images to fit a frame, keeping aspect ratios, and pad with grey; values −1…1."""
    fitted = [images.fit(image, size) for image in originals]
    pixels = images.to_tensor([image for image, _ in fitted], device)
    transforms = [
        BoxTransform(_size(original), size, scale)
        for original, (_, scale) in zip(originals, fitted, strict=True)
    ]
    return DetectorInput(pixels, transforms, list(range(len(originals))))


def stretched_input(
    originals: Sequence[Image], size: Size, normalise: Callable[[Tensor], Tensor], device: str
) -> DetectorInput:
    """Resize images to one size regardless of aspect ratio, as SSD and YOLO do.

    `normalise` maps uint8 [N, H, W, 3] to [N, 3, H, W].
    """
    pixels = [normalise(images.to_uint8_tensor([image], device)) for image in originals]
    resized = [
        nn.functional.interpolate(image, size, mode="bilinear", align_corners=False) for image in pixels
    ]
    transforms = [stretch(_size(image), size) for image in originals]
    return DetectorInput(torch.cat(resized), transforms, list(range(len(originals))))


def stretch(original: Size, size: Size) -> BoxTransform:
    """Return the transform of boxes in an image that is stretched to a size."""
    return BoxTransform(original, size, (size[1] / original[1], size[0] / original[0]))


def photograph_inputs(
    originals: Sequence[Image], shorter_side: int, longer_side: int, device: str
) -> list[DetectorInput]:
    """Resize photographs as `resized_photograph` does; one input per padded size."""
    resized = [resized_photograph(image, shorter_side, longer_side, device) for image in originals]
    by_size: dict[Size, list[int]] = defaultdict(list)
    for index, (pixels, _) in enumerate(resized):
        by_size[padded_size(pixels)].append(index)
    return [
        DetectorInput(
            torch.cat([pad(resized[index][0], size) for index in indices]),
            [resized[index][1] for index in indices],
            indices,
        )
        for size, indices in by_size.items()
    ]


def resized_photograph(
    image: Image, shorter_side: int, longer_side: int, device: str
) -> tuple[Tensor, BoxTransform]:
    """Resize an image so that its shorter side is `shorter_side` px, or less if the longer one is limited.

    Returns [1, 3, h, w], standardised and then resized without antialiasing, as published weights were
    trained, and the transform of boxes.
    """
    pixels = images.standardised(images.to_uint8_tensor([image], device))
    original = _size(image)
    scale = min(shorter_side / min(original), longer_side / max(original))
    height, width = (max(1, int(side * scale)) for side in original)
    resized = nn.functional.interpolate(pixels, (height, width), mode="bilinear", align_corners=False)
    factors = (width / original[1], height / original[0])
    return resized, BoxTransform(original, (height, width), factors)


def padded_size(pixels: Tensor) -> Size:
    """Round the height and width of [N, C, H, W] up to multiples of MULTIPLE."""
    height, width = (-(-length // MULTIPLE) * MULTIPLE for length in pixels.shape[-2:])
    return height, width


def pad(pixels: Tensor, size: Size) -> Tensor:
    """Pad [N, C, H, W] with 0 to the right and below, up to the given size."""
    height, width = pixels.shape[-2:]
    return nn.functional.pad(pixels, (0, size[1] - width, 0, size[0] - height))


def _size(image: Image) -> Size:
    return image.shape[0], image.shape[1]
