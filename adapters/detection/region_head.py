"""What a region shows and where exactly it is: the head that R-CNN, Fast and Faster R-CNN share.

Class scores with a background class, and box offsets for each class (Girshick 2015, "Fast R-CNN", §2.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adapters.detection import coder
from adapters.detection.boxes import clip, large_enough
from adapters.detection.matching import match, sample
from adapters.detection.nms import suppress_per_class

SMALLEST = 1e-2  # px, of a detection's sides; as in torchvision


@dataclass(frozen=True)
class Sampling:
    """Which regions of an image are learnt from; Girshick 2015 §2.3 where not said."""

    count: int  # an image
    share: float = 0.25  # at most so many of them objects
    positive: float = 0.5  # IoU with an object from which a region is one; below, it is background


@dataclass(frozen=True, eq=False)
class Lesson:
    """The regions of a batch that are learnt from."""

    regions: list[Tensor]  # per image, [Rᵢ, 4]
    labels: Tensor  # [R], 0 background, class + 1 else
    boxes: Tensor  # [R, 4], the object of each; without meaning for background


@dataclass(frozen=True)
class Reporting:
    """Which answers become detections."""

    score_threshold: float
    nms_iou: float
    most: int  # an image


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


def detections(
    logits: Tensor, offsets: Tensor, regions: Tensor, size: tuple[int, int], reporting: Reporting
) -> tuple[Tensor, Tensor, Tensor]:
    """One image's regions [R, 4] and answers → boxes [n, 4] within (height, width), scores, labels [n]."""
    boxes = coder.decode(offsets.float(), regions[:, None], coder.SCALED)[:, 1:]
    scores = logits.float().softmax(dim=-1)[:, 1:]
    boxes = clip(boxes, size)
    places, labels = ((scores > reporting.score_threshold) & large_enough(boxes, SMALLEST)).nonzero(
        as_tuple=True
    )
    boxes, scores = boxes[places, labels], scores[places, labels]
    kept = suppress_per_class(boxes, scores, labels, reporting.nms_iou)[: reporting.most]
    return boxes[kept], scores[kept], labels[kept]
