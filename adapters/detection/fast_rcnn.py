"""Fast R-CNN: the image is seen once, and each region is cut out of its features (Girshick 2015).

Regions come from selective search; RoI pooling brings them to one size, and one head says class and box. At
two scales: a small trunk for pictures of 128 px, and VGG-16.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from adapters.detection import region_head, region_trunk, roi
from adapters.detection.searched_regions import RegionNetwork, SearchedRegions
from adapters.vision.vgg import CHANNELS, FULLY_CONNECTED, Vgg16
from harness.datasets.dataset import Dataset

VGG_STRIDE = 16  # of conv5_3: pool5 is what RoI pooling replaces, §2.2
FROZEN = 10  # layers of a published VGG-16, up to pool2, that learn no more: conv3_1 and up do, §4.5


class Network(RegionNetwork):
    """A trunk, RoI pooling of one of its maps, the head."""

    stride: int
    """px between two cells of the map."""

    @abstractmethod
    def features(self, pixels: Tensor) -> Tensor:
        """Images [N, 3, H, W] → the map [N, C, H / stride, W / stride]."""

    def forward(self, pixels: Tensor, regions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        images = region_head.owners(regions)
        pooled = roi.pool(
            self.features(pixels), torch.cat(list(regions)), images, region_head.GRID, 1 / self.stride
        )
        found: tuple[Tensor, Tensor] = self.roi_heads(pooled)
        return found


class SmallNetwork(Network):
    """The finer map of the trunk that Faster R-CNN has too."""

    stride = region_trunk.FINE

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.trunk = region_trunk.SmallTrunk(width)
        self.roi_heads = region_head.RegionClassifier(
            self.trunk.channels, region_head.GRID, units=12 * width, classes=classes
        )
        self.sampling = region_head.Sampling(count=32)  # as Faster R-CNN's

    def features(self, pixels: Tensor) -> Tensor:
        fine: Tensor = self.trunk(pixels)[0]
        return fine


class Vgg16Network(Network):
    """VGG-16 to conv5_3, and its fully connected layers as the head."""

    trunk: Vgg16
    stride = VGG_STRIDE

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.trunk = Vgg16()
        self.roi_heads = region_head.RegionClassifier(
            CHANNELS[-1], region_head.GRID, FULLY_CONNECTED, classes, dropout=0.5
        )
        self.sampling = region_head.Sampling(count=64)  # §2.3, of 2 images a batch

    def features(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.trunk.features[:-1](pixels)  # without pool5
        return found


class FastRcnn(SearchedRegions):
    """Fast R-CNN at either scale."""

    name = "fast-rcnn"
    side = region_trunk.SIDE

    def make_module(self) -> nn.Module:
        if self.options.backbone == "small":
            return SmallNetwork(len(self.classes), self.options.width)
        return Vgg16Network(len(self.classes))

    def build(self, train: Dataset) -> None:
        super().build(train)
        if isinstance(self.module, Vgg16Network) and self.options.pretrained is not None:
            self.module.trunk.features[:FROZEN].requires_grad_(False)
