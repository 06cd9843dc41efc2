"""VGG-16 (Simonyan & Zisserman 2015, configuration D), the trunk without classifier.

Parameters are named as in torchvision's published files (`features.N`), which therefore load directly.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

# Channels of the 3×3 convolutions of the five stages, each of which ends in a pooling by 2; table 1, D.
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
CHANNELS = tuple(stage[-1] for stage in STAGES)
FULLY_CONNECTED = 4096  # units of fc6 and of fc7, the same table
WINDOW = 7  # pool5 of a 224 px image, what fc6 sees of it


class Vgg16(nn.Module):
    """Images → the maps after pool1 … pool5, strides 2, 4, 8, 16, 32."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self.pools: list[int] = []
        inputs = 3
        for stage in STAGES:
            for outputs in stage:
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True)]
                inputs = outputs
            self.pools.append(len(layers))
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.channels = CHANNELS
        initialise(self)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """[N, 3, H, W] → maps [N, CHANNELS[k], ⌊H / 2ᵏ⁺¹⌋, ⌊W / 2ᵏ⁺¹⌋], finest first."""
        maps, x = [], pixels
        for place, layer in enumerate(self.features):
            x = layer(x)
            if place in self.pools:
                maps.append(x)
        return maps


class ConvolutionalClassifier(nn.Sequential):
    """fc6 and fc7 as convolutions, so that they classify every place of pool5 (Long et al. 2015 §3.1).

    [N, 512, h, w] → [N, 4096, h, w]: fc6 is padded by 3, so that the map keeps its size. The paper's code
    pads the image by 100 px instead and crops the result: away from the border the same, but for a grid
    that is 3 px off, at the price of (H + 198)(W + 198) pixels in the first layers.
    """

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(CHANNELS[-1], FULLY_CONNECTED, WINDOW, padding=WINDOW // 2),
            nn.ReLU(inplace=True),
            nn.Dropout2d(),  # 0.5, Simonyan & Zisserman 2015 §3.1
            nn.Conv2d(FULLY_CONNECTED, FULLY_CONNECTED, 1),
            nn.ReLU(inplace=True),
            nn.Dropout2d(),
        )
        initialise(self)


def initialise(module: nn.Module) -> None:
    """Normal weights that keep the variance through ReLUs (He et al. 2015 §2.2), biases 0."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            assert part.bias is not None
            nn.init.zeros_(part.bias)


def fully_connected(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The fully connected layers of a published VGG-16 by their names in the paper, fc6 and fc7."""
    places = {"classifier.0": "fc6", "classifier.3": "fc7"}
    return {
        f"{places[name]}.{kind}": tensor
        for name, _, kind in (key.rpartition(".") for key in tensors)
        if name in places
        for tensor in [tensors[f"{name}.{kind}"]]
    }


def convolutional(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The fully connected layers of a published VGG-16 as weights of a `ConvolutionalClassifier`.

    fc6's rows run over pool5 of a 224 px image, channel by channel: [4096, 512 · 7 · 7].
    """
    layers = (("0", "classifier.0", WINDOW), ("3", "classifier.3", 1))  # place here, name there, side
    found = {}
    for place, name, side in layers:
        if f"{name}.weight" in tensors:
            found[f"{place}.weight"] = tensors[f"{name}.weight"].unflatten(1, (-1, side, side))
        if f"{name}.bias" in tensors:
            found[f"{place}.bias"] = tensors[f"{name}.bias"]
    return found
