"""What a region shows and where exactly it is: the head that R-CNN, Fast and Faster R-CNN share.

Class scores with a background class, and box offsets for each class (Girshick 2015, "Fast R-CNN", §2.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adapters.detection import box_regression as coder
from adapters.detection.boxes import clip, large_enough
from adapters.detection.finite import check_finite
from adapters.detection.matching import match, sample
from adapters.detection.nms import suppress_per_class
from adapters.detection.views import Views
from harness.task import Detections, Prediction

GRID = 7  # cells a side that a region is pooled to; Girshick 2015 §2.1 for VGG-16, Lin et al. 2017 §4.2
SMALLEST = 1e-2  # px, of a detection's sides; as in torchvision


@dataclass(frozen=True)
class Sampling:
    """Which regions of an image are learnt from; Girshick 2015 §2.3 where not said."""

    count: int  # an image
    share: float = 0.25  # at most so many of them objects
    # IoU with an object from which a region is one; below, it is background: [0, .5), not §2.3's [.1, .5)
    positive: float = 0.5


@dataclass(frozen=True, eq=False)
class Lesson:
    """The regions of a batch that are learnt from."""

    regions: list[Tensor]  # per image, [Rᵢ, 4]
    labels: Tensor  # [R], 0 background, class + 1 else
    boxes: Tensor  # [R, 4], the object of each; without meaning for background


@dataclass(frozen=True, eq=False)
class Answers:
    """What a network says of the regions of a group of images."""

    regions: list[Tensor]  # per image, [Rᵢ, 4] in seen pixels
    logits: Tensor  # [R, 1 + C]
    offsets: Tensor  # [R, 1 + C, 4]


@dataclass(frozen=True)
class Reporting:
    """Which answers become detections."""

    score_threshold: float
    nms_iou: float
    most: int = 100
    """An image; what COCO's AP looks at."""


class RegionFeatures(nn.Sequential):
    """Pooled regions [R, …] of `inputs` numbers each → [R, units]."""

    def __init__(self, inputs: int, units: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.add_module("flatten", nn.Flatten())
        self.add_module("fc6", nn.Linear(inputs, units))
        self.add_module("relu6", nn.ReLU(inplace=True))
        self.add_module("drop6", nn.Dropout(dropout))
        self.add_module("fc7", nn.Linear(units, units))
        self.add_module("relu7", nn.ReLU(inplace=True))
        self.add_module("drop7", nn.Dropout(dropout))


class Predictor(nn.Module):
    """Features [R, F] → class logits [R, 1 + C], background first, and offsets [R, 1 + C, 4]."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(features, 1 + classes)
        self.bbox_pred = nn.Linear(features, 4 * (1 + classes))
        nn.init.normal_(self.cls_score.weight, std=0.01)  # Girshick 2015 §2.3, as the next
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.cls_score(features), self.bbox_pred(features).unflatten(1, (-1, 4))


class RegionClassifier(nn.Module):
    """Features of regions pooled to cells × cells, then classes and offsets."""

    def __init__(self, channels: int, cells: int, units: int, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.box_head = RegionFeatures(channels * cells * cells, units, dropout)
        self.box_predictor = Predictor(units, classes)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = self.box_predictor(self.box_head(pooled))
        return found


def lesson(
    proposals: Sequence[Tensor], objects: Sequence[Tensor], labels: Sequence[Tensor], sampling: Sampling
) -> Lesson:
    """Sample regions of each image; its objects themselves are among those to be drawn from."""
    regions, wanted, boxes = [], [], []
    for own, truth, classes in zip(proposals, objects, labels, strict=True):
        candidates = torch.cat([own, truth.to(own)])
        matched = match(candidates, truth.to(own), sampling.positive, sampling.positive, best_too=False)
        places = sample(matched, sampling.count, sampling.share)
        object_of = matched[places]
        regions.append(candidates[places])
        found = object_of >= 0
        wanted.append(torch.zeros_like(object_of).masked_scatter(found, classes[object_of[found]] + 1))
        boxes.append(candidates[places].masked_scatter(found[:, None], truth.to(own)[object_of[found]]))
    return Lesson(regions, torch.cat(wanted), torch.cat(boxes))


def loss(logits: Tensor, offsets: Tensor, taught: Lesson, beta: float) -> dict[str, Tensor]:
    """Multi-task loss (equations 1–3): cross-entropy, and smooth L1 of the true class's offsets.

    Args:
        beta: where smooth L1 turns linear.
    """
    regions = torch.cat(taught.regions)
    positive = (taught.labels > 0).nonzero()[:, 0]
    aim = coder.encode(taught.boxes[positive], regions[positive], coder.SCALED)
    own = offsets.float()[positive, taught.labels[positive]]
    error = nn.functional.smooth_l1_loss(own, aim, reduction="sum", beta=beta)
    return {
        "class": nn.functional.cross_entropy(logits.float(), taught.labels),
        "box": error / max(1, len(regions)),
    }


def owners(regions: Sequence[Tensor]) -> Tensor:
    """The image that each of all images' regions is in: [R]."""
    counts = torch.tensor([len(own) for own in regions])
    return torch.arange(len(regions)).repeat_interleave(counts).to(regions[0].device)


def report(answers: Sequence[Answers], batch: Views, reporting: Reporting) -> list[Prediction]:
    """The detections of a batch's images, from the answers to its groups."""
    found: dict[int, Detections] = {}
    for said, group in zip(answers, batch.groups, strict=True):
        counts = [len(own) for own in said.regions]
        parts = zip(said.logits.split(counts), said.offsets.split(counts), strict=True)
        for place, inside, regions, (logits, offsets) in zip(
            group.members, group.inside, said.regions, parts, strict=True
        ):
            boxes, scores, labels = detections(logits, offsets, regions, inside, reporting)
            restored = batch.restored(place, boxes)
            found[place] = Detections(restored.cpu().numpy(), scores.cpu().numpy(), labels.cpu().numpy())
    return [found[place] for place in range(len(batch.sizes))]


def detections(
    logits: Tensor, offsets: Tensor, regions: Tensor, size: tuple[int, int], reporting: Reporting
) -> tuple[Tensor, Tensor, Tensor]:
    """One image's regions [R, 4] and answers → boxes [n, 4] within (height, width), scores, labels [n]."""
    check_finite(logits, offsets)
    scores = logits.float().softmax(dim=-1)[:, 1:]
    boxes = coder.decode(offsets.float(), regions[:, None], coder.SCALED)[:, 1:]
    boxes = clip(boxes, size)
    places, labels = ((scores > reporting.score_threshold) & large_enough(boxes, SMALLEST)).nonzero(
        as_tuple=True
    )
    boxes, scores = boxes[places, labels], scores[places, labels]
    kept = suppress_per_class(boxes, scores, labels, reporting.nms_iou)[: reporting.most]
    return boxes[kept], scores[kept], labels[kept]
