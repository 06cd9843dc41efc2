"""Detectors of torchvision behind the adapter interface, as peers and oracles of this project's models.

torchvision's own code resizes and normalises images, selects boxes and maps them back.
"""

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapters import images
from adapters.detection.training_images import AugmentedImage, trainable_objects
from adapters.torch_adapter import TorchAdapter
from harness.task import Detections, Image, Prediction, Sample

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


class TorchvisionDetector(
    TorchAdapter[list[InputGroup], list[Outputs], TorchvisionTrainingBatch], Generic[Outputs]
):
    """A detector of torchvision; subclasses define the model, its forward phase and its augmentation."""

    task = "detection"
    module: Any  # torchvision has no type annotations
    difficult: ClassVar[bool] = False
    """Train on VOC's difficult objects, as this project's adapter of the model does."""

    @abstractmethod
    def raw_outputs(self, batch: ImageList) -> Outputs:
        """Run the network up to the selection of boxes."""

    @abstractmethod
    def select(self, outputs: Outputs, sizes: list[Size]) -> list[Objects]:
        """Select detections in px of the input, for images of the given sizes without padding."""

    @abstractmethod
    def augment(
        self, image: Image, boxes: NDArray[np.float64], generator: np.random.Generator
    ) -> AugmentedImage:
        """Augment a training image and its boxes [m, 4]."""

    def preprocess(self, samples: Sequence[Sample]) -> list[InputGroup]:
        from torchvision.models.detection.image_list import ImageList as TorchvisionImageList

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
