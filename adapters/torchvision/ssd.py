"""torchvision's `ssd300_vgg16` behind the adapter interface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from adapters.detection import ssd_augmentation
from adapters.detection.box_augmentation import AugmentedImage
from adapters.detection.finite import check_finite
from adapters.detection.torchvision_weights import ssd_classes
from adapters.torchvision.detector import ImageList, Size, TorchvisionDetections, TorchvisionDetector
from harness.adapter import AdapterOptions
from harness.checkpoint import Checkpoint
from harness.task import Image

Outputs = tuple[dict[str, Tensor], list[Tensor]]
"""`cls_logits` [N, D, 1 + C] and `bbox_regression` [N, D, 4]; per image, default boxes [D, 4]."""


class SsdOptions(AdapterOptions):
    """Options with the names and meanings of `ssd`'s."""

    former: ClassVar[dict[str, str]] = {
        "most": "use 'detections_per_image'",
        "most_candidates": "use 'topk_candidates'",
    }
    score_threshold: float = Field(0.01, ge=0, le=1)
    """Minimum score of a detection."""
    nms_iou: float = Field(0.45, ge=0, le=1)
    """IoU above which suppression removes the lower-scored box of a class."""
    detections_per_image: int = Field(200, ge=1)
    """Maximum detections per image."""
    topk_candidates: int = Field(400, ge=1)
    """Maximum boxes per class before suppression."""


class TorchvisionSsd(TorchvisionDetector[Outputs]):
    """torchvision's `ssd300_vgg16`."""

    name = "torchvision/ssd300_vgg16"
    Options = SsdOptions
    options: SsdOptions
    difficult = True

    def make_module(self) -> nn.Module:
        from torchvision.models.detection import ssd300_vgg16  # 6–9 s to import

        options = self.options
        module: nn.Module = ssd300_vgg16(
            weights=None,  # no download: weights come from the suite's checkpoint
            weights_backbone=None,
            num_classes=1 + len(self.classes),
            score_thresh=options.score_threshold,
            nms_thresh=options.nms_iou,
            detections_per_img=options.detections_per_image,
            topk_candidates=options.topk_candidates,
        )
        return module

    def adopt(self, tensors: Mapping[str, Tensor]) -> Checkpoint:
        return Checkpoint(tensors, self.name, {}, ssd_classes(self.name, tensors))

    def raw_outputs(self, batch: ImageList) -> Outputs:
        features = list(self.module.backbone(batch.tensors).values())
        outputs = {name: values.float() for name, values in self.module.head(features).items()}
        return outputs, self.module.anchor_generator(batch, features)

    def select(self, outputs: Outputs, sizes: list[Size]) -> list[TorchvisionDetections]:
        head_outputs, defaults = outputs
        check_finite(head_outputs["cls_logits"], head_outputs["bbox_regression"])
        selected: list[TorchvisionDetections] = self.module.postprocess_detections(
            head_outputs, defaults, sizes
        )
        return selected

    def augment(
        self, image: Image, boxes: NDArray[np.float64], generator: np.random.Generator
    ) -> AugmentedImage:
        return ssd_augmentation.augment(image, boxes, generator)
