"""YOLO: one look at the picture, a grid of cells that each predict boxes and a class (Redmon et al. 2016).

The layers are small ones for pictures of 128 px; grid, predictors and loss are the paper's (see grid.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from adapters import augmentation, images
from adapters.backbone import Backbone, ConvNorm
from adapters.detection import grid
from adapters.detection.nms import suppress_per_class
from adapters.torch_adapter import TorchAdapter
from harness.adapter import AdapterOptions
from harness.task import Annotations, Detections, Prediction, Sample

STRIDE = 16  # px of the input per cell
STAGES = 4  # of the backbone, down to that stride
MOST_DETECTIONS = 100  # per image, what COCO's AP looks at
MOST_CANDIDATES = 400  # before suppression; SSD's, Liu et al. 2016 §3.1


class YoloOptions(AdapterOptions):
    """The first three shape the weights."""

    grid: int = Field(8, ge=2, le=64)
    """S, cells a side; the input is 16 · S pixels a side."""
    boxes: int = Field(2, ge=1, le=8)
    """B, predictors a cell."""
    width: int = Field(16, ge=4, le=64)
    """Channels of the backbone's first stage."""
    score_threshold: float = Field(0.005, ge=0, le=1)
    """Low, since average precision wants the whole curve."""
    nms_iou: float = Field(0.5, ge=0, le=1)


@dataclass(frozen=True, eq=False)
class Batch:
    """Images fitted into the model's square, and what maps boxes back."""

    pixels: Tensor  # [N, 3, 16·S, 16·S]
    factors: list[tuple[float, float]]  # original → input pixels, (x, y)
    sizes: list[tuple[int, int]]  # original (width, height)


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """Images and the objects in them."""

    pixels: Tensor  # [N, 3, 16·S, 16·S]
    targets: grid.Targets


class Network(nn.Module):
    """[N, 3, 16·S, 16·S] → [N, S, S, C + 5B]."""

    def __init__(self, classes: int, boxes: int, width: int) -> None:
        super().__init__()
        self.backbone = Backbone(width, STAGES)
        channels = self.backbone.channels[-1]
        self.context = ConvNorm(channels, channels, dilation=2)  # an object reaches over several cells
        self.output = nn.Conv2d(channels, classes + 5 * boxes, 1)
        nn.init.normal_(self.output.weight, std=0.01)
        with torch.no_grad():
            bias = torch.zeros(classes + 5 * boxes)
            _, confidences, places = grid.split(bias, boxes)
            confidences.fill_(-4.0)  # few cells hold an object; prior of .02, Lin et al. 2017 §3.3
            roots = torch.linspace(0.3, 0.7, boxes) if boxes > 1 else torch.tensor([0.5])
            places[:, 2:] = roots[:, None]  # predictors start as small and large, 9% and 49% of the side
            self.output.bias = nn.Parameter(bias)

    def forward(self, pixels: Tensor) -> Tensor:
        maps = self.backbone(pixels)
        raw: Tensor = self.output(self.context(maps[-1]))
        return raw.permute(0, 2, 3, 1)


class Yolo(TorchAdapter):
    """YOLO on a square into which the image is fitted."""

    name = "yolo"
    task = "detection"
    Options = YoloOptions
    shaping = ("grid", "boxes", "width")

    def make_module(self) -> nn.Module:
        return Network(len(self.classes), self.options.boxes, self.options.width)

    def preprocess(self, samples: Sequence[Sample]) -> Batch:
        originals = [images.of(sample) for sample in samples]
        fitted = [images.fit(image, self._side) for image in originals]
        pixels = images.to_tensor([image for image, _ in fitted], self.runtime.device)
        sizes = [(image.shape[1], image.shape[0]) for image in originals]
        return Batch(pixels, [factors for _, factors in fitted], sizes)

    def infer(self, batch: Batch) -> Tensor:
        raw: Tensor = self.module(batch.pixels)
        return raw

    def postprocess(self, raw: Tensor, batch: Batch) -> list[Prediction]:
        boxes, scores = grid.decode_all(raw, self.options.boxes)
        return [
            self._detections(boxes[i] * self._side, scores[i], factors, size)
            for i, (factors, size) in enumerate(zip(batch.factors, batch.sizes, strict=True))
        ]

    def training_batch(self, samples: Sequence[Sample], generator: np.random.Generator) -> TrainingBatch:
        side = self._side
        pictures, boxes, labels = [], [], []
        for sample in samples:
            target = sample.target
            assert isinstance(target, Annotations)
            picture, factors = images.fit(images.of(sample), side)
            corners = target.boxes[~target.crowd] * (*factors, *factors)
            low = corners[:, :2].min(axis=0, initial=side)
            high = corners[:, 2:].max(axis=0, initial=0)
            right = augmentation.draw_shift(generator, low[0], high[0], side)
            down = augmentation.draw_shift(generator, low[1], high[1], side)
            moved = augmentation.shifted(picture, down, right)
            pictures.append(augmentation.recoloured(generator, moved))
            boxes.append(torch.from_numpy((corners + np.array([right, down, right, down])) / side).float())
            labels.append(torch.from_numpy(target.labels[~target.crowd]))
        owners = torch.arange(len(samples)).repeat_interleave(torch.tensor([len(own) for own in boxes]))
        device = self.runtime.device
        targets = grid.assign(
            torch.cat(boxes).to(device),
            torch.cat(labels).to(device),
            owners.to(device),
            self.options.grid,
            len(samples),
        )
        return TrainingBatch(images.to_tensor(pictures, device), targets)

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        return grid.loss(self.module(batch.pixels), batch.targets, self.options.boxes)

    @property
    def _side(self) -> int:
        side: int = STRIDE * self.options.grid
        return side

    def _detections(
        self, boxes: Tensor, scores: Tensor, factors: tuple[float, float], size: tuple[int, int]
    ) -> Detections:
        """One image's candidates, boxes [P, 4] in input pixels and scores [P, C] → what is reported."""
        boxes = boxes / boxes.new_tensor([*factors, *factors])
        boxes = torch.minimum(boxes.clamp(min=0), boxes.new_tensor([*size, *size]))
        flat = scores.flatten()
        best, chosen = flat.topk(min(MOST_CANDIDATES, len(flat)))
        chosen = chosen[best > self.options.score_threshold]
        labels, boxes = chosen % scores.shape[1], boxes[chosen // scores.shape[1]]
        kept = suppress_per_class(boxes, flat[chosen], labels, self.options.nms_iou)[:MOST_DETECTIONS]
        return Detections(
            boxes[kept].cpu().numpy(), flat[chosen][kept].cpu().numpy(), labels[kept].cpu().numpy()
        )
