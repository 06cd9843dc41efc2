"""A network without down- or upsampling: what strides buy, seen from the other side.

Every layer computes at the size of the image. Dilated convolutions (Yu & Koltun 2016, "Multi-scale
context aggregation by dilated convolutions") give it a wide view all the same, so that it is no straw man.
"""

from __future__ import annotations

from pydantic import Field
from torch import nn

from adapters.backbone import ConvNorm
from adapters.segmentation.segmenter import Segmenter, SegmenterOptions

# Of the layers, from first to last; Yu & Koltun's context module (table 1) begins 1, 1, 2, 4, 8, 16, 1.
# With 3×3 kernels a pixel sees 1 + 2 · 33 = 67 px of its surroundings.
DILATIONS = (1, 1, 2, 4, 8, 16, 1)


class FullResolutionOptions(SegmenterOptions):
    """Shapes the weights."""

    width: int = Field(9, ge=1)
    """Channels of every layer. At 9 the FLOPs are about those of `fcn-8s` on `scenes`; at 141 the
    parameters are (docs/models.md has the counts)."""


class FullResolution(Segmenter):
    """Seven dilated 3×3 convolutions and a classifier of each pixel."""

    name = "full-resolution"
    Options = FullResolutionOptions
    options: FullResolutionOptions
    architecture_options = ("width",)
    multiple = 1

    def make_module(self) -> nn.Module:
        width = self.options.width
        inputs = [3, *[width] * (len(DILATIONS) - 1)]
        layers = [ConvNorm(n, width, dilation=d) for n, d in zip(inputs, DILATIONS, strict=True)]
        for module in nn.Sequential(*layers).modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        return nn.Sequential(*layers, nn.Conv2d(width, len(self.classes), 1))
