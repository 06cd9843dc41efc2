"""Faster R-CNN: one network proposes regions and classifies them from the same features (Ren et al. 2015).

The parameters of the pyramid are named as in torchvision's `fasterrcnn_resnet50_fpn`, whose published file
therefore loads directly.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torchvision.ops import MultiScaleRoIAlign, roi_align

from adapters import images
from adapters.detection import feature_pyramid, region_head, region_trunk
from adapters.detection.detector_input import DetectorInput, Size, framed_input, photograph_inputs
from adapters.detection.finite import check_finite
from adapters.detection.region_head import POOLED_SIDE, SAMPLING_RATIO, RegionOutputs
from adapters.detection.rpn import SMOOTH_L1_BETA, RegionProposalNetwork, RpnSettings
from adapters.detection.torchvision_weights import faster_rcnn_checkpoint
from adapters.detection.training_batch import TrainingBatch, framed_training_batch, photograph_training_batch
from adapters.detection.training_images import Augmentation
from adapters.torch_adapter import TorchAdapter
from adapters.vision.input_size import InputSizeOptions
from adapters.vision.pretrained import PretrainedOptions, start_from
from adapters.vision.resnet import CHANNELS, FrozenBatchNorm, ResNet50
from harness.adapter import Exportable
from harness.checkpoint import Checkpoint, load
from harness.datasets.dataset import Dataset
from harness.task import Prediction, Sample

# Layers of a pretrained ResNet that are not trained: FREEZE_AT = 2 of Girshick et al.'s Detectron, and
# torchvision's default.
FROZEN = ("conv1", "layer1")
LEVELS = ("2", "3", "4", "5")  # of the pyramid from which regions are pooled; level l has stride 2ˡ
# Height / width of the small network's anchors by default: digits are taller than wide.
DIGITS = (1.0, 1.6, 2.5)


class FasterRcnnOptions(PretrainedOptions, InputSizeOptions):
    """Options of `faster-rcnn`."""

    backbone: Literal["small", "resnet50-fpn"] = "small"
    """The small network, by default for 192 px, or ResNet-50 with a feature pyramid (Lin et al. 2017)."""
    aspect_ratios: tuple[Annotated[float, Field(ge=0.1, le=10)], ...] | None = Field(None, min_length=1)
    """Width / height of the small network's anchors, by default 1, 0.63 and 0.4 for upright digits."""
    box_scale: float | None = Field(None, ge=0.1, le=20)
    """Factor of the sizes of the small network's anchors, which are 16 to 120 px of the input."""
    augmentation: Augmentation | None = None
    """Variation of training images, by default `digits`. The pyramid always has `flip`."""
    epsilon: float = Field(1e-5, ge=0)
    """Epsilon of the pyramid's frozen batch normalisation; 0 for torchvision's COCO_V1 weights."""
    score_threshold: float = Field(0.05, ge=0, le=1)
    """Minimum score of a detection (torchvision)."""
    nms_iou: float = Field(0.5, ge=0, le=1)
    """IoU above which suppression removes the lower-scored box of a class (torchvision)."""
    shorter_side: int = Field(800, ge=32)
    """Size in px to which the pyramid's shorter side of a photograph is resized (Lin et al. 2017 §5.1)."""
    longer_side: int = Field(1333, ge=32)
    """Maximum size of the longer side in px."""
    pretrained: Path | None = None
    """Weights from which the ResNet's training starts: torchvision's published ImageNet classifier, a .pth
    file."""

    @model_validator(mode="after")
    def _options_fit_the_backbone(self) -> Self:
        if self.backbone == "small":
            self.check_multiple(region_trunk.COARSE_STRIDE, "the map of proposals")
            return self
        self.check_small_only("aspect_ratios", "box_scale", "augmentation")
        if self.input_size is not None:
            raise ValueError("input_size: for the pyramid, set `shorter_side` and `longer_side`")
        return self

    @property
    def size(self) -> Size:
        """Return the (height, width) of the small network's input in px."""
        return self.input_shape((region_trunk.INPUT_SIDE, region_trunk.INPUT_SIDE))


Features = tuple[list[Tensor], list[Tensor]]
"""Maps [N, C, Hₖ, Wₖ], finest first: the input of the region proposal network, and those that are pooled."""


class Network(nn.Module):
    """A network from images to feature maps, proposals, and the classes and boxes of the proposals."""

    rpn: RegionProposalNetwork
    roi_heads: region_head.RegionClassifier
    regions_per_image: int  # sampled for the loss of the head

    def forward(self, pixels: Tensor, sizes: Sequence[Size]) -> RegionOutputs:
        """Compute raw outputs for images [N, 3, H, W] of the given sizes without padding."""
        proposal_maps, pooling_maps = self.features(pixels)
        rpn_outputs = self.rpn(proposal_maps, pixels.shape[2], pixels.shape[3])
        check_finite(rpn_outputs.logits, rpn_outputs.offsets)
        proposals = self.rpn.propose(rpn_outputs, sizes)
        return RegionOutputs(proposals, *self._classify(pooling_maps, proposals, pixels))

    @abstractmethod
    def features(self, pixels: Tensor) -> Features:
        """Compute the maps of images [N, 3, H, W]."""

    @abstractmethod
    def pool(self, maps: Sequence[Tensor], regions: list[Tensor], size: Size) -> Tensor:
        """Pool the regions [Rᵢ, 4] of images of a size to [R, C, POOLED_SIDE, POOLED_SIDE]."""

    def losses(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """Compute the losses of the proposals and of regions sampled from them."""
        proposal_maps, pooling_maps = self.features(batch.pixels)
        rpn_outputs = self.rpn(proposal_maps, batch.pixels.shape[2], batch.pixels.shape[3])
        with torch.no_grad():
            proposals = self.rpn.propose(rpn_outputs, batch.sizes)
            targets = region_head.sample_targets(proposals, batch.boxes, batch.labels, self.regions_per_image)
        logits, offsets = self._classify(pooling_maps, targets.regions, batch.pixels)
        rpn_loss = self.rpn.loss(rpn_outputs, batch.boxes)
        return rpn_loss | region_head.loss(logits, offsets, targets, SMOOTH_L1_BETA)

    def _classify(
        self, maps: Sequence[Tensor], regions: list[Tensor], pixels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return logits [R, 1 + C] and offsets [R, 1 + C, 4] of the regions of all images."""
        pooled = self.pool(maps, regions, (pixels.shape[2], pixels.shape[3]))
        logits, offsets = self.roi_heads(pooled)
        return logits, offsets


class SmallNetwork(Network):
    """The small trunk: regions are proposed from its map of stride 8 and pooled from its map of stride 4."""

    def __init__(self, classes: int, width: int, aspect_ratios: tuple[float, ...], box_scale: float) -> None:
        """Create the network; aspect ratios are height / width of anchors, and `box_scale` scales them."""
        super().__init__()
        self.trunk = region_trunk.SmallTrunk(width)
        channels = self.trunk.channels
        settings = RpnSettings(
            # px of the input, in which digits are 18 to 126 px high
            sizes=(tuple(size * box_scale for size in (16, 24, 36, 54, 80, 120)),),
            aspect_ratios=aspect_ratios,
            # the prototype's, as are the following
            pre_nms_top_n=300,
            post_nms_top_n=100,
            positive_iou=0.6,
            anchors_per_image=128,
        )
        self.rpn = RegionProposalNetwork(channels, settings)
        self.roi_heads = region_head.RegionClassifier(channels, POOLED_SIDE, 12 * width, classes)
        self.regions_per_image = 32

    def features(self, pixels: Tensor) -> Features:
        fine, coarse = self.trunk(pixels)
        return [coarse], [fine]

    def pool(self, maps: Sequence[Tensor], regions: list[Tensor], size: Size) -> Tensor:  # noqa: ARG002
        scale = 1 / region_trunk.FINE_STRIDE
        pooled: Tensor = roi_align(maps[0], regions, POOLED_SIDE, scale, SAMPLING_RATIO)
        return pooled


class PyramidTrunk(nn.ModuleDict):
    """A body and its feature pyramid."""

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Map [N, 3, H, W] to the maps of the pyramid, finest first."""
        maps: list[Tensor] = self["fpn"](self["body"](pixels))
        return maps


class PyramidNetwork(Network):
    """ResNet-50 and a feature pyramid of strides 4 to 64 (Lin et al. 2017)."""

    def __init__(self, classes: int, epsilon: float) -> None:
        super().__init__()
        body = ResNet50(norm=partial(FrozenBatchNorm, eps=epsilon))
        self.backbone = PyramidTrunk({"body": body, "fpn": feature_pyramid.FeaturePyramid(CHANNELS)})
        settings = RpnSettings(
            sizes=((32,), (64,), (128,), (256,), (512,)),  # Lin et al. 2017 §4.1
            aspect_ratios=(0.5, 1.0, 2.0),  # §4.1
            pre_nms_top_n=1000,  # §5.2, as are the next two
            post_nms_top_n=1000,
            training_factor=2,
        )
        self.rpn = RegionProposalNetwork(feature_pyramid.WIDTH, settings)
        units = 1024  # §4.2
        self.roi_heads = region_head.RegionClassifier(feature_pyramid.WIDTH, POOLED_SIDE, units, classes)
        self.regions_per_image = 512  # §5.2
        # the level of a region depends on its size, equation 1
        self.pooler = MultiScaleRoIAlign(LEVELS, POOLED_SIDE, SAMPLING_RATIO)

    def features(self, pixels: Tensor) -> Features:
        maps: list[Tensor] = self.backbone(pixels)
        return maps, maps[:-1]

    def pool(self, maps: Sequence[Tensor], regions: list[Tensor], size: Size) -> Tensor:
        pooled: Tensor = self.pooler(dict(zip(LEVELS, maps, strict=True)), regions, [size] * len(regions))
        return pooled


class FasterRcnn(TorchAdapter[list[DetectorInput], list[RegionOutputs], TrainingBatch]):
    """Faster R-CNN (Ren et al. 2015): a small network, or ResNet-50 with a feature pyramid."""

    name = "faster-rcnn"
    task = "detection"
    Options = FasterRcnnOptions
    options: FasterRcnnOptions
    architecture_options = ("backbone", "width", "epsilon", "input_size", "aspect_ratios", "box_scale")
    training_options = frozenset({"augmentation"})

    module: Network

    def make_module(self) -> nn.Module:
        options = self.options
        if options.backbone == "small":
            aspects: tuple[float, ...] = DIGITS
            if options.aspect_ratios is not None:
                aspects = tuple(1 / ratio for ratio in options.aspect_ratios)
            return SmallNetwork(len(self.classes), options.width, aspects, options.box_scale or 1.0)
        return PyramidNetwork(len(self.classes), options.epsilon)

    def build(self, train: Dataset) -> None:
        super().build(train)
        path = self.options.pretrained
        if path is not None:
            body = self.module.get_submodule("backbone.body")
            start_from(body, load(path).tensors, path)
            for layer in FROZEN:
                body.get_submodule(layer).requires_grad_(False)

    def preprocess(self, samples: Sequence[Sample]) -> list[DetectorInput]:
        options, device = self.options, self.runtime.device
        originals = [images.of_sample(sample) for sample in samples]
        if options.backbone == "small":
            return [framed_input(originals, options.size, device)]
        return photograph_inputs(originals, options.shorter_side, options.longer_side, device)

    def infer(self, batch: list[DetectorInput]) -> list[RegionOutputs]:
        return [self.module(group.pixels, group.sizes) for group in batch]

    def exportable(self) -> dict[str, Exportable]:
        network, small = self.module, self.options.backbone == "small"
        trunk = network.get_submodule("trunk" if small else "backbone")
        size = self.options.size if small else (128, 192)
        axes = (0,) if small else (0, 2, 3)  # photographs differ in size
        pixels = torch.zeros(2, 3, *size, device=self.runtime.device)
        with torch.no_grad():
            finest = trunk(pixels)[0]
        pooled = finest[..., :POOLED_SIDE, :POOLED_SIDE].contiguous()
        return {
            "trunk": Exportable(trunk, "forward", (pixels,), (axes,)),
            "proposals": Exportable(network.rpn.head, "forward", (finest,), ((0, 2, 3),)),
            "head": Exportable(network.roi_heads, "forward", (pooled,), ((0,),)),
        }

    def postprocess(self, raw: list[RegionOutputs], batch: list[DetectorInput]) -> list[Prediction]:
        return region_head.postprocess(raw, batch, self.options.score_threshold, self.options.nms_iou)

    def training_batch(self, samples: Sequence[Sample], generator: np.random.Generator) -> TrainingBatch:
        device, options = self.runtime.device, self.options
        if options.backbone == "small":
            return framed_training_batch(samples, options.size, generator, device, options.augmentation)
        shorter, longer = options.shorter_side, options.longer_side
        return photograph_training_batch(samples, shorter, longer, generator, device)

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        return self.module.losses(batch)

    def adopt(self, tensors: Mapping[str, Tensor]) -> Checkpoint:
        return faster_rcnn_checkpoint(self.name, tensors, {"backbone": "resnet50-fpn", "width": 16})
