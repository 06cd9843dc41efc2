"""The convolutional backbone of the small vision models: feature maps of strides 2, 4, 8, 16 and 32."""

import torch
from torch import Tensor, nn

MAX_WIDTH_FACTOR = 8  # channels grow to at most this times the width, to keep checkpoints under 3 MB


class ConvNorm(nn.Sequential):
    """Convolution, batch normalisation (Ioffe & Szegedy 2015), ReLU; the stride divides the map's size."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, stride, padding=dilation, dilation=dilation, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class Residual(nn.Module):
    """Residual block x + F(x) with two 3×3 convolutions (He et al. 2016 §3.2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvNorm(channels, channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)  # a block starts as the identity, Goyal et al. 2017 §5.1

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, H, W] to the same shape."""
        return torch.relu(x + self.norm(self.second(self.first(x))))


class Backbone(nn.Module):
    """A stack of stages; stage k halves the size and has width · 2ᵏ channels (at most 8 · width)."""

    def __init__(self, width: int, stages: int) -> None:
        super().__init__()
        self.channels = [width * min(2**k, MAX_WIDTH_FACTOR) for k in range(stages)]
        stem = ConvNorm(3, self.channels[0], stride=2)
        deeper = [
            nn.Sequential(ConvNorm(inputs, outputs, stride=2), Residual(outputs))
            for inputs, outputs in zip(self.channels, self.channels[1:], strict=False)
        ]
        self.stages = nn.ModuleList([stem, *deeper])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map images [N, 3, H, W] to maps [N, channels[k], H / 2ᵏ⁺¹, W / 2ᵏ⁺¹], finest first."""
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps
