"""torchvision's segmentation networks, as peers and oracles of this project's own."""

from torch import nn
from torchvision.models import segmentation

from adapters.segmentation.fcn_resnet import FcnResNet50


class TorchvisionSegmenter(FcnResNet50):
    """A network made by the function of torchvision that its name ends with.

    Preprocessing and postprocessing are those of `fcn-resnet50`.
    """

    def make_module(self) -> nn.Module:
        module: nn.Module = getattr(segmentation, self.name.removeprefix("torchvision/"))(
            weights=None,  # nothing is downloaded: weights come from the suite's checkpoint
            weights_backbone=None,
            num_classes=len(self.classes),
            aux_loss=self.auxiliary,
        )
        return module


class TorchvisionFcnResNet50(TorchvisionSegmenter):
    """FCN on a dilated ResNet-50."""

    name = "torchvision/fcn_resnet50"


class TorchvisionFcnResNet101(TorchvisionSegmenter):
    """FCN on a dilated ResNet-101."""

    name = "torchvision/fcn_resnet101"


class DeepLabResNet50(TorchvisionSegmenter):
    """DeepLab v3 (Chen et al. 2017) on ResNet-50."""

    name = "torchvision/deeplabv3_resnet50"


class DeepLabResNet101(TorchvisionSegmenter):
    """DeepLab v3 on ResNet-101."""

    name = "torchvision/deeplabv3_resnet101"


class DeepLabMobileNet(TorchvisionSegmenter):
    """DeepLab v3 on MobileNet v3."""

    name = "torchvision/deeplabv3_mobilenet_v3_large"


class Lraspp(TorchvisionSegmenter):
    """Lite R-ASPP on MobileNet v3 (Howard et al. 2019)."""

    name = "torchvision/lraspp_mobilenet_v3_large"
    score_bias = "classifier.low_classifier.bias"
    auxiliary = False
