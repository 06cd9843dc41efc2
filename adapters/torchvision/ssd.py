"""torchvision's `ssd300_vgg16` behind the adapter interface."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from adapters.detection import ssd_augmentation
from adapters.detection.finite import check_finite
from adapters.detection.torchvision_weights import SsdSelectionOptions, ssd_classes
from adapters.detection.training_images import AugmentedImage
from adapters.torchvision.detector import ImageList, Objects, Size, TorchvisionDetector
from harness.checkpoint import Checkpoint
from harness.task import Image

Outputs = tuple[dict[str, Tensor], list[Tensor]]
"""`cls_logits` [N, D, 1 + C] and `bbox_regression` [N, D, 4]; per image, default boxes [D, 4]."""


class TorchvisionSsd(TorchvisionDetector[Outputs]):
    """torchvision's `ssd300_vgg16`."""

    name = "torchvision/ssd300_vgg16"
    Options = SsdSelectionOptions
    options: SsdSelectionOptions
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

    def select(self, outputs: Outputs, sizes: list[Size]) -> list[Objects]:
        head_outputs, defaults = outputs
        check_finite(head_outputs["cls_logits"], head_outputs["bbox_regression"])
        selected: list[Objects] = self.module.postprocess_detections(head_outputs, defaults, sizes)
        return selected

    def augment(
        self, image: Image, boxes: NDArray[np.float64], generator: np.random.Generator
    ) -> AugmentedImage:
        return ssd_augmentation.augment(image, boxes, generator)
