"""The networks of SSD (Liu et al. 2016): a small one for images of 128 px, and SSD300 on VGG-16."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from adapters.backbone import Backbone, ConvNorm
from adapters.detection import default_boxes
from adapters.vision.pretrained import start_from
from adapters.vision.vgg import Vgg16
from harness.checkpoint import load

SMALL_SIDE, SIDE = 128, 300  # px of the input, unless a suite sets `input_size`
# Width / height of the small network's boxes by default, as in the prototype. The quartiles of digits are
# 1 / 1.75 and 1 / 1.36 (measured, 1,529 digits).
UPRIGHT = (1 / 1.2, 1 / 1.8)


class SsdOutputs(NamedTuple):
    """Raw outputs for the D default boxes of a batch."""

    logits: Tensor  # [N, D, 1 + C], background first
    offsets: Tensor  # [N, D, 4]
    defaults: Tensor  # [D, 4], corners in px of the input


class Heads(nn.Module):
    """Predict classes and offsets, each with one 3×3 convolution per map."""

    def __init__(self, channels: Sequence[int], boxes_per_cell: Sequence[int], classes: int) -> None:
        super().__init__()
        self.logits_per_box = 1 + classes
        sizes = list(zip(channels, boxes_per_cell, strict=True))
        self.classes = nn.ModuleList([nn.Conv2d(c, n * self.logits_per_box, 3, padding=1) for c, n in sizes])
        self.offsets = nn.ModuleList([nn.Conv2d(c, n * 4, 3, padding=1) for c, n in sizes])
        initialise(self)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Map features to logits [N, D, 1 + C] and offsets [N, D, 4], in the order of the default boxes."""

        def joined(layers: nn.ModuleList, width: int) -> Tensor:
            outputs = [layer(features) for layer, features in zip(layers, maps, strict=True)]
            return torch.cat(
                [output.permute(0, 2, 3, 1).reshape(output.shape[0], -1, width) for output in outputs], dim=1
            )

        return joined(self.classes, self.logits_per_box), joined(self.offsets, 4)


def initialise(part: nn.Module) -> None:
    """Draw weights as in Glorot & Bengio 2010 (§3, "xavier") for layers not pretrained; set biases to 0."""
    for layer in part.modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.bias is not None
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)


class Network(nn.Module):
    """A network from images of one size to logits and offsets of their default boxes."""

    heads: Heads
    layouts: list[default_boxes.MapLayout]
    thresholds = default_boxes.Thresholds()

    def forward(self, pixels: Tensor) -> SsdOutputs:
        """Compute raw outputs for images [N, 3, H, W]."""
        maps = self.maps(pixels)
        logits, offsets = self.heads(maps)
        cells = [(features.shape[2], features.shape[3]) for features in maps]
        height, width = pixels.shape[-2:]
        defaults = default_boxes.default_boxes(self.layouts, cells, (height, width))
        return SsdOutputs(logits, offsets, defaults.to(pixels.device))

    @abstractmethod
    def maps(self, pixels: Tensor) -> list[Tensor]:
        """Compute the input maps of the heads."""


class SmallNetwork(Network):
    """The small network, with maps of strides 8, 16, 32 and 64."""

    # as in the prototype; boxes between the two are ignored
    thresholds = default_boxes.Thresholds(positive_iou=0.5, negative_iou=0.4)

    def __init__(
        self, classes: int, width: int, side: int, aspect_ratios: Sequence[float], box_scale: float
    ) -> None:
        """Create the network for inputs with a longer side of `side` px.

        The default boxes have these aspect ratios (width / height), and `box_scale` times the sizes below.
        """
        super().__init__()
        self.backbone = Backbone(width, 5)
        self.backbone.stages.append(
            ConvNorm(self.backbone.channels[-1], self.backbone.channels[-1], stride=2)
        )
        wide = self.backbone.channels[2:]
        self.context = ConvNorm(wide[0], wide[1], dilation=2)  # widens the finest map's receptive field
        # px per stride, as in the prototype. Of 1,205 digits, 81% have a default box with IoU .5; with the
        # paper's square, wide and tall boxes, 76% do (measured).
        self.layouts = [
            default_boxes.MapLayout(
                stride / side,
                tuple(
                    default_boxes.shape(size * box_scale / side, aspect)
                    for aspect in aspect_ratios
                    for size in sizes
                ),
            )
            for stride, sizes in ((8, (11, 17)), (16, (26, 36)), (32, (52, 66)), (64, (84, 104)))
        ]
        channels = [wide[1], wide[1], wide[2], wide[2]]
        self.heads = Heads(channels, [len(layout.shapes) for layout in self.layouts], classes)

    def maps(self, pixels: Tensor) -> list[Tensor]:
        fine, middle, coarse, coarsest = self.backbone(pixels)[2:]
        return [self.context(fine), middle, coarse, coarsest]


class Vgg16Network(Network):
    """SSD300: VGG-16 with convolutional fc6 and fc7, followed by four smaller maps (figure 2)."""

    # figure 2: channels of the 1×1 convolution, channels and stride of the 3×3 convolution
    EXTRA = ((256, 512, 2), (128, 256, 2), (128, 256, 1), (128, 256, 1))

    def __init__(self, classes: int, side: int) -> None:
        """Create the network for inputs with a longer side of `side` px."""
        super().__init__()
        trunk = Vgg16().features
        trunk[16] = nn.MaxPool2d(2, ceil_mode=True)  # 75 cells become 38, not 37
        self.fine = trunk[:23]  # up to conv4_3 and its ReLU
        self.scale = nn.Parameter(torch.full((512,), 20.0))  # of conv4_3's normalised features, §3.1
        classifier = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1),  # pool5 keeps the size, §3
            nn.Conv2d(512, 1024, 3, padding=6, dilation=6),  # fc6 with dilation (à trous), §3
            nn.ReLU(inplace=True),
            nn.Conv2d(1024, 1024, 1),  # fc7
            nn.ReLU(inplace=True),
        )
        self.deep = nn.Sequential(*trunk[23:30], *classifier)  # from pool4 on
        inputs, self.extra = 1024, nn.ModuleList()
        for squeezed, outputs, stride in self.EXTRA:
            self.extra.append(
                nn.Sequential(
                    nn.Conv2d(inputs, squeezed, 1),
                    nn.ReLU(inplace=True),
                    nn.Conv2d(squeezed, outputs, 3, stride, padding=stride - 1),
                    nn.ReLU(inplace=True),
                )
            )
            inputs = outputs
        # the paper subsamples VGG's own fc6 and fc7 (§3), which the published file for these inputs lacks
        initialise(classifier)
        initialise(self.extra)
        # Liu's published settings for COCO, also used in suites/voc.yaml; those for VOC are larger (§2.2)
        self.layouts = default_boxes.layouts_of_scales(
            steps=[*(step / side for step in (8, 16, 32, 64)), None, None],
            scales=(0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05),
            aspect_ratios=((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)),
        )
        channels = [512, 1024, *(outputs for _, outputs, _ in self.EXTRA)]
        self.heads = Heads(channels, [len(layout.shapes) for layout in self.layouts], classes)

    def maps(self, pixels: Tensor) -> list[Tensor]:
        fine = self.fine(pixels)
        x = self.deep(fine)
        maps = [self.scale[:, None, None] * nn.functional.normalize(fine), x]
        for layer in self.extra:
            x = layer(x)
            maps.append(x)
        return maps

    def load_pretrained(self, path: Path) -> None:
        """Load the 13 convolutions of a published VGG-16."""
        trunk = Vgg16()
        trunk.features = nn.Sequential(*self.fine, *self.deep[:7])  # under their published indices
        start_from(trunk, load(path).tensors, path)
