"""R-CNN: a convolutional network classifies each region, warped to one size (Girshick et al. 2014).

Regions come from selective search. The paper trains in three stages: a network, support vector machines and a
regression of the boxes. Here, one network has a single loss, that of Girshick 2015, where softmax is as good
as support vector machines (§5.4). There are two scales: a small trunk for regions of 40 px, and VGG-16 for
regions of 224 px.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from adapters.backbone import Backbone
from adapters.detection import region_head
from adapters.detection.region_head import SAMPLING_RATIO
from adapters.detection.selective_search_detector import RegionNetwork, SelectiveSearchDetector
from adapters.vision.vgg import CHANNELS, FULLY_CONNECTED, Vgg16

SMALL_SIDE = 128  # px of the input by default, from which regions of `scenes` are warped
SMALL_WINDOW, WINDOW = 40, 224  # px of a warped region: as in the prototype; VGG-16's input
CONTEXT = 16 / 227  # context on each side of a warped region, as a fraction of the window; appendix A
CHUNK = 256  # regions per forward pass, which bounds memory


class Network(RegionNetwork):
    """A network that warps regions, and runs a trunk and the head on its coarsest map."""

    window: int

    def __init__(
        self, trunk: nn.Module, head: region_head.RegionClassifier, window: int, regions_per_image: int
    ) -> None:
        super().__init__()
        self.trunk, self.roi_heads = trunk, head
        self.window = window
        self.regions_per_image = regions_per_image

    def features(self, pixels: Tensor) -> Tensor:
        coarsest: Tensor = self.trunk(pixels)[-1]
        return coarsest

    def forward(self, pixels: Tensor, regions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Warp regions of images [N, 3, H, W] and classify them, CHUNK at a time."""
        indexed = [nn.functional.pad(boxes, (1, 0), value=index) for index, boxes in enumerate(regions)]
        chunks = torch.cat(indexed).split(CHUNK)
        parts = [self.roi_heads(self.features(warp(pixels, chunk, self.window))) for chunk in chunks]
        return torch.cat([logits for logits, _ in parts]), torch.cat([offsets for _, offsets in parts])


def warp(pixels: Tensor, regions: Tensor, size: int) -> Tensor:
    """Warp regions with their context to a square, regardless of aspect ratio: [R, 3, size, size].

    Regions are [R, 5]: the index of the image, and the corners. Outside the image, the pixels are the mean, 0
    (appendix A).
    """
    factor = 1 / (1 - 2 * CONTEXT)  # side with context / side without
    indices, low, high = regions.split([1, 2, 2], dim=1)
    centres, sides = (low + high) / 2, (high - low) * factor
    with_context = torch.cat([indices, centres - sides / 2, centres + sides / 2], dim=1)
    warped: Tensor = roi_align(pixels, with_context, size, 1.0, SAMPLING_RATIO)
    return warped.contiguous(memory_format=torch.channels_last)


class Rcnn(SelectiveSearchDetector):
    """R-CNN (Girshick et al. 2014): a small network, or the paper's VGG-16."""

    name = "rcnn"
    side = SMALL_SIDE

    def make_module(self) -> nn.Module:
        classes, width = len(self.classes), self.options.width
        if self.options.backbone == "small":
            trunk = Backbone(width, 3)
            head = region_head.RegionClassifier(trunk.channels[-1], SMALL_WINDOW // 2**3, 8 * width, classes)
            return Network(trunk, head, SMALL_WINDOW, 24)  # 24 as in the prototype
        head = region_head.RegionClassifier(
            CHANNELS[-1], region_head.POOLED_SIDE, FULLY_CONNECTED, classes, dropout=0.5
        )
        # 128 regions per batch, a quarter of them objects (Girshick et al. 2014 §2.3), from 2 images
        return Network(Vgg16(), head, WINDOW, 64)
