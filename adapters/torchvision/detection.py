"""torchvision's detectors behind the uniform interface: peers, and oracles of the own ones.

Pictures are scaled and normalised, and boxes chosen and scaled back, by torchvision's own code.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from adapters import images
from adapters.detection import faster_rcnn, ssd, ssd_augmentation, views
from adapters.detection.finite import check_finite
from adapters.torch_adapter import TorchAdapter
from harness.adapter import AdapterOptions
from harness.checkpoint import Checkpoint
from harness.task import Detections, Image, Prediction, Sample

Found: TypeAlias = list[dict[str, Tensor]]
"""Per image `boxes` [n, 4], `scores` [n] and `labels` [n], background being 0."""


class FasterRcnnOptions(AdapterOptions):
    """Named and meant as `faster-rcnn`'s; the first shapes the weights."""

    epsilon: float = Field(1e-5, ge=0)
    score_threshold: float = Field(0.05, ge=0, le=1)
    nms_iou: float = Field(0.5, ge=0, le=1)
    shorter_side: int = Field(800, ge=32)
    longer_side: int = Field(1333, ge=32)


class SsdOptions(AdapterOptions):
    """Named and meant as `ssd`'s."""

    score_threshold: float = Field(0.01, ge=0, le=1)
    nms_iou: float = Field(0.45, ge=0, le=1)
    most: int = Field(200, ge=1)
    most_candidates: int = Field(400, ge=1)


@dataclass(frozen=True, eq=False)
class Group:
    """Images of one padded size: with torchvision's own batches, padding would depend on the batch."""

    seen: Any  # torchvision's ImageList
    members: list[int]  # places in the batch


@dataclass(frozen=True, eq=False)
class Batch:
    """Images as the network sees them."""

    groups: list[Group]
    sizes: list[tuple[int, int]]  # of the originals, (height, width)


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """What torchvision's models take for training."""

    pictures: list[Tensor]  # [3, H, W], 0–1
    targets: list[dict[str, Tensor]]


class TorchvisionDetector(TorchAdapter):
    """Subclasses say which model it is, where its forward phase ends, and how its pictures are augmented."""

    task = "detection"
    module: Any  # torchvision has no types
    learns_difficult: ClassVar[bool] = False
    """VOC's difficult objects, as the own adapter does."""

    @abstractmethod
    def answers(self, seen: Any) -> Any:
        """The network's answers for an ImageList, before any box is chosen."""

    @abstractmethod
    def chosen(self, answers: Any, seen: Any) -> Found:
        """Answers → detections in seen pixels."""

    @abstractmethod
    def augmented(
        self, image: Image, boxes: NDArray[np.float64], generator: np.random.Generator
    ) -> views.Varied:
        """A training picture."""

    def preprocess(self, samples: Sequence[Sample]) -> Batch:
        from torchvision.models.detection.image_list import ImageList

        alike: dict[tuple[int, int], list[tuple[int, Any]]] = defaultdict(list)
        for place, sample in enumerate(samples):
            one, _ = self.module.transform([_pixels(images.of(sample), self.runtime.device)])
            height, width = one.tensors.shape[-2:]
            alike[height, width].append((place, one))
        groups = [
            Group(
                ImageList(
                    torch.cat([one.tensors for _, one in members]), [one.image_sizes[0] for _, one in members]
                ),
                [place for place, _ in members],
            )
            for members in alike.values()
        ]
        originals = [images.of(sample) for sample in samples]
        return Batch(groups, [(image.shape[0], image.shape[1]) for image in originals])

    def infer(self, batch: Batch) -> list[Any]:
        return [self.answers(group.seen) for group in batch.groups]

    def postprocess(self, raw: list[Any], batch: Batch) -> list[Prediction]:
        found: dict[int, Detections] = {}
        for answers, group in zip(raw, batch.groups, strict=True):
            originals = [batch.sizes[place] for place in group.members]
            chosen = self.chosen(answers, group.seen)
            restored = self.module.transform.postprocess(chosen, group.seen.image_sizes, originals)
            for place, one in zip(group.members, restored, strict=True):
                boxes, scores, labels = (one[key].cpu().numpy() for key in ("boxes", "scores", "labels"))
                found[place] = Detections(boxes, scores, labels - 1)
        return [found[place] for place in range(len(batch.sizes))]

    def training_batch(self, samples: Sequence[Sample], generator: np.random.Generator) -> TrainingBatch:
        device = self.runtime.device
        pictures, targets = [], []
        for sample in samples:
            boxes, labels = views.learnt_objects(sample, difficult=self.learns_difficult)
            image, boxes, kept = self.augmented(images.of(sample), boxes, generator)
            pictures.append(_pixels(image, device))
            targets.append(
                {
                    "boxes": torch.from_numpy(boxes).float().to(device),
                    "labels": torch.from_numpy(labels[kept] + 1).to(device),
                }
            )
        return TrainingBatch(pictures, targets)

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = self.module(batch.pictures, batch.targets)
        return terms


class TorchvisionFasterRcnn(TorchvisionDetector):
    """torchvision's `fasterrcnn_resnet50_fpn`."""

    name = "torchvision/fasterrcnn_resnet50_fpn"
    Options = FasterRcnnOptions
    shaping = ("epsilon",)

    def make_module(self) -> nn.Module:
        from torchvision.models.detection import FasterRCNN  # 6–9 s to import
        from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
        from torchvision.ops import FrozenBatchNorm2d

        options = self.options
        # put together as torchvision does for published weights; without these its function does not freeze
        trunk = resnet_fpn_backbone(
            backbone_name="resnet50",
            weights=None,
            norm_layer=partial(FrozenBatchNorm2d, eps=options.epsilon),
            trainable_layers=5,
        )
        module: nn.Module = FasterRCNN(
            trunk,
            num_classes=1 + len(self.classes),
            min_size=options.shorter_side,
            max_size=options.longer_side,
            box_score_thresh=options.score_threshold,
            box_nms_thresh=options.nms_iou,
        )
        module.get_submodule("rpn.head").register_forward_hook(_check_proposals)
        return module

    def adopt(self, tensors: Mapping[str, Tensor]) -> Checkpoint:
        renamed, epsilon, classes = faster_rcnn.published(self.name, tensors)
        return Checkpoint(renamed, self.name, {"epsilon": epsilon}, classes)

    def answers(self, seen: Any) -> tuple[Tensor, Tensor, list[Tensor]]:
        features = self.module.backbone(seen.tensors)
        proposals, _ = self.module.rpn(seen, features)
        heads = self.module.roi_heads
        pooled = heads.box_roi_pool(features, proposals, seen.image_sizes)
        logits, offsets = heads.box_predictor(heads.box_head(pooled))
        return logits.float(), offsets.float(), proposals

    def chosen(self, answers: tuple[Tensor, Tensor, list[Tensor]], seen: Any) -> Found:
        check_finite(*answers[:2])
        parts = self.module.roi_heads.postprocess_detections(*answers, seen.image_sizes)
        return [
            dict(zip(("boxes", "scores", "labels"), one, strict=True)) for one in zip(*parts, strict=True)
        ]

    def augmented(
        self, image: Image, boxes: NDArray[np.float64], generator: np.random.Generator
    ) -> views.Varied:
        if generator.random() < views.MIRRORED:
            image, boxes = views.mirrored(image, boxes)
        return image, boxes, np.arange(len(boxes))


class TorchvisionSsd(TorchvisionDetector):
    """torchvision's `ssd300_vgg16`."""

    name = "torchvision/ssd300_vgg16"
    Options = SsdOptions
    learns_difficult = True

    def make_module(self) -> nn.Module:
        from torchvision.models.detection import ssd300_vgg16  # 6–9 s to import

        options = self.options
        module: nn.Module = ssd300_vgg16(
            weights=None,  # none is downloaded: weights come from the suite's checkpoint
            weights_backbone=None,
            num_classes=1 + len(self.classes),
            score_thresh=options.score_threshold,
            nms_thresh=options.nms_iou,
            detections_per_img=options.most,
            topk_candidates=options.most_candidates,
        )
        return module

    def adopt(self, tensors: Mapping[str, Tensor]) -> Checkpoint:
        return Checkpoint(tensors, self.name, {}, ssd.classes_of(self.name, tensors))

    def answers(self, seen: Any) -> tuple[dict[str, Tensor], list[Tensor]]:
        features = list(self.module.backbone(seen.tensors).values())
        answers = {name: values.float() for name, values in self.module.head(features).items()}
        return answers, self.module.anchor_generator(seen, features)

    def chosen(self, answers: tuple[dict[str, Tensor], list[Tensor]], seen: Any) -> Found:
        check_finite(answers[0]["cls_logits"], answers[0]["bbox_regression"])
        found: Found = self.module.postprocess_detections(*answers, seen.image_sizes)
        return found

    def augmented(
        self, image: Image, boxes: NDArray[np.float64], generator: np.random.Generator
    ) -> views.Varied:
        return ssd_augmentation.augmented(image, boxes, generator)


def _check_proposals(head: nn.Module, given: Any, answers: tuple[list[Tensor], list[Tensor]]) -> None:  # noqa: ARG001
    """The same while predicting, once for all maps, as the own adapter."""
    if not head.training:
        check_finite(*answers[0], *answers[1])


def _pixels(image: Image, device: str) -> Tensor:
    """[3, H, W], 0–1."""
    return images.to_bytes([image], device)[0].permute(2, 0, 1).float() / 255
