"""FCN: a classifier made convolutional, whose coarse scores are upsampled and joined with finer ones.

Long, Shelhamer & Darrell 2015, "Fully Convolutional Networks for Semantic Segmentation". The backbone is
a small one for pictures of 128 px; score layers, skips and learnt upsampling are the paper's (§3.3, §4.2).
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from adapters.backbone import Backbone, ConvNorm
from adapters.segmentation.segmenter import Segmenter, SegmenterOptions

STAGES = 5  # of the backbone, down to stride 32
Upsampling = Literal["learnt", "bilinear"]


class FcnOptions(SegmenterOptions):
    """Shapes the weights."""

    backbone: Literal["small"] = "small"
    width: int = Field(16, ge=4, le=64)
    """Channels of the small backbone's first stage."""
    upsampling: Upsampling = "learnt"
    """Learnt from bilinear kernels, or bilinear for good."""


class Upsample(nn.ConvTranspose2d):
    """Upsampling that starts as bilinear interpolation, each channel by itself (§3.3).

    The kernel of factor f is 2f wide: 1 − |i + ½ − f| / f for i = 0…2f−1, along both axes. Grouped: the
    paper's dense kernels would make the largest factor the slowest net.
    """

    def __init__(self, channels: int, factor: int, learnt: bool) -> None:
        super().__init__(
            channels, channels, 2 * factor, factor, padding=factor // 2, groups=channels, bias=False
        )
        ramp = 1 - (torch.arange(2 * factor) + 0.5 - factor).abs() / factor
        with torch.no_grad():
            self.weight.copy_(ramp[:, None] * ramp)
        self.weight.requires_grad_(learnt)


class Network(nn.Module):
    """[N, 3, H, W] → class scores [N, C, H, W]; H and W are multiples of 32.

    Scores of stride 32 are upsampled to the next finer map, that map's scores are added, and so on down
    to stride `finest`; from there one upsampling leads to pixels.
    """

    def __init__(self, classes: int, width: int, finest: int, learnt: bool) -> None:
        super().__init__()
        self.backbone = Backbone(width, STAGES)
        self.skips = [stage for stage in range(STAGES - 2, -1, -1) if 2 ** (stage + 1) >= finest]
        channels = self.backbone.channels
        self.context = ConvNorm(channels[-1], channels[-1])  # fc6, made convolutional
        self.score = nn.Conv2d(channels[-1], classes, 1)
        self.finer = nn.ModuleList([nn.Conv2d(channels[stage], classes, 1) for stage in self.skips])
        self.upsample = nn.ModuleList([Upsample(classes, 2, learnt) for _ in self.skips])
        self.last = Upsample(classes, finest, learnt)
        for skip in self.finer:  # so that learning starts from the coarse net's scores, §4.2
            assert isinstance(skip, nn.Conv2d) and skip.bias is not None
            nn.init.zeros_(skip.weight)
            nn.init.zeros_(skip.bias)

    def forward(self, pixels: Tensor) -> Tensor:
        maps = self.backbone(pixels)
        scores = self.score(self.context(maps[-1]))
        for stage, finer, upsample in zip(self.skips, self.finer, self.upsample, strict=True):
            scores = upsample(scores) + finer(maps[stage])
        upsampled: Tensor = self.last(scores)
        return upsampled


class Fcn(Segmenter):
    """The three nets differ in the finest map that they take scores from."""

    Options = FcnOptions
    shaping = ("backbone", "width", "upsampling")
    multiple = 2**STAGES
    finest: ClassVar[int]

    def make_module(self) -> nn.Module:
        learnt = self.options.upsampling == "learnt"
        return Network(len(self.classes), self.options.width, self.finest, learnt)


class Fcn32s(Fcn):
    """No skip: one upsampling from stride 32."""

    name = "fcn-32s"
    finest = 32


class Fcn16s(Fcn):
    """FCN with a skip from stride 16."""

    name = "fcn-16s"
    finest = 16


class Fcn8s(Fcn):
    """FCN with skips from strides 16 and 8."""

    name = "fcn-8s"
    finest = 8
