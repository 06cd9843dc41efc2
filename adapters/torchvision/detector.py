"""Detectors of torchvision behind the adapter interface, as peers and oracles of this project's models.

torchvision's own code resizes and normalises images, selects boxes and maps them back.
"""

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.image_list import ImageList as TorchvisionImageList
from torchvision.ops import FrozenBatchNorm2d

from adapters import images
from adapters.detection.torchvision_weights import class_count, published_classes
from adapters.detection.training_images import (
    MIRROR_PROBABILITY,
    AugmentedImage,
    mirrored,
    trainable_objects,
)
from adapters.torch_adapter import TorchAdapter
from harness.adapter import AdapterOptions
from harness.checkpoint import Checkpoint
from harness.errors import UsageError
from harness.task import Detections, Image, Prediction, Sample

COUNTER = "num_batches_tracked"  # of batch normalisation, absent where the normalisation was frozen

Size = tuple[int, int]  # (height, width) in px
Outputs = TypeVar("Outputs")
Objects: TypeAlias = dict[str, Tensor]
"""Objects in one image: `boxes` [n, 4], `labels` [n] with background 0 and, of detections, `scores` [n]."""


class ImageList(Protocol):
    """torchvision's batch of images."""

    tensors: Tensor  # [N, 3, H, W]
    image_sizes: list[Size]  # without padding


@dataclass(frozen=True, eq=False)
class InputGroup:
    """Images of one padded size; in torchvision's own batches, padding depends on the other images."""

    images: ImageList
    originals: list[Size]
    indices: list[int]  # of these images in the preprocessed batch


@dataclass(frozen=True, eq=False)
class TorchvisionTrainingBatch:
    """Inputs of torchvision's models for training."""

    images: list[Tensor]  # [3, H, W], 0–1
    targets: list[Objects]


class SelectionOptions(AdapterOptions):
    """Options of a detector of torchvision; null is torchvision's default."""

    score_threshold: float | None = Field(None, ge=0, le=1)
    """Minimum score of a detection."""
    nms_iou: float | None = Field(None, ge=0, le=1)
    """IoU above which suppression removes the lower-scored box of a class."""
    detections_per_image: int | None = Field(None, ge=1)
    """Maximum detections per image."""


class PhotographOptions(SelectionOptions):
    """Options of a detector with batch normalisation that resizes photographs."""

    epsilon: float | None = Field(None, ge=0)
    """Epsilon of the batch normalisation. For published weights that torchvision loads with 0, it is 0."""
    shorter_side: int | None = Field(None, ge=32)
    """Size in px to which the shorter side of a photograph is resized."""
    longer_side: int | None = Field(None, ge=32)
    """Maximum size of the longer side in px."""


class TorchvisionDetector(
    TorchAdapter[list[InputGroup], list[Outputs], TorchvisionTrainingBatch], Generic[Outputs]
):
    """A detector made by the function of torchvision that its name ends with."""

    task = "detection"
    Options: ClassVar[type[SelectionOptions]] = PhotographOptions
    options: SelectionOptions
    architecture_options: ClassVar[tuple[str, ...]] = ("epsilon",)
    module: Any  # torchvision has no type annotations
    prefix: ClassVar[str] = ""
    """Start of the names of parameters about the selection of boxes."""
    logits: ClassVar[str]
    """The bias of the layer of class scores, with `anchors` entries per class, background included."""
    anchors: ClassVar[int] = 1
    frozen_epsilon: ClassVar[float | None] = None
    """Epsilon of published weights that were trained with frozen batch normalisation, if not the default."""
    difficult: ClassVar[bool] = False
    """Train on VOC's difficult objects, as this project's adapter of the model does."""

    @abstractmethod
    def raw_outputs(self, batch: ImageList) -> Outputs:
        """Run the network up to the selection of boxes."""

    @abstractmethod
    def select(self, outputs: Outputs, sizes: list[Size]) -> list[Objects]:
        """Select detections in px of the input, for images of the given sizes without padding."""

    def make_module(self) -> nn.Module:
        module = self.build_module(1 + len(self.classes))
        if isinstance(self.options, PhotographOptions) and self.options.epsilon is not None:
            for norm in module.modules():
                if isinstance(norm, nn.BatchNorm2d | FrozenBatchNorm2d):
                    norm.eps = self.options.epsilon
        return module

    def build_module(self, classes: int) -> nn.Module:
        """Build torchvision's module with random weights for a number of classes, background included."""
        # No download: weights come from the suite's checkpoint.
        builder = getattr(detection, self.name.removeprefix("torchvision/"))
        module: nn.Module = builder(
            weights=None, weights_backbone=None, num_classes=classes, **self.settings()
        )
        return module

    def settings(self) -> dict[str, float]:
        """Return the options that are set, under torchvision's names."""
        options = self.options
        values: dict[str, float | None] = {
            f"{self.prefix}score_thresh": options.score_threshold,
            f"{self.prefix}nms_thresh": options.nms_iou,
            f"{self.prefix}detections_per_img": options.detections_per_image,
        }
        if isinstance(options, PhotographOptions):
            values |= {"min_size": options.shorter_side, "max_size": options.longer_side}
        return {name: value for name, value in values.items() if value is not None}

    def adopt(self, tensors: Mapping[str, Tensor]) -> Checkpoint:
        classes = class_count(self.name, tensors, self.logits) // self.anchors
        module = self.build_module(classes)
        try:  # torchvision's modules rename tensors of its earlier versions as they load them
            missing, unexpected = module.load_state_dict(dict(tensors), strict=False)
        except RuntimeError as error:  # another shape
            problem = " ".join(str(error).split())[:200]
            raise UsageError(f"adapter '{self.name}': weights of another model: {problem}") from error
        wrong = [*unexpected, *(name for name in missing if not name.endswith(COUNTER))]
        if wrong:
            raise UsageError(f"adapter '{self.name}': weights of another model: tensor '{wrong[0]}' differs")
        was_frozen = not any(name.endswith(COUNTER) for name in tensors)
        options = {"epsilon": self.frozen_epsilon} if was_frozen and self.frozen_epsilon is not None else {}
        return Checkpoint(module.state_dict(), self.name, options, published_classes(classes - 1))

    def augment(
        self, image: Image, boxes: NDArray[np.float64], generator: np.random.Generator
    ) -> AugmentedImage:
        """Augment a training image and its boxes [m, 4]; by default, mirror half of the images."""
        if generator.random() < MIRROR_PROBABILITY:
            image, boxes = mirrored(image, boxes)
        return AugmentedImage(image, boxes, np.arange(len(boxes)))

    def preprocess(self, samples: Sequence[Sample]) -> list[InputGroup]:
        originals = [images.of_sample(sample) for sample in samples]
        by_size: dict[Size, list[tuple[int, ImageList]]] = defaultdict(list)
        for index, image in enumerate(originals):
            transformed: ImageList
            transformed, _ = self.module.transform([_to_float_tensor(image, self.runtime.device)])
            height, width = transformed.tensors.shape[-2:]
            by_size[height, width].append((index, transformed))
        return [
            InputGroup(
                TorchvisionImageList(
                    torch.cat([member.tensors for _, member in members]),
                    [member.image_sizes[0] for _, member in members],
                ),
                [(originals[index].shape[0], originals[index].shape[1]) for index, _ in members],
                [index for index, _ in members],
            )
            for members in by_size.values()
        ]

    def infer(self, batch: list[InputGroup]) -> list[Outputs]:
        return [self.raw_outputs(group.images) for group in batch]

    def postprocess(self, raw: list[Outputs], batch: list[InputGroup]) -> list[Prediction]:
        detections: dict[int, Detections] = {}
        for outputs, group in zip(raw, batch, strict=True):
            sizes = group.images.image_sizes
            selected = self.select(outputs, sizes)
            restored: list[Objects] = self.module.transform.postprocess(selected, sizes, group.originals)
            for index, image in zip(group.indices, restored, strict=True):
                names = ("boxes", "scores", "labels")
                boxes, scores, labels = (image[name].cpu().numpy() for name in names)
                detections[index] = Detections(boxes, scores, labels - 1)
        return [detections[index] for index in range(len(detections))]

    def training_batch(
        self, samples: Sequence[Sample], generator: np.random.Generator
    ) -> TorchvisionTrainingBatch:
        device = self.runtime.device
        inputs: list[Tensor] = []
        targets: list[Objects] = []
        for sample in samples:
            boxes, labels = trainable_objects(sample, difficult=self.difficult)
            image, boxes, indices = self.augment(images.of_sample(sample), boxes, generator)
            inputs.append(_to_float_tensor(image, device))
            targets.append(
                {
                    "boxes": torch.from_numpy(boxes).float().to(device),
                    "labels": torch.from_numpy(labels[indices] + 1).to(device),
                }
            )
        return TorchvisionTrainingBatch(inputs, targets)

    def loss(self, batch: TorchvisionTrainingBatch) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = self.module(batch.images, batch.targets)
        return terms


def _to_float_tensor(image: Image, device: str) -> Tensor:
    """Convert an image to [3, H, W], 0–1."""
    return images.to_uint8_tensor([image], device)[0].permute(2, 0, 1).float() / 255
