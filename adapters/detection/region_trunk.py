"""The small trunk that Fast and Faster R-CNN share: a coarse map for proposals, a fine one for pooling."""

from torch import Tensor, nn

from adapters.backbone import Backbone, ConvNorm

# px of the input by default: 1.5 × the images of `scenes`, as in the prototype
INPUT_SIDE = 192
FINE_STRIDE, COARSE_STRIDE = 4, 8  # px of the input per cell of the two maps


class SmallTrunk(nn.Module):
    """A trunk from images [N, 3, H, W] to two maps of the same channels, with strides 4 and 8.

    A region of 18 px, the smallest of `scenes`, is two cells of the coarse map: too few to distinguish an 8
    from a 3. The fine map gets the context of the coarse one by addition (Lin et al. 2017, "Feature Pyramid
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
        """Map [N, 3, H, W] to [N, C, H / 4, W / 4] and [N, C, H / 8, W / 8]."""
        _, fine, coarse = self.backbone(pixels)
        context = self.context(coarse)
        return self.lateral(fine) + nn.functional.interpolate(context, scale_factor=2.0), context
