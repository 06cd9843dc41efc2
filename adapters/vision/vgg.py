"""VGG-16 (Simonyan & Zisserman 2015, configuration D) without the classifier.

Parameters are named as in torchvision's published files (`features.N`), which therefore load directly.
"""

from collections.abc import Mapping

from torch import Tensor, nn

# Channels of the 3×3 convolutions of the five stages; each stage ends in a pooling by 2. Table 1, D.
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
CHANNELS = tuple(stage[-1] for stage in STAGES)
FULLY_CONNECTED = 4096  # units of fc6 and of fc7, the same table
POOL5_SIDE = 7  # cells per side of pool5 for an image of 224 px: the input of fc6


class Vgg16(nn.Module):
    """A network from images to the maps after pool1 … pool5: strides 2, 4, 8, 16, 32."""

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
        """Map [N, 3, H, W] to maps [N, CHANNELS[k], ⌊H / 2ᵏ⁺¹⌋, ⌊W / 2ᵏ⁺¹⌋], finest first."""
        maps, x = [], pixels
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.pools:
                maps.append(x)
        return maps


class ConvolutionalClassifier(nn.Sequential):
    """fc6 and fc7 as convolutions, which classify every position of pool5 (Long et al. 2015 §3.1).

    Maps [N, 512, h, w] to [N, 4096, h, w]: fc6 is padded by 3 to keep the size. The paper's code pads the
    image by 100 px instead and crops the result. Away from the border the two give the same on grids 3 px
    apart, but the paper's code computes its first layers on (H + 198)(W + 198) pixels.
    """

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(CHANNELS[-1], FULLY_CONNECTED, POOL5_SIDE, padding=POOL5_SIDE // 2),
            nn.ReLU(inplace=True),
            nn.Dropout2d(),  # 0.5, Simonyan & Zisserman 2015 §3.1
            nn.Conv2d(FULLY_CONNECTED, FULLY_CONNECTED, 1),
            nn.ReLU(inplace=True),
            nn.Dropout2d(),
        )
        initialise(self)


def initialise(module: nn.Module) -> None:
    """Draw normal weights that keep the variance through ReLUs (He et al. 2015 §2.2); set biases to 0."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            assert part.bias is not None
            nn.init.zeros_(part.bias)


def fully_connected(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the fully connected layers of a published VGG-16 under the names fc6 and fc7."""
    layers = {"classifier.0": "fc6", "classifier.3": "fc7"}
    return {
        f"{layers[published]}.{parameter}": tensor
        for key, tensor in tensors.items()
        for published, _, parameter in [key.rpartition(".")]
        if published in layers
    }


def convolutional(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the fully connected layers of a published VGG-16 as weights of a `ConvolutionalClassifier`.

    fc6's rows run over pool5 of a 224 px image, channel by channel: [4096, 512 · 7 · 7].
    """
    # index in ConvolutionalClassifier, published name, side of the kernel
    layers = (("0", "classifier.0", POOL5_SIDE), ("3", "classifier.3", 1))
    converted = {}
    for index, published, side in layers:
        if f"{published}.weight" in tensors:
            converted[f"{index}.weight"] = tensors[f"{published}.weight"].unflatten(1, (-1, side, side))
        if f"{published}.bias" in tensors:
            converted[f"{index}.bias"] = tensors[f"{published}.bias"]
    return converted
