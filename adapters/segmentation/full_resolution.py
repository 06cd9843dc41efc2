"""A segmentation network without strides, to measure the benefit of strides.

Every layer computes at the size of the image. Dilated convolutions (Yu & Koltun 2016, "Multi-scale context
aggregation by dilated convolutions") still give it a large receptive field, for a fair comparison.
"""

from pydantic import Field
from torch import nn

from adapters.backbone import ConvNorm
from adapters.segmentation.segmenter import Segmenter, SegmenterOptions

# Dilation of each layer. Yu & Koltun's context module (table 1) begins with 1, 1, 2, 4, 8, 16, 1. With 3×3
# kernels the receptive field of a pixel is 1 + 2 · 33 = 67 px.
DILATIONS = (1, 1, 2, 4, 8, 16, 1)


class FullResolutionOptions(SegmenterOptions):
    """Options of `full-resolution`."""

    width: int = Field(9, ge=1)
    """Channels of every layer. With 9 it has about the FLOPs of `fcn-8s` on `scenes`, with 141 about the
    parameters (docs/models.md has the numbers)."""


class FullResolution(Segmenter):
    """Seven dilated 3×3 convolutions and a 1×1 classifier."""

    name = "full-resolution"
    Options = FullResolutionOptions
    options: FullResolutionOptions
    architecture_options = ("width", *Segmenter.architecture_options)
    size_multiple = 1

    def make_module(self) -> nn.Module:
        width = self.options.width
        inputs = [3, *[width] * (len(DILATIONS) - 1)]
        layers = [ConvNorm(n, width, dilation=d) for n, d in zip(inputs, DILATIONS, strict=True)]
        for module in nn.Sequential(*layers).modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        return nn.Sequential(*layers, nn.Conv2d(width, len(self.classes), 1))
