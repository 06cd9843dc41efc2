"""Detectors whose regions come from selective search: the part that R-CNN and Fast R-CNN share."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image, remove_small_boxes

from adapters import images
from adapters.detection import region_head
from adapters.detection.detector_input import BoxTransform, DetectorInput, framed_input, photograph_inputs
from adapters.detection.proposal_cache import cached_proposals
from adapters.detection.region_head import POOLED_SIDE, RegionOutputs
from adapters.detection.selective_search import MODES, Mode, propose
from adapters.detection.training_batch import TrainingBatch, framed_training_batch, photograph_training_batch
from adapters.detection.training_images import RegionAugmentation
from adapters.torch_adapter import TorchAdapter
from adapters.vision.input_size import InputSizeOptions
from adapters.vision.pretrained import PretrainedOptions, start_from
from adapters.vision.vgg import fully_connected
from harness.adapter import Exportable
from harness.checkpoint import load
from harness.datasets.dataset import Dataset
from harness.task import Prediction, Sample

MIN_SIDE = 1.0  # px of the input, of a region's sides; thinner regions show nothing
FINEST_STRIDE = 8  # px of the input, of which its sides are multiples
SMOOTH_L1_BETA = 1.0  # error from which smooth L1 is linear; Girshick 2015 equation 3


class SelectiveSearchOptions(PretrainedOptions, InputSizeOptions):
    """Options of `rcnn` and `fast-rcnn`."""

    backbone: Literal["small", "vgg16"] = "small"
    """The small network, by default for 128 px, or the papers' VGG-16."""
    augmentation: RegionAugmentation | None = None
    """Variation of training images, by default `digits`. VGG-16 always has `flip`. The regions of an image
    are searched once, so its content cannot change otherwise."""
    search: Mode | None = None
    """Mode of selective search: by default `small` for the small backbone, `fast` for VGG-16 (Girshick et al.
    2014 §2.2)."""
    proposals_per_image: int = Field(2000, ge=1)
    """Maximum proposals per image, the likeliest ones (Girshick et al. 2014 §2)."""
    cached_regions: bool = False
    """Predict from regions cached by an earlier search. Measured times then exclude the search."""
    score_threshold: float = Field(0.01, ge=0, le=1)
    """Minimum score of a detection."""
    nms_iou: float = Field(0.3, ge=0, le=1)
    """IoU above which suppression removes the lower-scored box of a class (Girshick's published code)."""
    shorter_side: int = Field(600, ge=32)
    """Size in px to which VGG-16's shorter side of an image is resized (Girshick 2015 §3)."""
    longer_side: int = Field(1000, ge=32)
    """Maximum size of the longer side in px."""
    pretrained: Path | None = None
    """Weights from which VGG-16's training starts: torchvision's published ImageNet classifier, a .pth
    file."""

    @model_validator(mode="after")
    def _options_fit_the_backbone(self) -> Self:
        if self.backbone == "small":
            self.check_multiple(FINEST_STRIDE, "the pooled map")
            return self
        self.check_small_only("augmentation")
        if self.input_size is not None:
            raise ValueError("input_size: for VGG-16, set `shorter_side` and `longer_side`")
        return self


@dataclass(frozen=True, eq=False)
class RegionInput:
    """Images of one padded size, and the regions of each."""

    images: DetectorInput
    regions: list[Tensor]  # per image, [Rᵢ, 4] in px of the input


@dataclass(frozen=True, eq=False)
class RegionTrainingBatch:
    """Images, the objects in them, and their regions."""

    images: TrainingBatch
    regions: list[Tensor]  # per image, [Rᵢ, 4] in px of the input


class RegionNetwork(nn.Module):
    """A network from images and their regions to classes and boxes of the regions."""

    regions_per_image: int  # sampled for the loss
    trunk: nn.Module
    roi_heads: region_head.RegionClassifier
    window: int | None = None
    """Side in px of the regions that are the input of `features`; None if that is the image."""

    @abstractmethod
    def features(self, pixels: Tensor) -> Tensor:
        """Map images or regions [N, 3, H, W] to the features [N, C, h, w] that are classified."""

    @abstractmethod
    def forward(self, pixels: Tensor, regions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Map [N, 3, H, W] and N times [Rᵢ, 4] in px to logits [R, 1 + C] and offsets [R, 1 + C, 4]."""


class SelectiveSearchDetector(TorchAdapter[list[RegionInput], list[RegionOutputs], RegionTrainingBatch]):
    """A detector that classifies regions from selective search; subclasses define the network."""

    task = "detection"
    Options = SelectiveSearchOptions
    options: SelectiveSearchOptions
    architecture_options = ("backbone", "width", "input_size")
    training_options = frozenset({"augmentation"})
    side: ClassVar[int]  # px of the small network's input by default

    module: RegionNetwork

    def build(self, train: Dataset) -> None:
        super().build(train)
        path = self.options.pretrained
        if path is not None:
            published = load(path).tensors
            start_from(self.module.trunk, published, path)
            start_from(self.module.roi_heads.box_head, fully_connected(published), path)

    def preprocess(self, samples: Sequence[Sample]) -> list[RegionInput]:
        options, device = self.options, self.runtime.device
        originals = [images.of_sample(sample) for sample in samples]
        if self._small:
            groups = [framed_input(originals, options.input_shape((self.side, self.side)), device)]
        else:
            groups = photograph_inputs(originals, options.shorter_side, options.longer_side, device)
        search = cached_proposals if options.cached_regions else propose
        regions = [search(image, MODES[self._mode]) for image in originals]
        inputs = []
        for group in groups:
            pairs = zip(group.indices, group.transforms, strict=True)
            boxes = [self._to_input(regions[index], transform) for index, transform in pairs]
            inputs.append(RegionInput(group, boxes))
        return inputs

    def infer(self, batch: list[RegionInput]) -> list[RegionOutputs]:
        return [
            RegionOutputs(group.regions, *self.module(group.images.pixels, group.regions)) for group in batch
        ]

    def exportable(self) -> dict[str, Exportable]:
        network, side = self.module, self.module.window
        size, axes = ((side, side), (0,)) if side else ((128, 192), (0, 2, 3))
        pixels = torch.zeros(2, 3, *size, device=self.runtime.device)
        with torch.no_grad():
            features = network.features(pixels)
        regions = features if side else features[..., :POOLED_SIDE, :POOLED_SIDE].contiguous()
        return {
            "trunk": Exportable(network, "features", (pixels,), (axes,)),
            "head": Exportable(network.roi_heads, "forward", (regions,), ((0,),)),
        }

    def postprocess(self, raw: list[RegionOutputs], batch: list[RegionInput]) -> list[Prediction]:
        inputs, options = [group.images for group in batch], self.options
        return region_head.postprocess(raw, inputs, options.score_threshold, options.nms_iou)

    def training_batch(
        self, samples: Sequence[Sample], generator: np.random.Generator
    ) -> RegionTrainingBatch:
        device, options = self.runtime.device, self.options
        if self._small:
            size = options.input_shape((self.side, self.side))
            batch = framed_training_batch(samples, size, generator, device, options.augmentation)
        else:
            shorter, longer = options.shorter_side, options.longer_side
            batch = photograph_training_batch(samples, shorter, longer, generator, device)
        regions = [
            self._to_input(cached_proposals(images.of_sample(sample), MODES[self._mode]), transform)
            for sample, transform in zip(samples, batch.transforms, strict=True)
        ]
        return RegionTrainingBatch(batch, regions)

    def loss(self, batch: RegionTrainingBatch) -> dict[str, Tensor]:
        annotated = batch.images
        targets = region_head.sample_targets(
            batch.regions, annotated.boxes, annotated.labels, self.module.regions_per_image
        )
        logits, offsets = self.module(annotated.pixels, targets.regions)
        return region_head.loss(logits, offsets, targets, SMOOTH_L1_BETA)

    @property
    def _small(self) -> bool:
        return self.options.backbone == "small"

    @property
    def _mode(self) -> Mode:
        return self.options.search or ("small" if self._small else "fast")

    def _to_input(self, regions: NDArray[np.int32], transform: BoxTransform) -> Tensor:
        """Transform the likeliest regions to px of the input, and drop those that are (almost) outside it."""
        boxes = torch.from_numpy(transform.apply(regions[: self.options.proposals_per_image])).float()
        clipped: Tensor = clip_boxes_to_image(boxes, transform.size)
        return clipped[remove_small_boxes(clipped, MIN_SIDE)].to(self.runtime.device)
