"""Fast R-CNN: one forward pass per image; all regions are pooled from its features (Girshick 2015).

Regions come from selective search. RoI pooling resizes their features to one size, from which a head computes
class and box.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.ops import roi_pool

from adapters.detection import region_head, region_trunk
from adapters.detection.region_head import POOLED_SIDE
from adapters.detection.selective_search_detector import RegionNetwork, SelectiveSearchDetector
from adapters.vision.vgg import CHANNELS, FULLY_CONNECTED, Vgg16
from harness.datasets.dataset import Dataset

VGG_STRIDE = 16  # of conv5_3; RoI pooling replaces pool5, §2.2
FROZEN = 10  # layers of a pretrained VGG-16, up to pool2, that are not trained: conv3_1 and up are, §4.5


class Network(RegionNetwork):
    """A trunk, RoI pooling of one of its maps, and the head."""

    stride: int  # px of the input per cell of the map

    def forward(self, pixels: Tensor, regions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Compute the map of each image once, pool its regions and classify them."""
        features = self.features(pixels)
        # in the type of the regions: bf16 cannot represent positions one pixel apart from 256 px on
        exact = features.to(regions[0].dtype)
        pooled = roi_pool(exact, list(regions), POOLED_SIDE, 1 / self.stride)
        logits, offsets = self.roi_heads(pooled)
        return logits, offsets


class SmallNetwork(Network):
    """The fine map of the small trunk, which Faster R-CNN shares."""

    stride = region_trunk.FINE_STRIDE

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.trunk = region_trunk.SmallTrunk(width)
        self.roi_heads = region_head.RegionClassifier(self.trunk.channels, POOLED_SIDE, 12 * width, classes)
        self.regions_per_image = 32  # as Faster R-CNN's

    def features(self, pixels: Tensor) -> Tensor:
        fine: Tensor = self.trunk(pixels)[0]
        return fine


class Vgg16Network(Network):
    """VGG-16 up to conv5_3, with its fully connected layers as the head."""

    trunk: Vgg16
    stride = VGG_STRIDE

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.trunk = Vgg16()
        self.roi_heads = region_head.RegionClassifier(
            CHANNELS[-1], POOLED_SIDE, FULLY_CONNECTED, classes, dropout=0.5
        )
        self.regions_per_image = 64  # §2.3, with 2 images per batch

    def features(self, pixels: Tensor) -> Tensor:
        conv5_3: Tensor = self.trunk.features[:-1](pixels)  # without pool5
        return conv5_3


class FastRcnn(SelectiveSearchDetector):
    """Fast R-CNN (Girshick 2015): a small network, or the paper's VGG-16."""

    name = "fast-rcnn"
    side = region_trunk.INPUT_SIDE

    def make_module(self) -> nn.Module:
        if self.options.backbone == "small":
            return SmallNetwork(len(self.classes), self.options.width)
        return Vgg16Network(len(self.classes))

    def build(self, train: Dataset) -> None:
        super().build(train)
        if isinstance(self.module, Vgg16Network) and self.options.pretrained is not None:
            self.module.trunk.features[:FROZEN].requires_grad_(False)
