"""The detectors that torchvision builds by name, with region proposals or in one pass.

Mask R-CNN gives its boxes; its masks are not predicted.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from adapters.detection.finite import check_finite
from adapters.torchvision.detector import ImageList, Objects, SelectionOptions, Size, TorchvisionDetector
from harness.checkpoint import Checkpoint

RegionOutputs = tuple[Tensor, Tensor, list[Tensor]]
"""Logits [R, 1 + C], offsets [R, 4 · (1 + C)] and, per image, proposals [Rᵢ, 4] in px of the input."""


class RegionDetector(TorchvisionDetector[RegionOutputs]):
    """A detector with region proposals."""

    prefix = "box_"
    logits = "roi_heads.box_predictor.cls_score.bias"

    def make_module(self) -> nn.Module:
        module = super().make_module()
        module.get_submodule("rpn.head").register_forward_hook(_check_proposals)
        return module

    def raw_outputs(self, batch: ImageList) -> RegionOutputs:
        features = self.module.backbone(batch.tensors)
        proposals, _ = self.module.rpn(batch, features)
        heads = self.module.roi_heads
        pooled = heads.box_roi_pool(features, proposals, batch.image_sizes)
        logits, offsets = heads.box_predictor(heads.box_head(pooled))
        return logits.float(), offsets.float(), proposals

    def select(self, outputs: RegionOutputs, sizes: list[Size]) -> list[Objects]:
        logits, offsets, proposals = outputs
        check_finite(logits, offsets)
        selected = self.module.roi_heads.postprocess_detections(logits, offsets, proposals, sizes)
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


class FasterRcnnV2(RegionDetector):
    """torchvision's improved training of Faster R-CNN (after Li et al. 2021)."""

    name = "torchvision/fasterrcnn_resnet50_fpn_v2"


class FasterRcnnMobileNet(RegionDetector):
    """Faster R-CNN on MobileNet v3, for images of 800 px."""

    name = "torchvision/fasterrcnn_mobilenet_v3_large_fpn"


class FasterRcnnMobileNet320(RegionDetector):
    """Faster R-CNN on MobileNet v3, for images of 320 px."""

    name = "torchvision/fasterrcnn_mobilenet_v3_large_320_fpn"


class MaskRcnn(RegionDetector):
    """The boxes of Mask R-CNN (He et al. 2017)."""

    name = "torchvision/maskrcnn_resnet50_fpn"
    frozen_epsilon: ClassVar[float | None] = 0.0  # torchvision sets it for its weights COCO_V1

    def build_module(self, classes: int) -> nn.Module:
        module = super().build_module(classes)
        heads: Any = module.get_submodule("roi_heads")
        # Without them, torchvision neither predicts masks nor asks for them in training.
        heads.mask_roi_pool = heads.mask_head = heads.mask_predictor = None
        return module

    def adopt(self, tensors: Mapping[str, Tensor]) -> Checkpoint:
        boxes = {name: tensor for name, tensor in tensors.items() if not name.startswith("roi_heads.mask_")}
        return super().adopt(boxes)


class MaskRcnnV2(MaskRcnn):
    """The boxes of torchvision's improved training of Mask R-CNN."""

    name = "torchvision/maskrcnn_resnet50_fpn_v2"
    frozen_epsilon = None


DenseOutputs = tuple[dict[str, Tensor], list[Tensor], list[int]]
"""Per output of the head, [N, A, ·]; anchors [A, 4] per image; cells per map."""


class DenseDetector(TorchvisionDetector[DenseOutputs]):
    """A detector that scores every anchor of every map."""

    logits = "head.classification_head.cls_logits.bias"
    by_level: ClassVar[bool] = True  # boxes are selected on each map by itself

    def raw_outputs(self, batch: ImageList) -> DenseOutputs:
        maps = list(self.module.backbone(batch.tensors).values())
        outputs = {name: values.float() for name, values in self.module.head(maps).items()}
        cells = [features.shape[2] * features.shape[3] for features in maps]
        return outputs, self.module.anchor_generator(batch, maps), cells

    def select(self, outputs: DenseOutputs, sizes: list[Size]) -> list[Objects]:
        values, anchors, cells = outputs
        check_finite(*values.values())
        arguments: tuple[Any, Any] = values, anchors
        if self.by_level:
            per_cell = len(anchors[0]) // sum(cells)
            counts = [per_cell * count for count in cells]
            split = {name: list(tensor.split(counts, dim=1)) for name, tensor in values.items()}
            arguments = split, [list(image.split(counts)) for image in anchors]
        selected: list[Objects] = self.module.postprocess_detections(*arguments, sizes)
        # RetinaNet and FCOS score the background as a class of its own, which is never an object.
        return [{name: tensor[image["labels"] > 0] for name, tensor in image.items()} for image in selected]


class RetinaNet(DenseDetector):
    """RetinaNet (Lin et al. 2017, "Focal loss for dense object detection")."""

    name = "torchvision/retinanet_resnet50_fpn"
    anchors = 9  # §4
    frozen_epsilon = 0.0  # torchvision sets it for its weights COCO_V1


class RetinaNetV2(DenseDetector):
    """torchvision's improved training of RetinaNet."""

    name = "torchvision/retinanet_resnet50_fpn_v2"
    anchors = 9


class Fcos(DenseDetector):
    """FCOS (Tian et al. 2019), which has no anchors but one point per cell."""

    name = "torchvision/fcos_resnet50_fpn"


class SsdLite(DenseDetector):
    """SSDlite on MobileNet v3 (Howard et al. 2019), for images of 320 px."""

    name = "torchvision/ssdlite320_mobilenet_v3_large"
    Options = SelectionOptions
    architecture_options = ()
    logits = "head.classification_head.module_list.0.1.bias"
    anchors = 6  # per cell of the first map
    by_level = False
