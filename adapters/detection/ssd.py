"""SSD: boxes and classes from maps of several strides in one shot (Liu et al. 2016).

At two scales: a small trunk for pictures of 128 px, and VGG-16 at 300 px, what torchvision publishes as
`ssd300_vgg16`.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from adapters import images
from adapters.backbone import Backbone, ConvNorm
from adapters.detection import box_regression as coder
from adapters.detection import default_boxes, ssd_augmentation, views
from adapters.detection.boxes import clip
from adapters.detection.finite import check_finite
from adapters.detection.nms import suppress_per_class
from adapters.detection.views import TrainingViews, Views
from adapters.torch_adapter import TorchAdapter, TorchOptions
from adapters.vision.pretrained import PretrainedOptions, start_from
from adapters.vision.published import published_classes
from adapters.vision.vgg import Vgg16
from harness.checkpoint import Checkpoint, load
from harness.datasets.dataset import Dataset
from harness.errors import UsageError
from harness.task import Detections, Prediction, Sample

SMALL_SIDE, SIDE = 128, 300  # px of the input
# Width / height of the small network's boxes: the prototype's. Digits have quartiles of 1 / 1.75 and 1 / 1.36
# (measured, 1,529 of them).
UPRIGHT = (1 / 1.2, 1 / 1.8)


class SsdOptions(TorchOptions, PretrainedOptions):
    """The first two shape the weights."""

    backbone: Literal["small", "vgg16"] = "small"
    width: int = Field(16, ge=4, le=64)
    """Channels of the small backbone's first stage."""
    score_threshold: float = Field(0.01, ge=0, le=1)
    """§3.7, as are the next two."""
    nms_iou: float = Field(0.45, ge=0, le=1)
    most: int = Field(200, ge=1)
    """Detections an image."""
    most_candidates: int = Field(400, ge=1)
    """Boxes a class that suppression looks at (torchvision)."""
    pretrained: Path | None = None
    """Where training of VGG-16 starts: torchvision's published `IMAGENET1K_FEATURES`, a .pth file; it was
    made from levels as `images.of_vgg` has them, the usual `IMAGENET1K_V1` was not."""


class Heads(nn.Module):
    """A 3×3 convolution a map for the classes and one for the offsets."""

    def __init__(self, channels: Sequence[int], boxes_a_cell: Sequence[int], classes: int) -> None:
        super().__init__()
        self.answers = 1 + classes
        per_map = list(zip(channels, boxes_a_cell, strict=True))
        self.classes = nn.ModuleList([nn.Conv2d(c, n * self.answers, 3, padding=1) for c, n in per_map])
        self.offsets = nn.ModuleList([nn.Conv2d(c, n * 4, 3, padding=1) for c, n in per_map])
        initialise(self)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Maps → logits [N, D, 1 + C] and offsets [N, D, 4], in the order of the default boxes."""
        logits, offsets = (
            torch.cat(
                [
                    layer(one).permute(0, 2, 3, 1).reshape(len(one), -1, width)
                    for layer, one in zip(layers, maps, strict=True)
                ],
                dim=1,
            )
            for layers, width in ((self.classes, self.answers), (self.offsets, 4))
        )
        return logits, offsets


def initialise(part: nn.Module) -> None:
    """What is not pre-trained starts after Glorot & Bengio 2010 ("xavier", §3), biases at 0."""
    for layer in part.modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.bias is not None
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)


class Network(nn.Module):
    """Square images → logits and offsets of their default boxes."""

    heads: Heads
    pyramid: list[default_boxes.Map]
    thresholds = default_boxes.Thresholds()

    @abstractmethod
    def maps(self, pixels: Tensor) -> list[Tensor]:
        """The maps that heads look at."""

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[N, 3, side, side] → logits [N, D, 1 + C], offsets [N, D, 4], default boxes [D, 4]."""
        maps = self.maps(pixels)
        logits, offsets = self.heads(maps)
        cells = [(one.shape[2], one.shape[3]) for one in maps]
        defaults = default_boxes.boxes(self.pyramid, cells, pixels.shape[-1]).to(pixels.device)
        return logits, offsets, defaults


class SmallNetwork(Network):
    """Maps of 16, 8, 4 and 2 cells a side."""

    thresholds = default_boxes.Thresholds(positive=0.5, negative=0.4)  # the prototype's; between: ignored

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.backbone = Backbone(width, 5)
        self.backbone.stages.append(
            ConvNorm(self.backbone.channels[-1], self.backbone.channels[-1], stride=2)
        )
        wide = self.backbone.channels[2:]
        self.context = ConvNorm(wide[0], wide[1], dilation=2)  # the finest map sees little of its objects
        # px of the prototype, stride by stride; of 1,205 digits 81% have a default box of IoU .5 so, 76% with
        # the paper's squares, upright and lying boxes (measured)
        self.pyramid = [
            default_boxes.Map(
                stride / SMALL_SIDE,
                tuple(default_boxes.shape(size / SMALL_SIDE, aspect) for aspect in UPRIGHT for size in sizes),
            )
            for stride, sizes in ((8, (11, 17)), (16, (26, 36)), (32, (52, 66)), (64, (84, 104)))
        ]
        channels = [wide[1], wide[1], wide[2], wide[2]]
        self.heads = Heads(channels, [len(one.shapes) for one in self.pyramid], classes)

    def maps(self, pixels: Tensor) -> list[Tensor]:
        fine, middle, coarse, coarsest = self.backbone(pixels)[2:]
        return [self.context(fine), middle, coarse, coarsest]


class Vgg16Network(Network):
    """SSD300: VGG-16 with convolutional fc6 and fc7, and four smaller maps behind (figure 2)."""

    EXTRA = ((256, 512, 2), (128, 256, 2), (128, 256, 1), (128, 256, 1))  # squeezed, channels, stride

    def __init__(self, classes: int) -> None:
        super().__init__()
        trunk = Vgg16().features
        trunk[16] = nn.MaxPool2d(2, ceil_mode=True)  # 75 cells become 38, not 37
        self.fine = trunk[:23]  # to conv4_3 and its ReLU
        self.scale = nn.Parameter(torch.full((512,), 20.0))  # of conv4_3's normed features, §3.1
        classifier = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1),  # pool5 keeps the size, §3
            nn.Conv2d(512, 1024, 3, padding=6, dilation=6),  # fc6, with holes (à trous), §3
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
        initialise(classifier)  # the paper samples VGG's own (§3), which no file for these levels has
        initialise(self.extra)
        # Liu's published settings for COCO: smaller than §2.2's for VOC, which suites/voc.yaml's figures have
        self.pyramid = default_boxes.pyramid(
            steps=[step / SIDE for step in (8, 16, 32, 64, 100, 300)],
            scales=(0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05),
            aspects=((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)),
        )
        channels = [512, 1024, *(outputs for _, outputs, _ in self.EXTRA)]
        self.heads = Heads(channels, [len(one.shapes) for one in self.pyramid], classes)

    def start(self, path: Path) -> None:
        """Take the 13 convolutions of a published VGG-16."""
        trunk = Vgg16()
        trunk.features = nn.Sequential(*self.fine, *self.deep[:7])  # its layers by their published places
        start_from(trunk, load(path).tensors, path)

    def maps(self, pixels: Tensor) -> list[Tensor]:
        fine = self.fine(pixels)
        x = self.deep(fine)
        found = [self.scale[:, None, None] * nn.functional.normalize(fine), x]
        for layer in self.extra:
            x = layer(x)
            found.append(x)
        return found


class Ssd(TorchAdapter):
    """SSD at either scale."""

    name = "ssd"
    task = "detection"
    Options = SsdOptions
    shaping = ("backbone", "width")

    module: Network

    def make_module(self) -> nn.Module:
        if self.options.backbone == "small":
            return SmallNetwork(len(self.classes), self.options.width)
        return Vgg16Network(len(self.classes))

    def build(self, train: Dataset) -> None:
        super().build(train)
        if isinstance(self.module, Vgg16Network) and self.options.pretrained is not None:
            self.module.start(self.options.pretrained)

    def preprocess(self, samples: Sequence[Sample]) -> Views:
        originals = [images.of(sample) for sample in samples]
        if self.options.backbone == "small":
            return views.square(originals, SMALL_SIDE, self.runtime.device)
        return views.stretched(originals, SIDE, images.of_vgg, self.runtime.device)

    def infer(self, batch: Views) -> tuple[Tensor, Tensor, Tensor]:
        found: tuple[Tensor, Tensor, Tensor] = self.module(batch.groups[0].pixels)
        return found

    def postprocess(self, raw: tuple[Tensor, Tensor, Tensor], batch: Views) -> list[Prediction]:
        logits, offsets, defaults = raw
        check_finite(logits, offsets)
        side = batch.groups[0].pixels.shape[-1]
        scores = logits.float().softmax(dim=-1)[..., 1:]
        boxes = clip(coder.decode(offsets.float(), defaults, coder.SCALED), (side, side))
        return [self._detections(batch, i, *own) for i, own in enumerate(zip(boxes, scores, strict=True))]

    def training_batch(self, samples: Sequence[Sample], generator: np.random.Generator) -> TrainingViews:
        if self.options.backbone == "small":
            return views.square_lessons(samples, SMALL_SIDE, generator, self.runtime.device)
        return ssd_augmentation.lessons(samples, SIDE, generator, self.runtime.device)

    def loss(self, batch: TrainingViews) -> dict[str, Tensor]:
        logits, offsets, defaults = self.module(batch.pixels)
        thresholds = self.module.thresholds
        return default_boxes.loss(logits, offsets, defaults, batch.boxes, batch.labels, thresholds)

    def adopt(self, tensors: Mapping[str, Tensor]) -> Checkpoint:
        """torchvision's names; the two have the same layers in the same order."""
        classes = classes_of(self.name, tensors)
        renamed = {_renamed(name): tensor for name, tensor in tensors.items()}
        return Checkpoint(renamed, self.name, {"backbone": "vgg16", "width": 16}, classes)

    def _detections(self, batch: Views, place: int, boxes: Tensor, scores: Tensor) -> Detections:
        """Of one image, boxes [D, 4] in seen px and scores [D, C]."""
        options = self.options
        likely = (scores.amax(dim=1) > options.score_threshold).nonzero()[:, 0]  # few, and topk is slow
        boxes, scores = boxes[likely], scores[likely]
        best, chosen = scores.topk(min(options.most_candidates, len(scores)), dim=0)  # of each class, [K, C]
        labels = torch.arange(scores.shape[1], device=scores.device).expand_as(best)
        wanted = best > options.score_threshold
        found, places, classes = best[wanted], chosen[wanted], labels[wanted]
        kept = suppress_per_class(boxes[places], found, classes, options.nms_iou)[: options.most]
        restored = batch.restored(place, boxes[places[kept]])
        return Detections(restored.cpu().numpy(), found[kept].cpu().numpy(), classes[kept].cpu().numpy())


def classes_of(adapter: str, tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The classes of weights that torchvision publishes; UsageError where these are not this model's."""
    bias = "head.classification_head.module_list.0.bias"
    if bias not in tensors:
        raise UsageError(f"adapter '{adapter}': the file has no tensor '{bias}' as torchvision's have")
    boxes_a_cell = 4  # of the first map
    return published_classes(len(tensors[bias]) // boxes_a_cell - 1)


# torchvision's names → ours.
_PUBLISHED = (
    (re.compile(r"^backbone\.scale_weight$"), r"scale"),
    (re.compile(r"^backbone\.features\.(\d+)\."), r"fine.\1."),
    (re.compile(r"^backbone\.extra\.0\.7\.1\."), "deep.8."),
    (re.compile(r"^backbone\.extra\.0\.7\.3\."), "deep.10."),
    (re.compile(r"^backbone\.extra\.0\.(\d)\."), r"deep.\1."),
    (re.compile(r"^head\.classification_head\.module_list\."), "heads.classes."),
    (re.compile(r"^head\.regression_head\.module_list\."), "heads.offsets."),
)


def _renamed(name: str) -> str:
    for pattern, replacement in _PUBLISHED:
        name = pattern.sub(replacement, name)
    return re.sub(r"^backbone\.extra\.(\d)\.", lambda found: f"extra.{int(found[1]) - 1}.", name)
