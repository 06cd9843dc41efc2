"""FCN: a classifier made convolutional, whose coarse scores are upsampled and joined with finer ones.

Long, Shelhamer & Darrell 2015, "Fully Convolutional Networks for Semantic Segmentation". The backbone is
a small one for pictures of 128 px; score layers, skips and learnt upsampling are the paper's (§3.3, §4.2).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from adapters import augmentation, images
from adapters.backbone import Backbone, ConvNorm
from adapters.torch_adapter import TorchAdapter
from harness.adapter import AdapterOptions
from harness.task import Mask, Prediction, Sample

STAGES = 5  # of the backbone, down to stride 32
COARSEST = 2**STAGES  # px; inputs are padded to multiples of it
IGNORED = 255  # value of pixels that are not learnt from
OBJECT_WEIGHT = 2.0  # of every class but the background; most pixels are background


class FcnOptions(AdapterOptions):
    """Shapes the weights."""

    width: int = Field(16, ge=4, le=64)
    """Channels of the backbone's first stage."""


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


class Upsample(nn.ConvTranspose2d):
    """Learnt upsampling that starts as bilinear interpolation, each channel by itself (§3.3).

    The kernel of factor f is 2f wide: 1 − |i + ½ − f| / f for i = 0…2f−1, along both axes.
    """

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__(
            channels, channels, 2 * factor, factor, padding=factor // 2, groups=channels, bias=False
        )
        ramp = 1 - (torch.arange(2 * factor) + 0.5 - factor).abs() / factor
        with torch.no_grad():
            self.weight.copy_(ramp[:, None] * ramp)


class Network(nn.Module):
    """[N, 3, H, W] → class scores [N, C, H, W]; H and W are multiples of 32.

    Scores of stride 32 are upsampled to the next finer map, that map's scores are added, and so on down
    to stride `finest`; from there one upsampling leads to pixels.
    """

    def __init__(self, classes: int, width: int, finest: int) -> None:
        super().__init__()
        self.backbone = Backbone(width, STAGES)
        self.skips = [stage for stage in range(STAGES - 2, -1, -1) if 2 ** (stage + 1) >= finest]
        channels = self.backbone.channels
        self.context = ConvNorm(channels[-1], channels[-1])  # fc6, made convolutional
        self.score = nn.Conv2d(channels[-1], classes, 1)
        self.finer = nn.ModuleList([nn.Conv2d(channels[stage], classes, 1) for stage in self.skips])
        self.upsample = nn.ModuleList([Upsample(classes, 2) for _ in self.skips])
        self.last = Upsample(classes, finest)
        for skip in self.finer:  # so that learning starts from the coarse net's scores, §4.2
            assert isinstance(skip, nn.Conv2d) and skip.bias is not None
            nn.init.zeros_(skip.weight)
            nn.init.zeros_(skip.bias)

    def forward(self, pixels: Tensor) -> Tensor:
        maps = self.backbone(pixels)
        scores = self.score(self.context(maps[-1]))
        for stage, finer, upsample in zip(self.skips, self.finer, self.upsample, strict=True):
            scores = upsample(scores) + finer(maps[stage])
        upsampled: Tensor = self.last(scores)
        return upsampled


class Fcn8s(TorchAdapter):
    """FCN with skips from strides 16 and 8."""

    name = "fcn-8s"
    task = "segmentation"
    Options = FcnOptions
    shaping = ("width",)
    finest = 8

    def make_module(self) -> nn.Module:
        return Network(len(self.classes), self.options.width, self.finest)

    def preprocess(self, samples: Sequence[Sample]) -> Batch:
        originals = [images.of(sample) for sample in samples]
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for place, image in enumerate(originals):
            groups[_padded(image.shape[0]), _padded(image.shape[1])].append(place)
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
            pictures.append(images.pad(moved, _padded(height), _padded(width)))
            masks.append(_pad_mask(augmentation.shifted(mask, down, right, fill=IGNORED)))
        device = self.runtime.device
        classes = torch.from_numpy(np.stack(masks)).to(device).long()
        return TrainingBatch(images.to_tensor(pictures, device), classes)

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        return {"pixels": pixel_loss(self.module(batch.pixels), batch.masks)}


def pixel_loss(scores: Tensor, masks: Tensor) -> Tensor:
    """Weighted mean cross-entropy of the pixels that are not ignored: [N, C, H, W], [N, H, W] → scalar."""
    weight = torch.full((scores.shape[1],), OBJECT_WEIGHT, device=scores.device)
    weight[0] = 1.0
    return nn.functional.cross_entropy(scores.float(), masks, weight, ignore_index=IGNORED)


def _padded(length: int) -> int:
    return -(-length // COARSEST) * COARSEST


def _pad_mask(mask: Mask) -> Mask:
    height, width = mask.shape
    padded = np.full((_padded(height), _padded(width)), IGNORED, dtype=np.uint8)
    padded[:height, :width] = mask
    return padded
