"""What segmentation models share: padding, grouping by size, augmentation and the pixel loss."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from adapters import augmentation, images
from adapters.torch_adapter import TorchAdapter
from harness.task import Mask, Prediction, Sample

IGNORED = 255  # value of pixels that are not learnt from
OBJECT_WEIGHT = 2.0  # of every class but the background; most pixels are background


@dataclass(frozen=True, eq=False)
class Batch:
    """Images by padded size: each is padded by its own size alone, whatever else is in the batch."""

    pixels: list[Tensor]  # per group [n, 3, H, W]
    members: list[list[int]]  # per group, places in the batch
    sizes: list[tuple[int, int]]  # (height, width) of each image of the batch


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """Images of one size and their classes."""

    pixels: Tensor  # [N, 3, H, W]
    masks: Tensor  # [N, H, W], int64


class Segmenter(TorchAdapter):
    """A module that turns [N, 3, H, W] into class scores [N, C, H, W]."""

    task = "segmentation"
    multiple: ClassVar[int]
    """Heights and widths are padded to multiples of it, px."""

    def preprocess(self, samples: Sequence[Sample]) -> Batch:
        originals = [images.of(sample) for sample in samples]
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for place, image in enumerate(originals):
            groups[self._padded(image.shape[0]), self._padded(image.shape[1])].append(place)
        pixels = [
            images.to_tensor([images.pad(originals[i], *size) for i in members], self.runtime.device)
            for size, members in groups.items()
        ]
        sizes = [(image.shape[0], image.shape[1]) for image in originals]
        return Batch(pixels, list(groups.values()), sizes)

    def infer(self, batch: Batch) -> list[Tensor]:
        """Per group the classes of highest score, [n, H, W]: far less to copy than scores."""
        return [self.module(pixels).argmax(dim=1).byte() for pixels in batch.pixels]

    def postprocess(self, raw: list[Tensor], batch: Batch) -> list[Prediction]:
        masks: dict[int, Mask] = {}
        for group, members in zip(raw, batch.members, strict=True):
            for place, mask in zip(members, group.cpu().numpy(), strict=True):
                height, width = batch.sizes[place]
                masks[place] = np.ascontiguousarray(mask[:height, :width])
        return [masks[place] for place in range(len(batch.sizes))]

    def training_batch(self, samples: Sequence[Sample], generator: np.random.Generator) -> TrainingBatch:
        pictures, masks = [], []
        for sample in samples:
            image, mask = images.of(sample), sample.target
            assert isinstance(mask, np.ndarray)
            height, width = mask.shape
            objects = (mask != 0) & (mask != IGNORED)
            rows, columns = np.flatnonzero(objects.any(axis=1)), np.flatnonzero(objects.any(axis=0))
            down = augmentation.draw_shift(
                generator, rows.min(initial=height), rows.max(initial=-1) + 1, height
            )
            right = augmentation.draw_shift(
                generator, columns.min(initial=width), columns.max(initial=-1) + 1, width
            )
            moved = augmentation.recoloured(generator, augmentation.shifted(image, down, right))
            pictures.append(images.pad(moved, self._padded(height), self._padded(width)))
            masks.append(self._pad_mask(augmentation.shifted(mask, down, right, fill=IGNORED)))
        device = self.runtime.device
        classes = torch.from_numpy(np.stack(masks)).to(device).long()
        return TrainingBatch(images.to_tensor(pictures, device), classes)

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        return {"pixels": pixel_loss(self.module(batch.pixels), batch.masks)}

    def _padded(self, length: int) -> int:
        return -(-length // self.multiple) * self.multiple

    def _pad_mask(self, mask: Mask) -> Mask:
        height, width = mask.shape
        padded = np.full((self._padded(height), self._padded(width)), IGNORED, dtype=np.uint8)
        padded[:height, :width] = mask
        return padded


def pixel_loss(scores: Tensor, masks: Tensor) -> Tensor:
    """Weighted mean cross-entropy of the pixels that are not ignored: [N, C, H, W], [N, H, W] → scalar."""
    weight = torch.full((scores.shape[1],), OBJECT_WEIGHT, device=scores.device)
    weight[0] = 1.0
    return nn.functional.cross_entropy(scores.float(), masks, weight, ignore_index=IGNORED)
