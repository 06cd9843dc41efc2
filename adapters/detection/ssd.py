"""SSD: boxes and classes from maps of several strides in one shot (Liu et al. 2016)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torchvision.ops import batched_nms, clip_boxes_to_image

from adapters import images
from adapters.detection import box_regression, default_boxes, ssd_network
from adapters.detection.box_regression import SCALED_WEIGHTS
from adapters.detection.detector_input import DetectorInput, Size, framed_input, stretched_input
from adapters.detection.finite import check_finite
from adapters.detection.ssd_network import SIDE, UPRIGHT, SsdOutputs, Vgg16Network
from adapters.detection.torchvision_weights import ssd_checkpoint
from adapters.detection.training_batch import TrainingBatch, framed_training_batch, stretched_training_batch
from adapters.detection.training_images import Augmentation
from adapters.torch_adapter import TorchAdapter
from adapters.vision.input_size import InputSizeOptions
from adapters.vision.pretrained import PretrainedOptions
from harness.adapter import Exportable
from harness.checkpoint import Checkpoint
from harness.datasets.dataset import Dataset
from harness.task import Detections, Prediction, Sample


class SsdOptions(PretrainedOptions, InputSizeOptions):
    """Options of `ssd`."""

    backbone: Literal["small", "vgg16"] = "small"
    """The small network, by default for 128 px, or the paper's VGG-16, by default for 300 px."""
    aspect_ratios: tuple[Annotated[float, Field(ge=0.1, le=10)], ...] | None = Field(None, min_length=1)
    """Width / height of the small network's default boxes, by default 0.83 and 0.56 for upright digits."""
    box_scale: float | None = Field(None, ge=0.1, le=20)
    """Factor of the sizes of the small network's default boxes, which are 11 to 104 px of the input."""
    augmentation: Augmentation | None = None
    """Variation of training images, by default `digits` for the small network and `ssd` for VGG-16."""
    score_threshold: float = Field(0.01, ge=0, le=1)
    """Minimum score of a detection (Liu et al. 2016 §3.7)."""
    nms_iou: float = Field(0.45, ge=0, le=1)
    """IoU above which suppression removes the lower-scored box of a class (Liu et al. 2016 §3.7)."""
    detections_per_image: int = Field(200, ge=1)
    """Maximum detections per image (Liu et al. 2016 §3.7)."""
    topk_candidates: int = Field(400, ge=1)
    """Maximum boxes per class before suppression (torchvision)."""
    pretrained: Path | None = None
    """Weights from which VGG-16's training starts: torchvision's published `IMAGENET1K_FEATURES`, a .pth
    file. They expect inputs from `images.mean_subtracted`; the usual `IMAGENET1K_V1` does not."""

    @model_validator(mode="after")
    def _options_fit_the_backbone(self) -> Self:
        if self.backbone == "small":
            return self
        self.check_small_only("aspect_ratios", "box_scale")
        if self.augmentation not in (None, "ssd", "yolo"):
            raise ValueError("augmentation: expected 'ssd' or 'yolo' for VGG-16")
        if min(self.size) < SIDE:
            raise ValueError(f"input_size: expected at least {SIDE} px for VGG-16, whose last map is a cell")
        return self

    @property
    def size(self) -> Size:
        """Return the (height, width) of the input in px."""
        side = ssd_network.SMALL_SIDE if self.backbone == "small" else SIDE
        return self.input_shape((side, side))


class Ssd(TorchAdapter[DetectorInput, SsdOutputs, TrainingBatch]):
    """SSD (Liu et al. 2016): a small network, or the paper's VGG-16."""

    name = "ssd"
    task = "detection"
    Options = SsdOptions
    options: SsdOptions
    architecture_options = ("backbone", "width", "input_size", "aspect_ratios", "box_scale")
    training_options = frozenset({"augmentation"})

    module: ssd_network.Network

    def make_module(self) -> nn.Module:
        options, side = self.options, max(self.options.size)
        if options.backbone == "small":
            aspects, scale = options.aspect_ratios or UPRIGHT, options.box_scale or 1.0
            return ssd_network.SmallNetwork(len(self.classes), options.width, side, aspects, scale)
        return Vgg16Network(len(self.classes), side)

    def build(self, train: Dataset) -> None:
        super().build(train)
        if isinstance(self.module, Vgg16Network) and self.options.pretrained is not None:
            self.module.load_pretrained(self.options.pretrained)

    def preprocess(self, samples: Sequence[Sample]) -> DetectorInput:
        originals = [images.of_sample(sample) for sample in samples]
        if self.options.backbone == "small":
            return framed_input(originals, self.options.size, self.runtime.device)
        return stretched_input(originals, self.options.size, images.mean_subtracted, self.runtime.device)

    def infer(self, batch: DetectorInput) -> SsdOutputs:
        outputs: SsdOutputs = self.module(batch.pixels)
        return outputs

    def exportable(self) -> dict[str, Exportable]:
        example = torch.zeros(2, 3, *self.options.size, device=self.runtime.device)
        return {"network": Exportable(self.module, "forward", (example,), ((0,),))}

    def postprocess(self, raw: SsdOutputs, batch: DetectorInput) -> list[Prediction]:
        check_finite(raw.logits, raw.offsets)
        scores = raw.logits.float().softmax(dim=-1)[..., 1:]
        decoded = box_regression.decode(raw.offsets.float(), raw.defaults, SCALED_WEIGHTS)
        boxes = clip_boxes_to_image(decoded, (batch.pixels.shape[-2], batch.pixels.shape[-1]))
        detections: list[Prediction] = []
        for transform, image_boxes, image_scores in zip(batch.transforms, boxes, scores, strict=True):
            selected, selected_scores, labels = self._select(image_boxes, image_scores)
            restored = transform.invert(selected).cpu().numpy()
            detections.append(Detections(restored, selected_scores.cpu().numpy(), labels.cpu().numpy()))
        return detections

    def training_batch(self, samples: Sequence[Sample], generator: np.random.Generator) -> TrainingBatch:
        device, options = self.runtime.device, self.options
        if options.backbone == "small":
            return framed_training_batch(samples, options.size, generator, device, options.augmentation)
        augmentation, normalise = options.augmentation or "ssd", images.mean_subtracted
        return stretched_training_batch(
            samples, options.size, generator, device, augmentation, normalise, difficult=True
        )

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        outputs: SsdOutputs = self.module(batch.pixels)
        return default_boxes.loss(*outputs, batch.boxes, batch.labels, self.module.thresholds)

    def adopt(self, tensors: Mapping[str, Tensor]) -> Checkpoint:
        return ssd_checkpoint(self.name, tensors, {"backbone": "vgg16", "width": 16})

    def _select(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Select boxes [n, 4], scores [n] and labels [n] of one image from boxes [D, 4] and scores [D, C]."""
        options = self.options
        likely = (scores.amax(dim=1) > options.score_threshold).nonzero()[:, 0]  # few; topk of all is slow
        boxes, scores = boxes[likely], scores[likely]
        # best boxes per class: [K, C]
        top_scores, top_boxes = scores.topk(min(options.topk_candidates, len(scores)), dim=0)
        top_labels = torch.arange(scores.shape[1], device=scores.device).expand_as(top_scores)
        passing = top_scores > options.score_threshold
        scores, boxes, labels = top_scores[passing], boxes[top_boxes[passing]], top_labels[passing]
        kept = batched_nms(boxes, scores, labels, options.nms_iou)[: options.detections_per_image]
        return boxes[kept], scores[kept], labels[kept]
