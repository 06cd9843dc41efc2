"""torchvision's segmentation networks, as peers and oracles of this project's own."""

from torch import nn

from adapters.segmentation.fcn_resnet import FcnResNet50


class TorchvisionFcnResNet50(FcnResNet50):
    """torchvision's `fcn_resnet50`, with the preprocessing and postprocessing of `fcn-resnet50`."""

    name = "torchvision/fcn_resnet50"

    def make_module(self) -> nn.Module:
        from torchvision.models.segmentation import fcn_resnet50  # 6–9 s to import

        module: nn.Module = fcn_resnet50(
            weights=None,  # nothing is downloaded: weights come from the suite's checkpoint
            weights_backbone=None,
            num_classes=len(self.classes),
            aux_loss=self.auxiliary,
        )
        return module
