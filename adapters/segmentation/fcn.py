"""Fully convolutional networks: coarse class scores, upsampled and added to finer ones.

Long, Shelhamer & Darrell 2015, "Fully Convolutional Networks for Semantic Segmentation". Score layers, skips
and upsampling that starts as bilinear interpolation follow the paper (§3.3, §4.2). One thing differs: the
last upsampling, which the paper keeps bilinear, is learnt like the others. The backbone is the paper's VGG-16
for photographs, or a small network.
"""

from pathlib import Path
from typing import ClassVar, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from adapters import images
from adapters.backbone import Backbone, ConvNorm
from adapters.segmentation.augmentation import Augmentation
from adapters.segmentation.segmenter import Segmenter, SegmenterOptions
from adapters.vision.pretrained import PretrainedOptions, start_from
from adapters.vision.vgg import FULLY_CONNECTED, ConvolutionalClassifier, Vgg16, convolutional
from harness.checkpoint import load
from harness.datasets.dataset import Dataset

STAGES = 5  # of the backbone, down to stride 32
Upsampling = Literal["learnt", "bilinear"]


class FcnOptions(SegmenterOptions, PretrainedOptions):
    """Options of the FCNs."""

    backbone: Literal["small", "vgg16"] = "small"
    """The small network, or the paper's VGG-16."""
    upsampling: Upsampling = "learnt"
    """Learn upsampling kernels that start as bilinear interpolation, or keep them bilinear."""
    pretrained: Path | None = None
    """Initial weights of VGG-16: torchvision's ImageNet classifier, a .pth file."""

    @model_validator(mode="after")
    def _options_fit_the_backbone(self) -> Self:
        small, default = self.backbone == "small", type(self).model_fields["width"].default
        if not small and self.width != default:
            raise ValueError("width: it is an option of the small backbone; VGG-16 has fixed widths")
        return self


class Upsample(nn.ConvTranspose2d):
    """Separate upsampling of each channel, which starts as bilinear interpolation (§3.3).

    The kernel of factor f is 2f wide: 1 − |i + ½ − f| / f for i = 0…2f−1 along both axes. With the paper's
    dense kernels, one per pair of channels, the network with the largest factor would be the slowest.
    """

    def __init__(self, channels: int, factor: int, learnt: bool) -> None:
        super().__init__(
            channels, channels, 2 * factor, factor, padding=factor // 2, groups=channels, bias=False
        )
        ramp = 1 - (torch.arange(2 * factor) + 0.5 - factor).abs() / factor
        with torch.no_grad():
            self.weight.copy_(ramp[:, None] * ramp)
        self.weight.requires_grad_(learnt)


class Network(nn.Module):
    """An FCN: pixels [N, 3, H, W] → class scores [N, C, H, W]; H and W are multiples of 32.

    Scores at stride 32 are upsampled to the next finer map, the scores of that map are added, and so on down
    to stride `finest`. A last upsampling leads to the pixels.
    """

    def __init__(
        self,
        backbone: Backbone | Vgg16,
        context: nn.Module,
        features: int,
        classes: int,
        finest: int,
        learnt: bool,
    ) -> None:
        """Create the network.

        Args:
            backbone: maps pixels to feature maps of strides 2, 4, 8, 16 and 32.
            context: maps the last feature map to `features` channels; for VGG-16 the classifier's hidden
                layers, made convolutional.
            finest: stride of the finest feature map that is scored.
            learnt: whether upsampling kernels are learnt.
        """
        super().__init__()
        self.backbone = backbone
        self.skips = [stage for stage in range(STAGES - 2, -1, -1) if 2 ** (stage + 1) >= finest]
        channels = backbone.channels
        self.context = context
        self.score = nn.Conv2d(features, classes, 1)
        self.finer = nn.ModuleList([nn.Conv2d(channels[stage], classes, 1) for stage in self.skips])
        self.upsample = nn.ModuleList([Upsample(classes, 2, learnt) for _ in self.skips])
        self.last = Upsample(classes, finest, learnt)
        for skip in self.finer:  # learning starts from the scores of the coarse network, §4.2
            assert isinstance(skip, nn.Conv2d) and skip.bias is not None
            nn.init.zeros_(skip.weight)
            nn.init.zeros_(skip.bias)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return class scores [N, C, H, W]."""
        maps = self.backbone(pixels)
        scores = self.score(self.context(maps[-1]))
        for stage, finer, upsample in zip(self.skips, self.finer, self.upsample, strict=True):
            scores = upsample(scores) + finer(maps[stage])
        upsampled: Tensor = self.last(scores)
        return upsampled


class Fcn(Segmenter):
    """An FCN; subclasses set the finest feature map that is scored."""

    Options = FcnOptions
    options: FcnOptions
    architecture_options = ("backbone", "width", "upsampling", *Segmenter.architecture_options)
    training_options = Segmenter.training_options | {"pretrained"}
    size_multiple = 2**STAGES
    finest: ClassVar[int]

    def make_module(self) -> nn.Module:
        classes, learnt = len(self.classes), self.options.upsampling == "learnt"
        if self.options.backbone == "vgg16":
            return Network(Vgg16(), ConvolutionalClassifier(), FULLY_CONNECTED, classes, self.finest, learnt)
        backbone = Backbone(self.options.width, STAGES)
        deepest = backbone.channels[-1]
        return Network(backbone, ConvNorm(deepest, deepest), deepest, classes, self.finest, learnt)

    def build(self, train: Dataset) -> None:
        super().build(train)
        path = self.options.pretrained
        if path is not None:
            published = load(path).tensors
            start_from(self.module.get_submodule("backbone"), published, path)
            start_from(self.module.get_submodule("context"), convolutional(published), path)

    def to_input(self, pixels: Tensor) -> Tensor:
        return images.standardised(pixels) if self._reads_photographs else super().to_input(pixels)

    def default_augmentation(self) -> Augmentation:
        return "crop" if self._reads_photographs else super().default_augmentation()

    def default_class_weights(self) -> list[float]:
        if self._reads_photographs:  # no class weights, Long et al. 2015 §4.3
            return [1.0] * len(self.classes)
        return super().default_class_weights()

    @property
    def _reads_photographs(self) -> bool:
        return self.options.backbone == "vgg16"


class Fcn32s(Fcn):
    """FCN without skips: one upsampling from stride 32."""

    name = "fcn-32s"
    finest = 32


class Fcn16s(Fcn):
    """FCN with a skip from stride 16."""

    name = "fcn-16s"
    finest = 16


class Fcn8s(Fcn):
    """FCN with skips from strides 16 and 8."""

    name = "fcn-8s"
    finest = 8
