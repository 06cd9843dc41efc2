"""What R-CNN and Fast R-CNN share: regions come from selective search, and a network says what they show."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from adapters import images
from adapters.detection import region_head, views
from adapters.detection.boxes import clip, large_enough
from adapters.detection.proposal_cache import searched
from adapters.detection.region_head import Answers
from adapters.detection.selective_search import MODES, Mode, propose
from adapters.detection.views import Placement, Size, TrainingViews, Views
from adapters.torch_adapter import TorchAdapter
from adapters.vision.pretrained import PretrainedOptions, start_from
from adapters.vision.vgg import fully_connected
from harness.checkpoint import load
from harness.datasets.dataset import Dataset
from harness.task import Image, Prediction, Sample

SMALLEST = 1.0  # px, of a region's sides in the view: what is thinner shows nothing
BETA = 1.0  # where smooth L1 turns linear; Girshick 2015 equation 3


class SearchedRegionsOptions(PretrainedOptions):
    """The first two shape the weights."""

    backbone: Literal["small", "vgg16"] = "small"
    width: int = Field(16, ge=4, le=64)
    """Channels of the small backbone's first stage."""
    search: Mode | None = None
    """By default `small` before the small backbone and `fast` before VGG-16 (Girshick et al. 2014 §2.2)."""
    most_regions: int = Field(2000, ge=1)
    """An image, the likeliest; Girshick et al. 2014 §2."""
    kept_regions: bool = False
    """Predict from regions kept on disk from an earlier search: time measured so is without the search."""
    score_threshold: float = Field(0.01, ge=0, le=1)
    nms_iou: float = Field(0.3, ge=0, le=1)
    """Girshick's published code."""
    shorter_side: int = Field(600, ge=32)
    """px that an image's shorter side is scaled to, for VGG-16 (Girshick 2015 §3)."""
    longer_side: int = Field(1000, ge=32)
    """px that its longer side does not exceed."""
    pretrained: Path | None = None
    """Where training of VGG-16 starts: torchvision's published ImageNet classifier, a .pth file."""


class RegionNetwork(nn.Module):
    """Images and regions in them → what the regions show."""

    sampling: region_head.Sampling
    trunk: nn.Module
    roi_heads: region_head.RegionClassifier

    @abstractmethod
    def forward(self, pixels: Tensor, regions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """[N, 3, H, W] and N times [Rᵢ, 4] in px → logits [R, 1 + C] and offsets [R, 1 + C, 4]."""


class SearchedRegions(TorchAdapter):
    """Subclasses say which network it is."""

    task = "detection"
    Options = SearchedRegionsOptions
    shaping = ("backbone", "width")
    side: ClassVar[int]
    """px of the small network's input."""

    module: RegionNetwork

    def build(self, train: Dataset) -> None:
        super().build(train)
        path: Path | None = self.options.pretrained
        if path is not None:
            published = load(path).tensors
            start_from(self.module.trunk, published, path)
            start_from(self.module.roi_heads.box_head, fully_connected(published), path)

    def preprocess(self, samples: Sequence[Sample]) -> tuple[Views, list[Tensor]]:
        """The images, and the regions of each."""
        options, originals = self.options, [images.of(sample) for sample in samples]
        if self._small:
            batch = views.square(originals, self.side, self.runtime.device)
        else:
            batch = views.photographs(
                originals, options.shorter_side, options.longer_side, self.runtime.device
            )
        inside = {
            place: size
            for group in batch.groups
            for place, size in zip(group.members, group.inside, strict=True)
        }
        regions = [
            self._seen(self._search(image, options.kept_regions), Placement(factors), inside[place])
            for place, (image, factors) in enumerate(zip(originals, batch.factors, strict=True))
        ]
        return batch, regions

    def infer(self, batch: tuple[Views, list[Tensor]]) -> list[Answers]:
        found, regions = batch
        answers = []
        for group in found.groups:
            own = [regions[place] for place in group.members]
            answers.append(Answers(own, *self.module(group.pixels, own)))
        return answers

    def postprocess(self, raw: list[Answers], batch: tuple[Views, list[Tensor]]) -> list[Prediction]:
        reporting = region_head.Reporting(self.options.score_threshold, self.options.nms_iou)
        return region_head.report(raw, batch[0], reporting)

    def training_batch(
        self, samples: Sequence[Sample], generator: np.random.Generator
    ) -> tuple[TrainingViews, list[Tensor]]:
        device, options = self.runtime.device, self.options
        if self._small:
            batch = views.square_lessons(samples, self.side, generator, device)
        else:
            batch = views.photograph_lessons(
                samples, options.shorter_side, options.longer_side, generator, device
            )
        regions = [
            self._seen(self._search(images.of(sample), kept=True), placement, inside)
            for sample, placement, inside in zip(samples, batch.placements, batch.inside, strict=True)
        ]
        return batch, regions

    def loss(self, batch: tuple[TrainingViews, list[Tensor]]) -> dict[str, Tensor]:
        seen, regions = batch
        taught = region_head.lesson(regions, seen.boxes, seen.labels, self.module.sampling)
        logits, offsets = self.module(seen.pixels, taught.regions)
        return region_head.loss(logits, offsets, taught, BETA)

    @property
    def _small(self) -> bool:
        small: bool = self.options.backbone == "small"
        return small

    def _search(self, image: Image, kept: bool) -> NDArray[np.int32]:
        strategy = MODES[self.options.search or ("small" if self._small else "fast")]
        return (searched if kept else propose)(image, strategy)

    def _seen(self, regions: NDArray[np.int32], placement: Placement, inside: Size) -> Tensor:
        """The likeliest regions as the view shows them; moved out of it or nearly so, they are left out."""
        found = torch.from_numpy(placement.seen(regions[: self.options.most_regions])).float()
        found = clip(found, inside)
        return found[large_enough(found, SMALLEST)].to(self.runtime.device)
