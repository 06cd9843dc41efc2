"""YOLO: one look at the picture, a grid of cells that each predict boxes and a class (Redmon et al. 2016).

At two scales: a small convolutional network for pictures of 128 px, and the paper's for photographs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from adapters import images
from adapters.backbone import Backbone, ConvNorm
from adapters.detection import grid, views, yolov1
from adapters.detection.finite import check_finite
from adapters.detection.nms import suppress_per_class
from adapters.detection.views import Views
from adapters.torch_adapter import TorchAdapter, TorchOptions
from adapters.vision.pretrained import PretrainedOptions
from harness.datasets.dataset import Dataset
from harness.task import Detections, Prediction, Sample

STRIDE = 16  # px of the small network's input per cell
STAGES = 4  # of its backbone, down to that stride
MOST_DETECTIONS = 100  # per image, what COCO's AP looks at
MOST_CANDIDATES = 400  # before suppression, of all classes; as many as torchvision's SSD has of each


class YoloOptions(TorchOptions, PretrainedOptions):
    """The first four shape the weights."""

    backbone: Literal["small", "yolov1"] = "small"
    grid: int = Field(8, ge=2, le=64)
    """S, cells a side; the input is 16 · S pixels a side, with `yolov1` 64 · S, and S is 7 where not set."""
    boxes: int = Field(2, ge=1, le=8)
    """B, predictors a cell."""
    width: int = Field(16, ge=4, le=64)
    """Channels of the small backbone's first stage."""
    score_threshold: float = Field(0.005, ge=0, le=1)
    """Low, since average precision wants the whole curve."""
    nms_iou: float = Field(0.5, ge=0, le=1)
    pretrained: Path | None = None
    """Where training of the paper's network starts: see `yolov1.Network.start`."""

    @model_validator(mode="before")
    @classmethod
    def _paper(cls, given: Any) -> Any:
        return {"grid": 7, **given} if given.get("backbone") == "yolov1" else given


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """Images and the objects in them."""

    pixels: Tensor  # [N, 3, side, side]
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
    shaping = ("backbone", "grid", "boxes", "width")

    def make_module(self) -> nn.Module:
        options = self.options
        if options.backbone == "yolov1":
            return yolov1.Network(len(self.classes), options.boxes, options.grid)
        return Network(len(self.classes), options.boxes, options.width)

    def build(self, train: Dataset) -> None:
        super().build(train)
        if isinstance(self.module, yolov1.Network) and self.options.pretrained is not None:
            self.module.start(self.options.pretrained)

    def preprocess(self, samples: Sequence[Sample]) -> Views:
        originals = [images.of(sample) for sample in samples]
        if self.options.backbone == "yolov1":
            return views.stretched(originals, self._side, images.centred, self.runtime.device)
        return views.square(originals, self._side, self.runtime.device)

    def infer(self, batch: Views) -> Tensor:
        raw: Tensor = self.module(batch.groups[0].pixels)
        return raw

    def postprocess(self, raw: Tensor, batch: Views) -> list[Prediction]:
        check_finite(raw)
        boxes, scores = grid.decode_all(raw, self.options.boxes, self._form)
        return [
            self._detections(batch.restored(i, boxes[i] * self._side), scores[i]) for i in range(len(raw))
        ]

    def training_batch(self, samples: Sequence[Sample], generator: np.random.Generator) -> TrainingBatch:
        lessons = yolov1.lessons if self.options.backbone == "yolov1" else views.square_lessons
        seen = lessons(samples, self._side, generator, self.runtime.device)
        owners = torch.arange(len(samples)).repeat_interleave(torch.tensor([len(own) for own in seen.boxes]))
        targets = grid.assign(
            torch.cat(seen.boxes) / self._side,
            torch.cat(seen.labels),
            owners.to(self.runtime.device),
            self.options.grid,
            len(samples),
        )
        return TrainingBatch(seen.pixels, targets)

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        return grid.loss(self.module(batch.pixels), batch.targets, self.options.boxes, self._form)

    @property
    def _side(self) -> int:
        stride = yolov1.STRIDE if self.options.backbone == "yolov1" else STRIDE
        side: int = stride * self.options.grid
        return side

    @property
    def _form(self) -> grid.Form:
        return grid.PAPER if self.options.backbone == "yolov1" else grid.LOGISTIC

    def _detections(self, boxes: Tensor, scores: Tensor) -> Detections:
        """One image's candidates, boxes [P, 4] in its pixels and scores [P, C] → what is reported."""
        flat = scores.flatten()
        best, chosen = flat.topk(min(MOST_CANDIDATES, len(flat)))
        chosen = chosen[best > self.options.score_threshold]
        labels, boxes = chosen % scores.shape[1], boxes[chosen // scores.shape[1]]
        kept = suppress_per_class(boxes, flat[chosen], labels, self.options.nms_iou)[:MOST_DETECTIONS]
        return Detections(
            boxes[kept].cpu().numpy(), flat[chosen][kept].cpu().numpy(), labels[kept].cpu().numpy()
        )
