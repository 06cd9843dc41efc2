"""FCN on a dilated ResNet-50: no skips, because the last map keeps stride 8.

What torchvision publishes as `fcn_resnet50`: Long et al. 2015's score layer on He et al. 2016's features,
with dilation in place of the last two strides (Yu et al. 2017, "Dilated residual networks") and an auxiliary
classifier on the stage before, for training only (Zhao et al. 2017, "Pyramid scene parsing network", §3.3).
Parameters are named as in the published file, which therefore loads directly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import Field
from torch import Tensor, nn

from adapters import images
from adapters.segmentation import photographs
from adapters.segmentation.segmenter import Segmenter, SegmenterOptions, TrainingBatch, pixel_loss
from adapters.vision.pretrained import start_from
from adapters.vision.resnet import CHANNELS, ResNet50
from harness.checkpoint import Checkpoint, load
from harness.datasets.dataset import Dataset
from harness.datasets.voc.annotations import CLASSES
from harness.errors import UsageError
from harness.task import Sample

AUXILIARY_WEIGHT = 0.5  # of the auxiliary loss; torchvision's reference training (Zhao et al. 2017: 0.4)
SCORES = "classifier.4.bias"  # has an entry a class


class FcnResNetOptions(SegmenterOptions):
    """None of it shapes the weights."""

    resize: int | None = Field(520, ge=32)
    """Shorter side at which an image, or each window, is looked at, px; none: as it is. 520 is what the
    published weights were evaluated at."""
    pretrained: Path | None = None
    """Where training starts: torchvision's published ImageNet classifier `resnet50`, a .pth file."""


class Head(nn.Sequential):
    """Features → scores: a 3×3 convolution to a quarter of the channels and a score layer."""

    def __init__(self, channels: int, classes: int) -> None:
        inner = channels // 4
        super().__init__(
            nn.Conv2d(channels, inner, 3, padding=1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Dropout(0.1),  # torchvision's
            nn.Conv2d(inner, classes, 1),
        )


class Network(nn.Module):
    """[N, 3, H, W] → scores [N, C, H, W] as "out", and while training those of the auxiliary as "aux"."""

    def __init__(self, classes: int, auxiliary: bool) -> None:
        super().__init__()
        self.backbone = ResNet50(dilated=(False, True, True))
        self.classifier = Head(CHANNELS[-1], classes)
        self.aux_classifier = Head(CHANNELS[-2], classes) if auxiliary else None

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        *_, before, last = self.backbone(pixels)
        scores = {"out": self.classifier(last)}
        if self.aux_classifier is not None and self.training:
            scores["aux"] = self.aux_classifier(before)
        size = pixels.shape[-2:]
        return {
            name: nn.functional.interpolate(coarse, size, mode="bilinear") for name, coarse in scores.items()
        }


class FcnResNet50(Segmenter):
    """FCN on a dilated ResNet-50, with torchvision's preprocessing."""

    name = "fcn-resnet50"
    Options = FcnResNetOptions
    options: FcnResNetOptions
    multiple = 1
    training_options = Segmenter.training_options | {"pretrained"}
    auxiliary = True
    """Whether there is an auxiliary classifier; some publish weights without."""

    def make_module(self) -> nn.Module:
        return Network(len(self.classes), self.auxiliary)

    def build(self, train: Dataset) -> None:
        super().build(train)
        path: Path | None = self.options.pretrained
        if path is not None:
            start_from(self.module.get_submodule("backbone"), load(path).tensors, path)

    def adopt(self, tensors: Mapping[str, Tensor]) -> Checkpoint:
        if SCORES not in tensors:
            raise UsageError(
                f"adapter '{self.name}': the file has no tensor '{SCORES}' as torchvision's have"
            )
        number = len(tensors[SCORES])
        classes: tuple[str, ...] = ("background", *CLASSES)  # in the order of the published 21
        if number != len(classes):
            classes = ("",) * number  # how many, but not which
        self.auxiliary = any(name.startswith("aux_classifier.") for name in tensors)
        return Checkpoint(tensors, self.name, options={}, classes=classes)

    def to_input(self, pixels: Tensor) -> Tensor:
        return images.standardised(pixels)

    def view_size(self, height: int, width: int) -> tuple[int, int]:
        side: int | None = self.options.resize
        if side is None:
            return height, width
        if height <= width:  # the longer side is rounded down, as torchvision does
            return side, side * width // height
        return side * height // width, side

    def scores(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.module(pixels)["out"]
        return found

    def training_batch(self, samples: Sequence[Sample], generator: np.random.Generator) -> TrainingBatch:
        return photographs.training_batch(samples, generator, self.runtime.device)

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        weights = {"out": 1.0, "aux": AUXILIARY_WEIGHT}
        return {
            name: weights[name] * pixel_loss(scores, batch.masks, self.loss_weights())
            for name, scores in self.module(batch.pixels).items()
        }

    def own_weights(self) -> list[float]:
        return [1.0] * len(self.classes)  # torchvision's reference training has none
