"""The other detectors that torchvision builds by name, behind the adapter interface.

Mask R-CNN gives its boxes; its masks are not predicted.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from adapters.detection.finite import check_finite
from adapters.detection.torchvision_weights import published_classes
from adapters.detection.training_images import MIRROR_PROBABILITY, AugmentedImage, mirrored
from adapters.torchvision.detector import ImageList, Objects, Outputs, Size, TorchvisionDetector
from adapters.torchvision.faster_rcnn import raw_regions, select_regions
from harness.adapter import AdapterOptions
from harness.checkpoint import Checkpoint
from harness.errors import UsageError
from harness.task import Image

COUNTER = "num_batches_tracked"  # of batch normalisation, absent where the normalisation was frozen


class BuilderOptions(AdapterOptions):
    """Options of a detector that torchvision builds; null is torchvision's default."""

    epsilon: float | None = Field(None, ge=0)
    """Epsilon of the batch normalisation. For published weights that torchvision loads with 0, it is 0."""
    score_threshold: float | None = Field(None, ge=0, le=1)
    """Minimum score of a detection."""
    nms_iou: float | None = Field(None, ge=0, le=1)
    """IoU above which suppression removes the lower-scored box of a class."""
    detections_per_image: int | None = Field(None, ge=1)
    """Maximum detections per image."""


class ResizingOptions(BuilderOptions):
    """Options of a detector that resizes photographs; null is torchvision's default."""

    shorter_side: int | None = Field(None, ge=32)
    """Size in px to which the shorter side of a photograph is resized."""
    longer_side: int | None = Field(None, ge=32)
    """Maximum size of the longer side in px."""


class BuiltDetector(TorchvisionDetector[Outputs]):
    """A detector made by the function of torchvision that its name ends with."""

    Options: ClassVar[type[BuilderOptions]] = ResizingOptions
    options: BuilderOptions
    architecture_options = ("epsilon",)
    prefix: ClassVar[str] = ""
    """Start of the names of parameters about the selection of boxes."""
    logits: ClassVar[str]
    """The bias of the layer of class scores, with `anchors` entries per class, background included."""
    anchors: ClassVar[int] = 1
    frozen_epsilon: ClassVar[float | None] = None
    """Epsilon of published weights that were trained with frozen batch normalisation, if not the default."""

    def make_module(self) -> nn.Module:
        return self._build(1 + len(self.classes), self.options.epsilon)

    def _build(self, classes: int, epsilon: float | None) -> nn.Module:
        from torchvision.models import detection  # 6–9 s to import

        options = self.options
        values: dict[str, float | None] = {
            f"{self.prefix}score_thresh": options.score_threshold,
            f"{self.prefix}nms_thresh": options.nms_iou,
            f"{self.prefix}detections_per_img": options.detections_per_image,
        }
        if isinstance(options, ResizingOptions):
            values |= {"min_size": options.shorter_side, "max_size": options.longer_side}
        given = {name: value for name, value in values.items() if value is not None}
        builder = getattr(detection, self.name.removeprefix("torchvision/"))
        # No download: weights come from the suite's checkpoint.
        module: nn.Module = builder(weights=None, weights_backbone=None, num_classes=classes, **given)
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d) and epsilon is not None:
                norm.eps = epsilon
        return module

    def adopt(self, tensors: Mapping[str, Tensor]) -> Checkpoint:
        if self.logits not in tensors:
            raise UsageError(
                f"adapter '{self.name}': the file has no tensor '{self.logits}', as torchvision's files have"
            )
        classes = len(tensors[self.logits]) // self.anchors
        module = self._build(classes, None)
        try:  # torchvision's modules rename tensors of its earlier versions as they load them
            missing, unexpected = module.load_state_dict(dict(tensors), strict=False)
        except RuntimeError as error:  # another shape
            problem = " ".join(str(error).split())[:200]
            raise UsageError(f"adapter '{self.name}': weights of another model: {problem}") from error
        wrong = [*unexpected, *(name for name in missing if not name.endswith(COUNTER))]
        if wrong:
            raise UsageError(f"adapter '{self.name}': weights of another model: tensor '{wrong[0]}' differs")
        was_frozen = not any(name.endswith(COUNTER) for name in tensors)
        options = {"epsilon": self.frozen_epsilon} if was_frozen and self.frozen_epsilon is not None else {}
        return Checkpoint(module.state_dict(), self.name, options, published_classes(classes - 1))

    def augment(
        self, image: Image, boxes: NDArray[np.float64], generator: np.random.Generator
    ) -> AugmentedImage:
        if generator.random() < MIRROR_PROBABILITY:
            image, boxes = mirrored(image, boxes)
        return AugmentedImage(image, boxes, np.arange(len(boxes)))


RegionOutputs = tuple[Tensor, Tensor, list[Tensor]]


class BuiltRegionDetector(BuiltDetector[RegionOutputs]):
    """A detector with region proposals."""

    prefix = "box_"
    logits = "roi_heads.box_predictor.cls_score.bias"

    def raw_outputs(self, batch: ImageList) -> RegionOutputs:
        return raw_regions(self.module, batch)

    def select(self, outputs: RegionOutputs, sizes: list[Size]) -> list[Objects]:
        return select_regions(self.module, outputs, sizes)


class FasterRcnnV2(BuiltRegionDetector):
    """torchvision's improved training of Faster R-CNN (after Li et al. 2021)."""

    name = "torchvision/fasterrcnn_resnet50_fpn_v2"


class FasterRcnnMobileNet(BuiltRegionDetector):
    """Faster R-CNN on MobileNet v3, for images of 800 px."""

    name = "torchvision/fasterrcnn_mobilenet_v3_large_fpn"


class FasterRcnnMobileNet320(BuiltRegionDetector):
    """Faster R-CNN on MobileNet v3, for images of 320 px."""

    name = "torchvision/fasterrcnn_mobilenet_v3_large_320_fpn"


class MaskRcnn(BuiltRegionDetector):
    """The boxes of Mask R-CNN (He et al. 2017)."""

    name = "torchvision/maskrcnn_resnet50_fpn"
    frozen_epsilon = 0.0  # torchvision sets it for its weights COCO_V1


class MaskRcnnV2(BuiltRegionDetector):
    """The boxes of torchvision's improved training of Mask R-CNN."""

    name = "torchvision/maskrcnn_resnet50_fpn_v2"


DenseOutputs = tuple[dict[str, Tensor], list[Tensor], list[int]]
"""Per output of the head, [N, A, ·]; anchors [A, 4] per image; cells per map."""


class BuiltDenseDetector(BuiltDetector[DenseOutputs]):
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


class RetinaNet(BuiltDenseDetector):
    """RetinaNet (Lin et al. 2017, "Focal loss for dense object detection")."""

    name = "torchvision/retinanet_resnet50_fpn"
    anchors = 9  # §4
    frozen_epsilon = 0.0  # torchvision sets it for its weights COCO_V1


class RetinaNetV2(BuiltDenseDetector):
    """torchvision's improved training of RetinaNet."""

    name = "torchvision/retinanet_resnet50_fpn_v2"
    anchors = 9


class Fcos(BuiltDenseDetector):
    """FCOS (Tian et al. 2019), which has no anchors but one point per cell."""

    name = "torchvision/fcos_resnet50_fpn"


class SsdLite(BuiltDenseDetector):
    """SSDlite on MobileNet v3 (Howard et al. 2019), for images of 320 px."""

    name = "torchvision/ssdlite320_mobilenet_v3_large"
    Options = BuilderOptions
    logits = "head.classification_head.module_list.0.1.bias"
    anchors = 6  # per cell of the first map
    by_level = False
