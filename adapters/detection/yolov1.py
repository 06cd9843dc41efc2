"""The network of YOLO at the paper's scale: 24 convolutions and two fully connected layers.

Redmon et al. 2016, "You Only Look Once", figure 3. The paper pretrains the first 20 convolutions on ImageNet
(§2.2). Such weights were never published: those of the authors are of a network with batch normalisation.
"""

from torch import Tensor, nn

STRIDE = 64  # px of the input per cell: 448 for 7 cells, figure 3
# Figure 3: (kernel, channels, stride) of a convolution, None for a 2×2 max pooling.
LAYERS: tuple[tuple[int, int, int] | None, ...] = (
    *((7, 64, 2), None),
    *((3, 192, 1), None),
    *((1, 128, 1), (3, 256, 1), (1, 256, 1), (3, 512, 1), None),
    *(((1, 256, 1), (3, 512, 1)) * 4),
    *((1, 512, 1), (3, 1024, 1), None),
    *(((1, 512, 1), (3, 1024, 1)) * 2),
    *((3, 1024, 1), (3, 1024, 2), (3, 1024, 1), (3, 1024, 1)),
)
UNITS = 4096  # of the first fully connected layer, figure 3
NEGATIVE_SLOPE = 0.1  # of the leaky rectifiers, equation 2
DROPOUT = 0.5  # after the first fully connected layer, §2.2


class Network(nn.Module):
    """The paper's network, from images [N, 3, 64·R, 64·S] to raw outputs [N, R, S, C + 5B]."""

    def __init__(self, classes: int, boxes: int, grid: tuple[int, int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for layer in LAYERS:
            if layer is None:
                layers.append(nn.MaxPool2d(2))
                continue
            kernel, outputs, stride = layer
            layers += [
                nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2),
                nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True),
            ]
            inputs = outputs
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(inputs * grid[0] * grid[1], UNITS),
            nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True),
            nn.Dropout(DROPOUT),
            nn.Linear(UNITS, grid[0] * grid[1] * (classes + 5 * boxes)),
        )
        self.grid = grid
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.kaiming_normal_(module.weight, NEGATIVE_SLOPE, mode="fan_out")
                nn.init.zeros_(module.bias)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map [N, 3, 64·R, 64·S] to [N, R, S, C + 5B]."""
        raw: Tensor = self.head(self.features(pixels))
        return raw.reshape(len(raw), *self.grid, -1)
