"""torchvision's `fasterrcnn_resnet50_fpn` behind the adapter interface."""

from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from adapters.torchvision.builders import RegionDetector


class TorchvisionFasterRcnn(RegionDetector):
    """torchvision's `fasterrcnn_resnet50_fpn`, with frozen batch normalisation as for published weights.

    Without weights, torchvision's own function does not freeze it.
    """

    name = "torchvision/fasterrcnn_resnet50_fpn"
    frozen_epsilon = 0.0  # torchvision sets it for its weights COCO_V1

    def build_module(self, classes: int) -> nn.Module:
        # The default normalisation is frozen.
        backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=5)
        module: nn.Module = FasterRCNN(backbone, num_classes=classes, **self.settings())
        return module
