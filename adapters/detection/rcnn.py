"""R-CNN: each region is warped to one size and seen by a convolutional network (Girshick et al. 2014).

Regions come from selective search. What the paper learns in three stages (a network, support vector machines,
a regression of the boxes) is one network with one loss here, that of Girshick 2015, who found the softmax as
good as the machines (§5.4). At two scales: a small trunk that sees regions of 40 px, and VGG-16 at 224 px.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from adapters.backbone import Backbone
from adapters.detection import region_head, roi
from adapters.detection.searched_regions import RegionNetwork, SearchedRegions
from adapters.vision.vgg import CHANNELS, FULLY_CONNECTED, Vgg16

SMALL_SIDE = 128  # px of the view that regions of `scenes` are cut out of
SMALL_WINDOW, WINDOW = 40, 224  # px of a warped region: the prototype's; VGG-16's input
CONTEXT = 16 / 227  # of a warped region's side, on each side of it, is surroundings; appendix A
AT_ONCE = 256  # regions in one forward pass, which bounds memory


class Network(RegionNetwork):
    """Windows, a trunk, and the head on its coarsest map."""

    def __init__(
        self,
        trunk: nn.Module,
        head: region_head.RegionClassifier,
        window: int,
        sampling: region_head.Sampling,
    ) -> None:
        super().__init__()
        self.trunk, self.roi_heads = trunk, head
        self.window, self.sampling = window, sampling

    def forward(self, pixels: Tensor, regions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        together, images = torch.cat(list(regions)), region_head.owners(regions)
        parts = [
            self.roi_heads(self.trunk(warp(pixels, own, of, self.window))[-1])
            for own, of in zip(together.split(AT_ONCE), images.split(AT_ONCE), strict=True)
        ]
        return torch.cat([logits for logits, _ in parts]), torch.cat([offsets for _, offsets in parts])


def warp(pixels: Tensor, regions: Tensor, images: Tensor, size: int) -> Tensor:
    """Regions [R, 4] of `images` [R], with context and whatever their proportions → [R, 3, size, size].

    Outside the image is the mean, 0 (appendix A).
    """
    share = 1 / (1 - 2 * CONTEXT)  # a side with its context, by the side
    centres, sides = (regions[:, :2] + regions[:, 2:]) / 2, (regions[:, 2:] - regions[:, :2]) * share
    wider = torch.cat([centres - sides / 2, centres + sides / 2], dim=1)
    warped = roi.align(pixels, wider, images, size, 1.0)
    return warped.contiguous(memory_format=torch.channels_last)


class Rcnn(SearchedRegions):
    """R-CNN at either scale."""

    name = "rcnn"
    side = SMALL_SIDE

    def make_module(self) -> nn.Module:
        classes = len(self.classes)
        if self.options.backbone == "small":
            trunk = Backbone(self.options.width, 3)
            channels, cells = trunk.channels[-1], SMALL_WINDOW // 2**3
            head = region_head.RegionClassifier(
                channels, cells, units=8 * self.options.width, classes=classes
            )
            return Network(trunk, head, SMALL_WINDOW, region_head.Sampling(count=24))  # the prototype's
        head = region_head.RegionClassifier(
            CHANNELS[-1], region_head.GRID, FULLY_CONNECTED, classes, dropout=0.5
        )
        # 128 regions a batch, a quarter of them objects (Girshick et al. 2014 §2.3); of 2 images each
        return Network(Vgg16(), head, WINDOW, region_head.Sampling(count=64))
