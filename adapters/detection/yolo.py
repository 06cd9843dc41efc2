"""YOLO: a grid of cells, each of which predicts boxes and a class in one pass (Redmon et al. 2016)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torchvision.ops import batched_nms

from adapters import images
from adapters.backbone import Backbone, ConvNorm
from adapters.detection import yolo_grid, yolov1
from adapters.detection.detector_input import DetectorInput, Size, framed_input, stretched_input
from adapters.detection.finite import check_finite
from adapters.detection.training_batch import TrainingBatch, framed_training_batch, stretched_training_batch
from adapters.detection.training_images import Augmentation
from adapters.torch_adapter import TorchAdapter
from adapters.vision.input_size import InputSizeOptions
from adapters.vision.pretrained import BackboneOptions
from harness.adapter import Exportable
from harness.task import Detections, Prediction, Sample

STRIDE = 16  # px of the small network's input per cell
STAGES = 4  # stages of its backbone, down to that stride
DETECTIONS_PER_IMAGE = 100  # COCO's AP counts at most 100
MAX_CANDIDATES = 400  # candidates per image that enter suppression; torchvision's SSD takes 400 per class


class YoloOptions(BackboneOptions, InputSizeOptions):
    """Options of `yolo`."""

    backbone: Literal["small", "yolov1"] = "small"
    """The small network, by default for 128 px, or the paper's 24 layers, by default for 448 px."""
    grid: int = Field(8, ge=2, le=64)
    """Cells per side (the paper's S), by default 7 for `yolov1`. The input has 16 · S px per side, or 64 · S
    for `yolov1`, unless `input_size` is set: then it determines rows and columns."""
    boxes: int = Field(2, ge=1, le=8)
    """Predictors per cell, B in the paper."""
    augmentation: Augmentation | None = None
    """Variation of training images, by default `digits` for the small network and `yolo` for the paper's."""
    score_threshold: float = Field(0.005, ge=0, le=1)
    """Minimum score of a detection, low because average precision uses the whole precision–recall curve."""
    nms_iou: float = Field(0.5, ge=0, le=1)
    """IoU above which suppression removes the lower-scored box of a class."""

    @model_validator(mode="before")
    @classmethod
    def _default_grid(cls, options: dict[str, object]) -> dict[str, object]:
        return {"grid": 7, **options} if options.get("backbone") == "yolov1" else options

    @model_validator(mode="after")
    def _options_fit_the_backbone(self) -> Self:
        self.check_multiple(self.stride, "a cell")
        if self.backbone == "yolov1" and self.augmentation not in (None, "yolo", "ssd"):
            raise ValueError("augmentation: expected 'yolo' or 'ssd' for yolov1")
        return self

    @property
    def stride(self) -> int:
        """Return the px of the input per cell."""
        return yolov1.STRIDE if self.backbone == "yolov1" else STRIDE

    @property
    def size(self) -> Size:
        """Return the (height, width) of the input in px."""
        return self.input_shape((self.stride * self.grid, self.stride * self.grid))

    @property
    def cells(self) -> yolo_grid.Grid:
        """Return the rows and columns of the grid."""
        return self.size[0] // self.stride, self.size[1] // self.stride


@dataclass(frozen=True, eq=False)
class YoloBatch:
    """Images and the objects for which their cells are responsible."""

    pixels: Tensor  # [N, 3, H, W]
    targets: yolo_grid.GridTargets


class Network(nn.Module):
    """The small network, from images [N, 3, 16·R, 16·S] to raw outputs [N, R, S, C + 5B]."""

    def __init__(self, classes: int, boxes: int, width: int) -> None:
        super().__init__()
        self.backbone = Backbone(width, STAGES)
        channels = self.backbone.channels[-1]
        self.context = ConvNorm(channels, channels, dilation=2)  # an object spans several cells
        self.output = nn.Conv2d(channels, classes + 5 * boxes, 1)
        nn.init.normal_(self.output.weight, std=0.01)
        with torch.no_grad():
            bias = torch.zeros(classes + 5 * boxes)
            _, confidences, raw_boxes = yolo_grid.split(bias, boxes)
            confidences.fill_(-4.0)  # few cells contain an object: a prior of .02, Lin et al. 2017 §3.3
            roots = torch.linspace(0.3, 0.7, boxes) if boxes > 1 else torch.tensor([0.5])
            raw_boxes[:, 2:] = roots[:, None]  # predictors start between 9% and 49% of the image's side
            self.output.bias = nn.Parameter(bias)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map [N, 3, 16·R, 16·S] to [N, R, S, C + 5B]."""
        maps = self.backbone(pixels)
        raw: Tensor = self.output(self.context(maps[-1]))
        return raw.permute(0, 2, 3, 1)


class Yolo(TorchAdapter[DetectorInput, Tensor, YoloBatch]):
    """YOLO (Redmon et al. 2016): a small network, or the paper's."""

    name = "yolo"
    task = "detection"
    Options = YoloOptions
    options: YoloOptions
    architecture_options = ("backbone", "grid", "boxes", "width", "input_size")
    training_options = frozenset({"augmentation"})

    def make_module(self) -> nn.Module:
        options = self.options
        if options.backbone == "yolov1":
            return yolov1.Network(len(self.classes), options.boxes, options.cells)
        return Network(len(self.classes), options.boxes, options.width)

    def preprocess(self, samples: Sequence[Sample]) -> DetectorInput:
        originals = [images.of_sample(sample) for sample in samples]
        if self._paper_scale:
            return stretched_input(originals, self.options.size, images.centred, self.runtime.device)
        return framed_input(originals, self.options.size, self.runtime.device)

    def infer(self, batch: DetectorInput) -> Tensor:
        raw: Tensor = self.module(batch.pixels)
        return raw

    def exportable(self) -> dict[str, Exportable]:
        example = torch.zeros(2, 3, *self.options.size, device=self.runtime.device)
        return {"network": Exportable(self.module, "forward", (example,), ((0,),))}

    def postprocess(self, raw: Tensor, batch: DetectorInput) -> list[Prediction]:
        check_finite(raw)
        boxes, scores = yolo_grid.decode_all(raw, self.options.boxes, self._variant)
        return [
            self._select(transform.invert(image_boxes * self._sides), image_scores)
            for transform, image_boxes, image_scores in zip(batch.transforms, boxes, scores, strict=True)
        ]

    def training_batch(self, samples: Sequence[Sample], generator: np.random.Generator) -> YoloBatch:
        batch = self._augmented(samples, generator)
        counts = torch.tensor([len(boxes) for boxes in batch.boxes])
        targets = yolo_grid.assign(
            torch.cat(batch.boxes) / self._sides,
            torch.cat(batch.labels),
            torch.arange(len(samples)).repeat_interleave(counts).to(self.runtime.device),
            self.options.cells,
            len(samples),
        )
        return YoloBatch(batch.pixels, targets)

    def loss(self, batch: YoloBatch) -> dict[str, Tensor]:
        return yolo_grid.loss(self.module(batch.pixels), batch.targets, self.options.boxes, self._variant)

    def _augmented(self, samples: Sequence[Sample], generator: np.random.Generator) -> TrainingBatch:
        options, device = self.options, self.runtime.device
        if not self._paper_scale:
            return framed_training_batch(samples, options.size, generator, device, options.augmentation)
        augmentation, normalise = options.augmentation or "yolo", images.centred
        return stretched_training_batch(samples, options.size, generator, device, augmentation, normalise)

    @property
    def _paper_scale(self) -> bool:
        return self.options.backbone == "yolov1"

    @property
    def _sides(self) -> Tensor:
        """Width and height of the input, twice: the factors from fractions to px of a box [4]."""
        height, width = self.options.size
        return torch.tensor([width, height, width, height], device=self.runtime.device)

    @property
    def _variant(self) -> yolo_grid.Variant:
        return yolo_grid.PAPER if self._paper_scale else yolo_grid.LOGISTIC

    def _select(self, boxes: Tensor, scores: Tensor) -> Detections:
        """Select one image's detections from boxes [P, 4] in its px and scores [P, C]."""
        flat = scores.flatten()
        top_scores, candidates = flat.topk(min(MAX_CANDIDATES, len(flat)))
        candidates = candidates[top_scores > self.options.score_threshold]
        scores_selected = flat[candidates]
        labels, boxes = candidates % scores.shape[1], boxes[candidates // scores.shape[1]]
        kept = batched_nms(boxes, scores_selected, labels, self.options.nms_iou)[:DETECTIONS_PER_IMAGE]
        return Detections(
            boxes[kept].cpu().numpy(), scores_selected[kept].cpu().numpy(), labels[kept].cpu().numpy()
        )
