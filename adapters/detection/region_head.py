"""The head that R-CNN, Fast and Faster R-CNN share: classes of regions and offsets of their boxes.

It gives class scores with a background class, and box offsets per class (Girshick 2015, "Fast R-CNN", §2.1).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from adapters.detection import box_regression
from adapters.detection.box_regression import SCALED_WEIGHTS
from adapters.detection.detector_input import DetectorInput, Size
from adapters.detection.finite import check_finite
from adapters.detection.matching import match, sample
from harness.task import Detections, Prediction

# Cells per side of a pooled region; Girshick 2015 §2.1 for VGG-16, Lin et al. 2017 §4.2.
POOLED_SIDE = 7
# Bilinear samples per side of a bin of RoIAlign; He et al. 2017 ("Mask R-CNN") §3: four points, not critical.
SAMPLING_RATIO = 2
MIN_SIDE = 1e-2  # px, of a detection's sides; as in torchvision
# Sampling of regions in training, Girshick 2015 §2.3: at most a quarter are positive, which is from this IoU
# with an object. Below it, a region is background: [0, .5), instead of [.1, .5).
POSITIVE_FRACTION, POSITIVE_IOU = 0.25, 0.5
DETECTIONS_PER_IMAGE = 100  # as many as COCO's AP counts


@dataclass(frozen=True, eq=False)
class RegionTargets:
    """The sampled regions of a batch and the outputs for them that the head is trained on."""

    regions: list[Tensor]  # per image, [Rᵢ, 4]
    labels: Tensor  # [R], 0 for background, else class + 1
    boxes: Tensor  # [R, 4], the matched object; meaningless for background


@dataclass(frozen=True, eq=False)
class RegionOutputs:
    """Raw outputs of a network for the regions of images of one padded size."""

    regions: list[Tensor]  # per image, [Rᵢ, 4] in px of the input
    logits: Tensor  # [R, 1 + C]
    offsets: Tensor  # [R, 1 + C, 4]


class RegionFeatures(nn.Sequential):
    """Two fully connected layers, from pooled regions [R, …] with `inputs` values each to [R, units]."""

    def __init__(self, inputs: int, units: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.add_module("flatten", nn.Flatten())
        self.add_module("fc6", nn.Linear(inputs, units))
        self.add_module("relu6", nn.ReLU(inplace=True))
        self.add_module("drop6", nn.Dropout(dropout))
        self.add_module("fc7", nn.Linear(units, units))
        self.add_module("relu7", nn.ReLU(inplace=True))
        self.add_module("drop7", nn.Dropout(dropout))


class RegionPredictor(nn.Module):
    """A layer from features [R, F] to logits [R, 1 + C], background first, and offsets [R, 1 + C, 4]."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(features, 1 + classes)
        self.bbox_pred = nn.Linear(features, 4 * (1 + classes))
        nn.init.normal_(self.cls_score.weight, std=0.01)  # Girshick 2015 §2.3, as is the next
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Compute logits [R, 1 + C] and offsets [R, 1 + C, 4]."""
        return self.cls_score(features), self.bbox_pred(features).unflatten(1, (-1, 4))


class RegionClassifier(nn.Module):
    """Layers for the features of pooled regions, then for classes and offsets."""

    def __init__(
        self, channels: int, pooled_side: int, units: int, classes: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.box_head = RegionFeatures(channels * pooled_side * pooled_side, units, dropout)
        self.box_predictor = RegionPredictor(units, classes)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Map regions [R, C, side, side] to logits [R, 1 + C] and offsets [R, 1 + C, 4]."""
        logits, offsets = self.box_predictor(self.box_head(pooled))
        return logits, offsets


def sample_targets(
    proposals: Sequence[Tensor], objects: Sequence[Tensor], labels: Sequence[Tensor], count: int
) -> RegionTargets:
    """Sample `count` regions of each image for training, from its proposals and the boxes of its objects."""
    regions, target_labels, target_boxes = [], [], []
    for image_proposals, boxes, classes in zip(proposals, objects, labels, strict=True):
        truth = boxes.to(image_proposals)
        candidates = torch.cat([image_proposals, truth])
        matches = match(candidates, truth, POSITIVE_IOU, POSITIVE_IOU, allow_low_quality=False)
        sampled = sample(matches, count, POSITIVE_FRACTION)
        matched = matches[sampled]
        positive = matched >= 0
        regions.append(candidates[sampled])
        target_labels.append(
            torch.zeros_like(matched).masked_scatter(positive, classes[matched[positive]] + 1)
        )
        target_boxes.append(candidates[sampled].masked_scatter(positive[:, None], truth[matched[positive]]))
    return RegionTargets(regions, torch.cat(target_labels), torch.cat(target_boxes))


def loss(logits: Tensor, offsets: Tensor, targets: RegionTargets, beta: float) -> dict[str, Tensor]:
    """Compute the multi-task loss (Girshick 2015, equations 1–3).

    It is the cross-entropy of the classes and the smooth L1, linear from an error of `beta` on, of the true
    class's offsets.
    """
    regions = torch.cat(targets.regions)
    positive = (targets.labels > 0).nonzero()[:, 0]
    target_offsets = box_regression.encode(targets.boxes[positive], regions[positive], SCALED_WEIGHTS)
    class_offsets = offsets.float()[positive, targets.labels[positive]]
    error = nn.functional.smooth_l1_loss(class_offsets, target_offsets, reduction="sum", beta=beta)
    return {
        "class": nn.functional.cross_entropy(logits.float(), targets.labels),
        "box": error / max(1, len(regions)),
    }


def postprocess(
    outputs: Sequence[RegionOutputs], inputs: Sequence[DetectorInput], score_threshold: float, nms_iou: float
) -> list[Prediction]:
    """Return the detections of a batch's images in the batch's order, from the raw outputs per input."""
    detections: dict[int, Detections] = {}
    for output, group in zip(outputs, inputs, strict=True):
        counts = [len(regions) for regions in output.regions]
        parts = zip(output.regions, output.logits.split(counts), output.offsets.split(counts), strict=True)
        for index, transform, part in zip(group.indices, group.transforms, parts, strict=True):
            boxes, scores, labels = select_detections(*part, transform.size, score_threshold, nms_iou)
            restored = transform.invert(boxes)
            detections[index] = Detections(restored.cpu().numpy(), scores.cpu().numpy(), labels.cpu().numpy())
    return [detections[index] for index in range(len(detections))]


def select_detections(
    regions: Tensor, logits: Tensor, offsets: Tensor, size: Size, score_threshold: float, nms_iou: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Select one image's detections from the raw outputs for its regions [R, 4], which must be finite.

    Return boxes [n, 4] in px of the input, clipped to (height, width), scores [n] and labels [n].
    """
    check_finite(logits, offsets)
    scores = logits.float().softmax(dim=-1)[:, 1:]
    boxes = box_regression.decode(offsets.float(), regions[:, None], SCALED_WEIGHTS)[:, 1:]
    indices, labels = (scores > score_threshold).nonzero(as_tuple=True)
    boxes, scores = clip_boxes_to_image(boxes[indices, labels], size), scores[indices, labels]
    valid = remove_small_boxes(boxes, MIN_SIDE)
    boxes, scores, labels = boxes[valid], scores[valid], labels[valid]
    kept = batched_nms(boxes, scores, labels, nms_iou)[:DETECTIONS_PER_IMAGE]
    return boxes[kept], scores[kept], labels[kept]
