"""Training batches of photographs: random scale, flip and crop, as torchvision trains its FCNs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import PIL.Image
import torch

from adapters import images
from adapters.segmentation.segmenter import TrainingBatch
from harness.task import IGNORED, Image, Mask, Sample

# torchvision's reference training, `references/segmentation/presets.py`
SHORTER_SIDE = 520  # px, at scale 1
SCALES = (0.5, 2.0)
CROP = 480  # px
FLIP_PROBABILITY = 0.5


def training_batch(
    samples: Sequence[Sample], generator: np.random.Generator, device: str, crop: int = CROP
) -> TrainingBatch:
    """Make square crops of `crop` px; pixels outside the image are ignored by the loss."""
    crops, masks = [], []
    for sample in samples:
        assert isinstance(sample.target, np.ndarray)
        image, mask = augmented(images.of_sample(sample), sample.target, generator, crop)
        crops.append(image)
        masks.append(mask)
    pixels = images.standardised(images.to_uint8_tensor(crops, device))
    return TrainingBatch(pixels, torch.from_numpy(np.stack(masks)).to(device).long())


def augmented(
    image: Image, mask: Mask, generator: np.random.Generator, crop: int = CROP
) -> tuple[Image, Mask]:
    """Scale, flip and crop an image and its mask alike: [crop, crop, 3] and [crop, crop]."""
    height, width = mask.shape
    scale = generator.uniform(*SCALES) * SHORTER_SIDE / min(height, width)
    height, width = max(1, round(scale * height)), max(1, round(scale * width))
    image = images.resize(image, height, width)
    # Classes cannot be interpolated, so each pixel takes the class of its nearest neighbour.
    mask = np.asarray(PIL.Image.fromarray(mask).resize((width, height), PIL.Image.Resampling.NEAREST))
    if generator.random() < FLIP_PROBABILITY:
        image, mask = image[:, ::-1], mask[:, ::-1]
    top = int(generator.integers(0, max(0, height - crop) + 1))
    left = int(generator.integers(0, max(0, width - crop) + 1))
    part = mask[top : top + crop, left : left + crop]
    padded = np.full((crop, crop), IGNORED, dtype=np.uint8)
    padded[: part.shape[0], : part.shape[1]] = part
    return images.pad(image[top : top + crop, left : left + crop], crop, crop), padded
