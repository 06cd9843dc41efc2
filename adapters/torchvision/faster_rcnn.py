"""torchvision's `fasterrcnn_resnet50_fpn` behind the adapter interface."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from adapters.detection.finite import check_finite
from adapters.detection.torchvision_weights import PyramidOptions, faster_rcnn_checkpoint
from adapters.detection.training_images import MIRROR_PROBABILITY, AugmentedImage, mirrored
from adapters.torchvision.detector import ImageList, Objects, Size, TorchvisionDetector
from harness.checkpoint import Checkpoint
from harness.task import Image

Outputs = tuple[Tensor, Tensor, list[Tensor]]
"""Logits [R, 1 + C], offsets [R, 4 · (1 + C)] and, per image, proposals [Rᵢ, 4] in px of the input."""


class TorchvisionFasterRcnn(TorchvisionDetector[Outputs]):
    """torchvision's `fasterrcnn_resnet50_fpn`."""

    name = "torchvision/fasterrcnn_resnet50_fpn"
    Options = PyramidOptions
    options: PyramidOptions
    architecture_options = ("epsilon",)

    def make_module(self) -> nn.Module:
        from torchvision.models.detection import FasterRCNN  # 6–9 s to import
        from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
        from torchvision.ops import FrozenBatchNorm2d

        options = self.options
        # Assembled as torchvision does for published weights; without weights, its own function does not
        # freeze the batch normalisation.
        backbone = resnet_fpn_backbone(
            backbone_name="resnet50",
            weights=None,
            norm_layer=partial(FrozenBatchNorm2d, eps=options.epsilon),
            trainable_layers=5,
        )
        module: nn.Module = FasterRCNN(
            backbone,
            num_classes=1 + len(self.classes),
            min_size=options.shorter_side,
            max_size=options.longer_side,
            box_score_thresh=options.score_threshold,
            box_nms_thresh=options.nms_iou,
        )
        module.get_submodule("rpn.head").register_forward_hook(_check_proposals)
        return module

    def adopt(self, tensors: Mapping[str, Tensor]) -> Checkpoint:
        return faster_rcnn_checkpoint(self.name, tensors, {})

    def raw_outputs(self, batch: ImageList) -> Outputs:
        return raw_regions(self.module, batch)

    def select(self, outputs: Outputs, sizes: list[Size]) -> list[Objects]:
        return select_regions(self.module, outputs, sizes)

    def augment(
        self, image: Image, boxes: NDArray[np.float64], generator: np.random.Generator
    ) -> AugmentedImage:
        if generator.random() < MIRROR_PROBABILITY:
            image, boxes = mirrored(image, boxes)
        return AugmentedImage(image, boxes, np.arange(len(boxes)))


def raw_regions(module: Any, batch: ImageList) -> Outputs:
    """Run a torchvision detector with region proposals up to the selection of boxes."""
    features = module.backbone(batch.tensors)
    proposals, _ = module.rpn(batch, features)
    heads = module.roi_heads
    pooled = heads.box_roi_pool(features, proposals, batch.image_sizes)
    logits, offsets = heads.box_predictor(heads.box_head(pooled))
    return logits.float(), offsets.float(), proposals


def select_regions(module: Any, outputs: Outputs, sizes: list[Size]) -> list[Objects]:
    """Select detections in px of the input from the outputs of `raw_regions`."""
    logits, offsets, proposals = outputs
    check_finite(logits, offsets)
    selected = module.roi_heads.postprocess_detections(logits, offsets, proposals, sizes)
    return [
        {"boxes": boxes, "scores": scores, "labels": labels}
        for boxes, scores, labels in zip(*selected, strict=True)
    ]


def _check_proposals(
    head: nn.Module,
    inputs: tuple[list[Tensor]],  # noqa: ARG001
    outputs: tuple[list[Tensor], list[Tensor]],
) -> None:
    """Check the raw outputs of all maps at once during inference, as `faster-rcnn` does."""
    if not head.training:
        logits, offsets = outputs
        check_finite(*logits, *offsets)
