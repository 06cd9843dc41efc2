"""The region proposal network: at every anchor, is there an object and how does the anchor fit it?

Ren et al. 2015, "Faster R-CNN", §3.1. Parameters are named as in torchvision's published files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adapters.detection import anchors
from adapters.detection import box_regression as coder
from adapters.detection.boxes import clip, large_enough
from adapters.detection.matching import match, sample
from adapters.detection.nms import suppress_per_class

SMALLEST = 1e-3  # px, of a proposal's sides; only to be rid of empty ones, as in torchvision
BETA = 1 / 9  # where smooth L1 turns linear; Girshick's code, σ = 3. 1 instead costs a point of COCO AP.


@dataclass(frozen=True)
class Settings:
    """Sizes in px of the input. The numbers are Ren et al. 2015's, §3.1.2 and §3.3, where not said."""

    sizes: tuple[tuple[float, ...], ...]  # of the anchors, per map
    aspects: tuple[float, ...]  # height / width
    before: int  # proposals a map that suppression looks at
    after: int  # proposals an image that it leaves
    while_learning: int = 1  # times as many of both
    nms_iou: float = 0.7
    positive: float = 0.7  # IoU with an object from which an anchor is one
    negative: float = 0.3  # and under which it is background
    learnt_from: int = 256  # anchors an image
    share: float = 0.5  # at most so many of them objects


@dataclass(frozen=True, eq=False)
class Raw:
    """What the network says of every anchor, all maps behind one another: A anchors."""

    anchors: Tensor  # [A, 4]
    logits: Tensor  # [N, A], that there is an object
    offsets: Tensor  # [N, A, 4]
    counts: tuple[int, ...]  # anchors of each map


class Head(nn.Module):
    """A 3×3 convolution and two 1×1, the same on all maps."""

    def __init__(self, channels: int, anchors_a_cell: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()))
        self.cls_logits = nn.Conv2d(channels, anchors_a_cell, 1)
        self.bbox_pred = nn.Conv2d(channels, 4 * anchors_a_cell, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                nn.init.normal_(layer.weight, std=0.01)  # §3.1.3
                nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """[N, C, H, W] → logits [N, H·W·A] and offsets [N, H·W·A, 4], row by row as the anchors."""
        x = self.conv(features)
        logits = self.cls_logits(x).permute(0, 2, 3, 1).flatten(1)
        offsets = self.bbox_pred(x).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4))
        return logits, offsets


class ProposalNetwork(nn.Module):
    """Anchors, the head over all maps, and what becomes of its answers."""

    def __init__(self, channels: int, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.head = Head(channels, len(settings.sizes[0]) * len(settings.aspects))

    def forward(self, maps: Sequence[Tensor], height: int, width: int) -> Raw:
        """Maps of images [height, width] → what is said of their anchors."""
        settings = self.settings
        placed, answers = [], []
        for features, sizes in zip(maps, settings.sizes, strict=True):
            rows, columns = features.shape[-2:]
            around = anchors.shapes(sizes, settings.aspects).to(features.device)
            placed.append(anchors.spread(around, rows, columns, (height // rows, width // columns)))
            answers.append(self.head(features))
        logits, offsets = (torch.cat([answer[k] for answer in answers], dim=1).float() for k in (0, 1))
        return Raw(torch.cat(placed), logits, offsets, tuple(len(one) for one in placed))

    def propose(self, raw: Raw, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """The proposals of each image, [at most `after`, 4], likeliest first, within (height, width)."""
        settings = self.settings
        times = settings.while_learning if self.training else 1
        firsts = [sum(raw.counts[:k]) for k in range(len(raw.counts))]
        chosen, levels = [], []
        for level, (first, count) in enumerate(zip(firsts, raw.counts, strict=True)):
            most = min(times * settings.before, count)
            best = raw.logits[:, first : first + count].topk(most, dim=1).indices
            chosen.append(best + first)
            levels.append(torch.full_like(best[0], level))
        places, level_of = torch.cat(chosen, dim=1), torch.cat(levels)
        offsets = raw.offsets.gather(1, places[..., None].expand(-1, -1, 4))
        boxes = coder.decode(offsets, raw.anchors[places], coder.PLAIN)
        scores = raw.logits.gather(1, places).sigmoid()
        found = []
        for own, score, size in zip(boxes, scores, sizes, strict=True):
            clipped = clip(own, size)
            keep = large_enough(clipped, SMALLEST).nonzero()[:, 0]
            kept = suppress_per_class(clipped[keep], score[keep], level_of[keep], settings.nms_iou)
            found.append(clipped[keep[kept[: times * settings.after]]])
        return found

    def loss(self, raw: Raw, objects: Sequence[Tensor]) -> dict[str, Tensor]:
        """Equation 1: of sampled anchors, cross-entropy of objectness and smooth L1 of the offsets.

        Anchors across the image's border are learnt from (Lin et al. 2017 §5.1); Ren et al. leave them out.
        """
        settings = self.settings
        logits, wanted, errors = [], [], []
        for score, offsets, boxes in zip(raw.logits, raw.offsets, objects, strict=True):
            matched = match(raw.anchors, boxes, settings.positive, settings.negative, best_too=True)
            places = sample(matched, settings.learnt_from, settings.share)
            logits.append(score[places])
            wanted.append((matched[places] >= 0).float())
            positive = places[matched[places] >= 0]
            aim = coder.encode(boxes[matched[positive]], raw.anchors[positive], coder.PLAIN)
            errors.append(nn.functional.smooth_l1_loss(offsets[positive], aim, reduction="sum", beta=BETA))
        answers, truth = torch.cat(logits), torch.cat(wanted)
        return {
            "objectness": nn.functional.binary_cross_entropy_with_logits(answers, truth),
            "anchors": torch.stack(errors).sum() / max(1, len(truth)),
        }
