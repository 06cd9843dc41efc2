"""YOLO at the paper's scale (Redmon et al. 2016): its 24 convolutions, and how it varies photographs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage
from torch import Tensor, nn

from adapters import images
from adapters.detection.views import MIRRORED, TrainingViews, Varied, mirrored, stretched_lessons
from adapters.vision.pretrained import start_from
from harness.checkpoint import load
from harness.task import Image, Sample

STRIDE = 64  # px of the input per cell: 448 for 7 cells, figure 3
# Figure 3: (kernel, channels, stride) of a convolution, None for a 2×2 pooling.
LAYERS: tuple[tuple[int, int, int] | None, ...] = (
    *((7, 64, 2), None),
    *((3, 192, 1), None),
    *((1, 128, 1), (3, 256, 1), (1, 256, 1), (3, 512, 1), None),
    *(((1, 256, 1), (3, 512, 1)) * 4),
    *((1, 512, 1), (3, 1024, 1), None),
    *(((1, 512, 1), (3, 1024, 1)) * 2),
    *((3, 1024, 1), (3, 1024, 2), (3, 1024, 1), (3, 1024, 1)),
)
DETECTING = 4  # convolutions at the end that are learnt for detection only, §2.2
UNITS = 4096  # of the first fully connected layer, figure 3
LEAK = 0.1  # of the rectifiers, equation 2
DROPPED = 0.5  # of these units while training, §2.2

# §2.2: pictures are scaled and moved by up to 20% of their size, exposure and saturation by up to 1.5.
MOVED, FACTOR = 0.2, 1.5
SMALLEST = 1e-3  # of the picture's side; what is cut off to less is not learnt (the published code)


class Network(nn.Module):
    """[N, 3, 64·S, 64·S] → [N, S, S, C + 5B]."""

    def __init__(self, classes: int, boxes: int, grid: int) -> None:
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
                nn.LeakyReLU(LEAK, inplace=True),
            ]
            inputs = outputs
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(inputs * grid * grid, UNITS),
            nn.LeakyReLU(LEAK, inplace=True),
            nn.Dropout(DROPPED),
            nn.Linear(UNITS, grid * grid * (classes + 5 * boxes)),
        )
        self.grid = grid
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.kaiming_normal_(module.weight, LEAK, mode="fan_out")
                nn.init.zeros_(module.bias)

    def start(self, path: Path) -> None:
        """Take the first 20 convolutions of an ImageNet classifier (§2.2), named `features.N` as here.

        Nobody publishes one in this form: the weights that the paper's authors keep are those of a network
        with batch normalisation.
        """
        start_from(Pretrained(self.features), load(path).tensors, path)

    def forward(self, pixels: Tensor) -> Tensor:
        raw: Tensor = self.head(self.features(pixels))
        return raw.unflatten(1, (self.grid, self.grid, -1))


class Pretrained(nn.Module):
    """What the paper learns on ImageNet first: all convolutions but the last four, §2.2."""

    def __init__(self, features: nn.Sequential) -> None:
        super().__init__()
        self.features = features[: -2 * DETECTING]


def lessons(
    samples: Sequence[Sample], side: int, generator: np.random.Generator, device: str
) -> TrainingViews:
    """Photographs varied as in §2.2, half of them mirrored, and stretched to a square of `side` px."""

    def varied(image: Image, boxes: NDArray[np.float64]) -> Varied:
        window, seen, kept = moved(image, boxes, generator)
        if generator.random() < MIRRORED:
            window, seen = mirrored(window, seen)
        return window, seen, kept

    def colours(picture: Image) -> Tensor:
        return images.to_tensor([exposed(picture, generator)], device)

    return stretched_lessons(samples, side, varied, colours, device)


def moved(image: Image, boxes: NDArray[np.float64], generator: np.random.Generator) -> Varied:
    """A window whose edges are each up to 20% inside or outside the picture's, grey where there is none.

    Returns the window, what it shows of the boxes [m, 4], and which ones these are.
    """
    height, width = image.shape[:2]
    spread = np.array([width, height, width, height]) * MOVED
    edges = np.array([0, 0, width, height]) + generator.uniform(-spread, spread)
    left, top, right, bottom = (int(edge) for edge in edges.round())
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    window = np.full((bottom - top, right - left, 3), images.GREY, dtype=np.uint8)
    seen = image[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    down, across = max(-top, 0), max(-left, 0)
    window[down : down + seen.shape[0], across : across + seen.shape[1]] = seen
    limits = np.array([right - left, bottom - top] * 2)
    corners = (boxes - (left, top, left, top)).clip(0, limits)
    kept = (corners[:, 2:] - corners[:, :2] > SMALLEST * limits[:2]).all(axis=1).nonzero()[0]
    return window, corners[kept], kept


def exposed(image: Image, generator: np.random.Generator) -> Image:
    """Saturation and exposure (HSV) multiplied or divided by up to 1.5."""
    factors = generator.uniform(1, FACTOR, 2) ** generator.choice([-1, 1], 2)
    colours = np.asarray(PILImage.fromarray(image).convert("HSV")).astype(np.float64)
    colours[..., 1:] *= factors
    changed = colours.round().clip(0, 255).astype(np.uint8)
    return np.asarray(PILImage.fromarray(changed, "HSV").convert("RGB"))
