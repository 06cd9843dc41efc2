"""Training batches of photographs: random scale, mirror image, crop, as torchvision trains its FCNs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import PIL.Image
import torch

from adapters import images
from adapters.segmentation.segmenter import TrainingBatch
from harness.task import IGNORED, Image, Mask, Sample

SHORTER = 520  # px, of an image at scale 1; torchvision's reference training, as are all four
SCALES = (0.5, 2.0)
CROP = 480  # px
MIRRORED = 0.5  # of the images


def training_batch(
    samples: Sequence[Sample], generator: np.random.Generator, device: str, crop: int = CROP
) -> TrainingBatch:
    """Square crops of `crop` px; pixels outside the image are not learnt from."""
    pictures, masks = [], []
    for sample in samples:
        assert isinstance(sample.target, np.ndarray)
        picture, mask = augmented(images.of_sample(sample), sample.target, generator, crop)
        pictures.append(picture)
        masks.append(mask)
    pixels = images.standardised(images.to_uint8_tensor(pictures, device))
    return TrainingBatch(pixels, torch.from_numpy(np.stack(masks)).to(device).long())


def augmented(
    image: Image, mask: Mask, generator: np.random.Generator, crop: int = CROP
) -> tuple[Image, Mask]:
    """One image and its mask, scaled, mirrored and cropped alike: [crop, crop, 3], [crop, crop]."""
    height, width = mask.shape
    scale = generator.uniform(*SCALES) * SHORTER / min(height, width)
    height, width = max(1, round(scale * height)), max(1, round(scale * width))
    image = images.resize(image, height, width)
    # A class between two classes is none: the nearest pixel's.
    mask = np.asarray(PIL.Image.fromarray(mask).resize((width, height), PIL.Image.Resampling.NEAREST))
    if generator.random() < MIRRORED:
        image, mask = image[:, ::-1], mask[:, ::-1]
    top = int(generator.integers(0, max(0, height - crop) + 1))
    left = int(generator.integers(0, max(0, width - crop) + 1))
    part = mask[top : top + crop, left : left + crop]
    outside = np.full((crop, crop), IGNORED, dtype=np.uint8)
    outside[: part.shape[0], : part.shape[1]] = part
    return images.pad(image[top : top + crop, left : left + crop], crop, crop), outside
