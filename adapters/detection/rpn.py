"""The region proposal network: for every anchor, objectness and the offsets of a box (Ren et al. 2015 §3.1).

Anchors are reference boxes of several sizes and aspect ratios, centred on every cell of a feature map; one
size per map if the maps form a pyramid (Lin et al. 2017 §4.1).

Parameters are named as in torchvision's published files.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from adapters.detection import box_regression
from adapters.detection.box_regression import UNIT_WEIGHTS
from adapters.detection.detector_input import Size
from adapters.detection.matching import match, sample

MIN_SIDE = 1e-3  # px, of a proposal's sides; excludes only empty ones, as in torchvision
# Error from which smooth L1 is linear; Girshick's published code, σ = 3. With 1, COCO AP is a point lower.
SMOOTH_L1_BETA = 1 / 9


@dataclass(frozen=True)
class RpnSettings:
    """Settings of a region proposal network; defaults are those of Ren et al. 2015 §3.1.2 and §3.3."""

    sizes: tuple[tuple[float, ...], ...]  # of the anchors per map, px of the input
    aspect_ratios: tuple[float, ...]  # height / width
    pre_nms_top_n: int  # proposals per map before suppression
    post_nms_top_n: int  # proposals per image after suppression
    training_factor: int = 1  # multiplies both top-n limits during training
    nms_iou: float = 0.7
    positive_iou: float = 0.7  # an anchor is positive at this IoU with an object or above
    negative_iou: float = 0.3  # an anchor is background below this IoU
    anchors_per_image: int = 256  # sampled for the loss
    positive_fraction: float = 0.5  # of the sampled anchors at most


@dataclass(frozen=True, eq=False)
class RpnOutputs:
    """Raw outputs for the A anchors of all maps, finest map first."""

    anchors: Tensor  # [A, 4]
    logits: Tensor  # [N, A], objectness
    offsets: Tensor  # [N, A, 4]
    counts: tuple[int, ...]  # anchors per map


class RpnHead(nn.Module):
    """A 3×3 convolution and two 1×1 convolutions, shared by all maps."""

    def __init__(self, channels: int, anchors_per_cell: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()))
        self.cls_logits = nn.Conv2d(channels, anchors_per_cell, 1)
        self.bbox_pred = nn.Conv2d(channels, 4 * anchors_per_cell, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                nn.init.normal_(layer.weight, std=0.01)  # §3.1.3
                nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map [N, C, H, W] to logits [N, H·W·A] and offsets [N, H·W·A, 4], in the order of the anchors."""
        x = self.conv(features)
        logits = self.cls_logits(x).permute(0, 2, 3, 1).flatten(1)
        offsets = self.bbox_pred(x).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4))
        return logits, offsets


class RegionProposalNetwork(nn.Module):
    """A network that applies the head to the anchors of all maps, and computes proposals or a loss."""

    def __init__(self, channels: int, settings: RpnSettings) -> None:
        super().__init__()
        self.settings = settings
        # Corners are rounded to whole pixels, and the first cell's anchors are centred on the image's corner,
        # as the published weights expect.
        self.anchors = AnchorGenerator(settings.sizes, (settings.aspect_ratios,) * len(settings.sizes))
        self.head = RpnHead(channels, len(settings.sizes[0]) * len(settings.aspect_ratios))

    def forward(self, maps: Sequence[Tensor], height: int, width: int) -> RpnOutputs:
        """Compute raw outputs from the maps of images [N, 3, height, width]."""
        cells = [features.shape[-2:] for features in maps]
        strides = [(height // rows, width // columns) for rows, columns in cells]
        self.anchors.set_cell_anchors(torch.float32, maps[0].device)
        anchors: list[Tensor] = self.anchors.grid_anchors(cells, strides)
        outputs = [self.head(features) for features in maps]
        logits = torch.cat([map_logits for map_logits, _ in outputs], dim=1).float()
        offsets = torch.cat([map_offsets for _, map_offsets in outputs], dim=1).float()
        return RpnOutputs(torch.cat(anchors), logits, offsets, tuple(map(len, anchors)))

    def propose(self, outputs: RpnOutputs, sizes: Sequence[Size]) -> list[Tensor]:
        """Return the proposals of each image, best first and clipped to its size: [≤ post_nms_top_n, 4]."""
        settings = self.settings
        factor = settings.training_factor if self.training else 1
        indices, levels = self._top_anchors(outputs, factor * settings.pre_nms_top_n)
        offsets = outputs.offsets.gather(1, indices[..., None].expand(-1, -1, 4))
        boxes = box_regression.decode(offsets, outputs.anchors[indices], UNIT_WEIGHTS)
        scores = outputs.logits.gather(1, indices).sigmoid()
        proposals = []
        for image_boxes, image_scores, size in zip(boxes, scores, sizes, strict=True):
            clipped = clip_boxes_to_image(image_boxes, size)
            valid = remove_small_boxes(clipped, MIN_SIDE)
            kept = batched_nms(clipped[valid], image_scores[valid], levels[valid], settings.nms_iou)
            proposals.append(clipped[valid[kept[: factor * settings.post_nms_top_n]]])
        return proposals

    def loss(self, outputs: RpnOutputs, objects: Sequence[Tensor]) -> dict[str, Tensor]:
        """Compute equation 1 for sampled anchors: cross-entropy of objectness, smooth L1 of the offsets.

        Anchors that cross the image's border are included (Lin et al. 2017 §5.1); Ren et al. exclude them.
        `objects` are the boxes [Mᵢ, 4] of each image in px of the input.
        """
        settings = self.settings
        logits, targets, errors = [], [], []
        for image_logits, offsets, boxes in zip(outputs.logits, outputs.offsets, objects, strict=True):
            matches = match(
                outputs.anchors, boxes, settings.positive_iou, settings.negative_iou, allow_low_quality=True
            )
            sampled = sample(matches, settings.anchors_per_image, settings.positive_fraction)
            logits.append(image_logits[sampled])
            targets.append((matches[sampled] >= 0).float())
            positive = sampled[matches[sampled] >= 0]
            aim = box_regression.encode(boxes[matches[positive]], outputs.anchors[positive], UNIT_WEIGHTS)
            errors.append(
                nn.functional.smooth_l1_loss(offsets[positive], aim, reduction="sum", beta=SMOOTH_L1_BETA)
            )
        target = torch.cat(targets)
        return {
            "objectness": nn.functional.binary_cross_entropy_with_logits(torch.cat(logits), target),
            "anchors": torch.stack(errors).sum() / max(1, len(target)),
        }

    @staticmethod
    def _top_anchors(outputs: RpnOutputs, top_n: int) -> tuple[Tensor, Tensor]:
        """Return the indices of the best anchors per map, [N, K], and the map of each, [K]."""
        indices, levels, first = [], [], 0
        for level, count in enumerate(outputs.counts):
            level_logits = outputs.logits[:, first : first + count]
            best = level_logits.topk(min(top_n, count), dim=1).indices
            indices.append(best + first)
            levels.append(torch.full_like(best[0], level))
            first += count
        return torch.cat(indices, dim=1), torch.cat(levels)
