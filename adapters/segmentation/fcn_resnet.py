"""FCN on a dilated ResNet-50, without skips because the last feature map has stride 8.

This is the network that torchvision publishes as `fcn_resnet50`: Long et al. 2015's score layer on the
features of He et al. 2016, with dilation instead of the last two strides (Yu et al. 2017, "Dilated residual
networks") and, in training only, an auxiliary classifier on the stage before (Zhao et al. 2017, "Pyramid
scene parsing network", §3.3). Parameters are named as in the published file, which loads directly.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from adapters import images
from adapters.segmentation.augmentation import Augmentation, TrainingBatch
from adapters.segmentation.segmenter import Segmenter, SegmenterOptions, pixel_loss
from adapters.vision.pretrained import start_from
from adapters.vision.resnet import CHANNELS, ResNet50
from harness.checkpoint import Checkpoint, load
from harness.datasets.dataset import Dataset
from harness.datasets.voc.annotations import CLASSES
from harness.errors import UsageError

AUXILIARY_WEIGHT = 0.5  # of the auxiliary loss, torchvision's reference training (Zhao et al. 2017: 0.4)


class FcnResNetOptions(SegmenterOptions):
    """Options of `fcn-resnet50`."""

    resize: int | None = Field(520, ge=32)
    """Shorter side in px to which an image, or each window, is resized; null keeps its size. The published
    weights were evaluated at 520."""
    pretrained: Path | None = None
    """Initial weights of the backbone: torchvision's ImageNet classifier `resnet50`, a .pth file."""

    @model_validator(mode="after")
    def _resize_is_the_input_size(self) -> Self:
        if self.input_size is not None:
            raise ValueError("input_size: for this network, set `resize`")
        return self


class Head(nn.Sequential):
    """A 3×3 convolution to a quarter of the channels, and a score layer: features → class scores."""

    def __init__(self, channels: int, classes: int) -> None:
        hidden = channels // 4
        super().__init__(
            nn.Conv2d(channels, hidden, 3, padding=1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(0.1),  # torchvision's `FCNHead`
            nn.Conv2d(hidden, classes, 1),
        )


class Network(nn.Module):
    """Backbone and heads: pixels [N, 3, H, W] → class scores [N, C, H, W]."""

    def __init__(self, classes: int, auxiliary: bool) -> None:
        super().__init__()
        self.backbone = ResNet50(dilated=(False, True, True))
        self.classifier = Head(CHANNELS[-1], classes)
        self.aux_classifier = Head(CHANNELS[-2], classes) if auxiliary else None

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return the scores as `out` and, in training, those of the auxiliary classifier as `aux`."""
        *_, third, fourth = self.backbone(pixels)
        scores = {"out": self.classifier(fourth)}
        if self.aux_classifier is not None and self.training:
            scores["aux"] = self.aux_classifier(third)
        size = pixels.shape[-2:]
        return {
            name: nn.functional.interpolate(coarse, size, mode="bilinear") for name, coarse in scores.items()
        }


class FcnResNet50(Segmenter):
    """FCN on a dilated ResNet-50, with torchvision's preprocessing."""

    name = "fcn-resnet50"
    Options = FcnResNetOptions
    options: FcnResNetOptions
    size_multiple = 1
    training_options = Segmenter.training_options | {"pretrained"}
    score_bias: ClassVar[str] = "classifier.4.bias"  # name of a tensor with one entry per class
    auxiliary = True  # add an auxiliary classifier, which some published weights lack

    def make_module(self) -> nn.Module:
        return Network(len(self.classes), self.auxiliary)

    def build(self, train: Dataset) -> None:
        super().build(train)
        path = self.options.pretrained
        if path is not None:
            start_from(self.module.get_submodule("backbone"), load(path).tensors, path)

    def adopt(self, tensors: Mapping[str, Tensor]) -> Checkpoint:
        if self.score_bias not in tensors:
            raise UsageError(
                f"adapter '{self.name}': the file lacks '{self.score_bias}' of torchvision's weights"
            )
        count = len(tensors[self.score_bias])
        classes: tuple[str, ...] = ("background", *CLASSES)  # in the order of the published 21
        if count != len(classes):
            classes = ("",) * count  # their names are unknown
        self.auxiliary = any(name.startswith("aux_classifier.") for name in tensors)
        return Checkpoint(tensors, self.name, options={}, classes=classes)

    def to_input(self, pixels: Tensor) -> Tensor:
        return images.standardised(pixels)

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        side = self.options.resize
        if side is None:
            return height, width
        if height <= width:  # the longer side is rounded down, as in torchvision
            return side, side * width // height
        return side * height // width, side

    def scores(self, pixels: Tensor) -> Tensor:
        scores: Tensor = self.module(pixels)["out"]
        return scores

    def default_augmentation(self) -> Augmentation:
        return "crop"

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        weights = {"out": 1.0, "aux": AUXILIARY_WEIGHT}
        return {
            name: weights[name] * pixel_loss(scores, batch.masks, self.class_weights())
            for name, scores in self.module(batch.pixels).items()
        }

    def default_class_weights(self) -> list[float]:
        return [1.0] * len(self.classes)  # torchvision's reference training has no class weights
