"""The small trunk that Fast and Faster R-CNN share: a coarse map to propose from, a fine one to pool from."""

from __future__ import annotations

from torch import Tensor, nn

from adapters.backbone import Backbone, ConvNorm

SIDE = 192  # px of the input: 1.5 × the pictures of `scenes`, as the prototype
FINE, COARSE = 4, 8  # strides


class SmallTrunk(nn.Module):
    """Images [N, 3, H, W] → maps of strides 4 and 8, of the same channels.

    A region of 18 px, `scenes`' smallest, is two cells of the coarse map: too few to tell an 8 from a 3. What
    the coarse map knows of the surroundings is added to the fine one (Lin et al. 2017, "Feature Pyramid
    Networks", §3, top-down pathway).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.backbone = Backbone(width, 3)
        narrow, self.channels = self.backbone.channels[-2:]
        self.context = nn.Sequential(
            *(ConvNorm(self.channels, self.channels, dilation=dilation) for dilation in (1, 2, 4))
        )
        self.lateral = nn.Conv2d(narrow, self.channels, 1)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        _, fine, coarse = self.backbone(pixels)
        around = self.context(coarse)
        return self.lateral(fine) + nn.functional.interpolate(around, scale_factor=2.0), around
