"""Faster R-CNN: proposals from the features that classify them, one network (Ren et al. 2015).

At two scales: a small trunk for pictures of 128 px, and ResNet-50 with a feature pyramid, what torchvision
publishes as `fasterrcnn_resnet50_fpn` (parameters named alike, so that its file loads directly).
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from adapters import images
from adapters.detection import proposals, pyramid, region_head, region_trunk, roi, views
from adapters.detection.finite import check_finite
from adapters.detection.region_head import GRID, Answers
from adapters.detection.views import Size, TrainingViews, Views
from adapters.torch_adapter import TorchAdapter
from adapters.vision.pretrained import PretrainedOptions, start_from
from adapters.vision.published import published_classes
from adapters.vision.resnet import CHANNELS, FrozenBatchNorm, ResNet50
from harness.checkpoint import Checkpoint, load
from harness.datasets.dataset import Dataset
from harness.errors import UsageError
from harness.task import Prediction, Sample

# What does not learn after ImageNet: FREEZE_AT = 2 of Girshick et al.'s Detectron, torchvision's default too.
FROZEN = ("conv1", "layer1")


class FasterRcnnOptions(PretrainedOptions):
    """The first three shape the weights."""

    backbone: Literal["small", "resnet50-fpn"] = "small"
    width: int = Field(16, ge=4, le=64)
    """Channels of the small backbone's first stage."""
    epsilon: float = Field(1e-5, ge=0)
    """Of the pyramid's frozen batch normalisation; torchvision's COCO_V1 weights were made with 0."""
    score_threshold: float = Field(0.05, ge=0, le=1)
    nms_iou: float = Field(0.5, ge=0, le=1)
    shorter_side: int = Field(800, ge=32)
    """px that an image's shorter side is scaled to, for the pyramid (Lin et al. 2017 §5.1)."""
    longer_side: int = Field(1333, ge=32)
    """px that its longer side does not exceed."""
    pretrained: Path | None = None
    """Where training of the ResNet starts: torchvision's published ImageNet classifier, a .pth file."""


@dataclass(frozen=True, eq=False)
class Maps:
    """Features [N, C, Hₖ, Wₖ], finest first."""

    proposing: list[Tensor]
    """Proposals are made from these."""
    pooled: list[Tensor]
    """Regions are cut out of these."""


class Network(nn.Module):
    """Images [N, 3, H, W] → maps → proposals → answers."""

    rpn: proposals.ProposalNetwork
    roi_heads: region_head.RegionClassifier
    sampling: region_head.Sampling
    beta: float
    """Where the smooth L1 of the regions' offsets turns linear."""

    @abstractmethod
    def maps(self, pixels: Tensor) -> Maps:
        """Features of images [N, 3, H, W]."""

    @abstractmethod
    def pool(self, maps: Sequence[Tensor], regions: Tensor, owners: Tensor) -> Tensor:
        """Regions [R, 4] of the images `owners` [R] → [R, C, GRID, GRID]."""

    def forward(self, pixels: Tensor, inside: Sequence[Size]) -> Answers:
        maps = self.maps(pixels)
        raw = self.rpn(maps.proposing, pixels.shape[2], pixels.shape[3])
        check_finite(raw.logits, raw.offsets)
        found = self.rpn.propose(raw, inside)
        return Answers(found, *self._classified(maps.pooled, found))

    def losses(self, batch: TrainingViews) -> dict[str, Tensor]:
        maps = self.maps(batch.pixels)
        raw = self.rpn(maps.proposing, batch.pixels.shape[2], batch.pixels.shape[3])
        with torch.no_grad():
            found = self.rpn.propose(raw, batch.inside)
            taught = region_head.lesson(found, batch.boxes, batch.labels, self.sampling)
        answers = self._classified(maps.pooled, taught.regions)
        return self.rpn.loss(raw, batch.boxes) | region_head.loss(*answers, taught, self.beta)

    def _classified(self, maps: Sequence[Tensor], regions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        pooled = self.pool(maps, torch.cat(list(regions)), region_head.owners(regions))
        found: tuple[Tensor, Tensor] = self.roi_heads(pooled)
        return found


class SmallNetwork(Network):
    """Proposals from a map of stride 8, their features from one of stride 4."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.trunk = region_trunk.SmallTrunk(width)
        channels = self.trunk.channels
        settings = proposals.Settings(
            sizes=((16, 24, 36, 54, 80, 120),),  # px of the input; digits are 18 to 126 px high there
            aspects=(1.0, 1.6, 2.5),  # digits are taller than wide
            before=300,
            after=100,
            positive=0.6,  # as `before` and `after`, the prototype's
            learnt_from=128,
        )
        self.rpn = proposals.ProposalNetwork(channels, settings)
        self.roi_heads = region_head.RegionClassifier(channels, GRID, units=12 * width, classes=classes)
        self.sampling = region_head.Sampling(count=32)
        self.beta = proposals.BETA

    def maps(self, pixels: Tensor) -> Maps:
        fine, coarse = self.trunk(pixels)
        return Maps([coarse], [fine])

    def pool(self, maps: Sequence[Tensor], regions: Tensor, owners: Tensor) -> Tensor:
        return roi.align(maps[0], regions, owners, GRID, 1 / region_trunk.FINE)


class PyramidNetwork(Network):
    """ResNet-50 and a feature pyramid of strides 4 to 64 (Lin et al. 2017)."""

    def __init__(self, classes: int, epsilon: float) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict(
            {
                "body": ResNet50(norm=partial(FrozenBatchNorm, eps=epsilon)),
                "fpn": pyramid.Pyramid(CHANNELS),
            }
        )
        settings = proposals.Settings(
            sizes=((32,), (64,), (128,), (256,), (512,)),  # Lin et al. 2017 §4.1
            aspects=(0.5, 1.0, 2.0),
            before=1000,
            after=1000,  # Lin et al. 2017 §5.2, as the next
            while_learning=2,
        )
        self.rpn = proposals.ProposalNetwork(pyramid.WIDTH, settings)
        units = 1024  # Lin et al. 2017 §4.2
        self.roi_heads = region_head.RegionClassifier(pyramid.WIDTH, GRID, units, classes)
        self.sampling = region_head.Sampling(count=512)  # Lin et al. 2017 §5.2
        self.beta = proposals.BETA

    def maps(self, pixels: Tensor) -> Maps:
        found: list[Tensor] = self.backbone["fpn"](self.backbone["body"](pixels))
        return Maps(found, found[:-1])

    def pool(self, maps: Sequence[Tensor], regions: Tensor, owners: Tensor) -> Tensor:
        return pyramid.align(maps, regions, owners, GRID, finest=2)


class FasterRcnn(TorchAdapter):
    """Faster R-CNN at either scale."""

    name = "faster-rcnn"
    task = "detection"
    Options = FasterRcnnOptions
    shaping = ("backbone", "width", "epsilon")

    module: Network

    def make_module(self) -> nn.Module:
        options = self.options
        if options.backbone == "small":
            return SmallNetwork(len(self.classes), options.width)
        return PyramidNetwork(len(self.classes), options.epsilon)

    def build(self, train: Dataset) -> None:
        super().build(train)
        path: Path | None = self.options.pretrained
        if path is not None:
            trunk = self.module.get_submodule("backbone.body")
            start_from(trunk, load(path).tensors, path)
            for first in FROZEN:
                trunk.get_submodule(first).requires_grad_(False)

    def preprocess(self, samples: Sequence[Sample]) -> Views:
        options, originals = self.options, [images.of(sample) for sample in samples]
        if options.backbone == "small":
            return views.square(originals, region_trunk.SIDE, self.runtime.device)
        return views.photographs(originals, options.shorter_side, options.longer_side, self.runtime.device)

    def infer(self, batch: Views) -> list[Answers]:
        return [self.module(group.pixels, group.inside) for group in batch.groups]

    def postprocess(self, raw: list[Answers], batch: Views) -> list[Prediction]:
        reporting = region_head.Reporting(self.options.score_threshold, self.options.nms_iou)
        return region_head.report(raw, batch, reporting)

    def training_batch(self, samples: Sequence[Sample], generator: np.random.Generator) -> TrainingViews:
        device, options = self.runtime.device, self.options
        if options.backbone == "small":
            return views.square_lessons(samples, region_trunk.SIDE, generator, device)
        shorter, longer = options.shorter_side, options.longer_side
        return views.photograph_lessons(samples, shorter, longer, generator, device)

    def loss(self, batch: TrainingViews) -> dict[str, Tensor]:
        return self.module.losses(batch)

    def adopt(self, tensors: Mapping[str, Tensor]) -> Checkpoint:
        renamed, epsilon, classes = published(self.name, tensors)
        options = {"backbone": "resnet50-fpn", "width": 16, "epsilon": epsilon}
        return Checkpoint(renamed, self.name, options, classes)


def published(
    adapter: str, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], float, tuple[str, ...]]:
    """Weights in either generation of torchvision's names → under the newer, epsilon, classes.

    A file without batch counters has frozen normalisation and is taken for COCO_V1, whose epsilon is 0.

    Raises:
        UsageError: they are not this model's.
    """
    logits = "roi_heads.box_predictor.cls_score.bias"
    if logits not in tensors:
        raise UsageError(f"adapter '{adapter}': the file has no tensor '{logits}' as torchvision's have")
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
    renamed = {_renamed(name): tensor for name, tensor in kept.items()}
    epsilon = 1e-5 if len(kept) < len(tensors) else 0.0
    return renamed, epsilon, published_classes(len(tensors[logits]) - 1)


# torchvision up to 0.12 → since; what else there is is named alike here.
_OLDER = (
    (re.compile(r"^rpn\.head\.conv\.(weight|bias)$"), r"rpn.head.conv.0.0.\1"),
    (re.compile(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$"), r"\1.0.\2"),
)


def _renamed(name: str) -> str:
    for pattern, replacement in _OLDER:
        name = pattern.sub(replacement, name)
    return name
