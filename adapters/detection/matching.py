"""Matching of reference boxes (anchors, default boxes, proposals) to objects, and sampling of matches."""

import torch
from torch import Tensor
from torchvision.ops import box_iou

BACKGROUND = -1
IGNORED = -2  # neither positive nor negative, so not in the loss (Ren et al. 2015 §3.1.2)


def match(
    references: Tensor, objects: Tensor, positive_iou: float, negative_iou: float, *, allow_low_quality: bool
) -> Tensor:
    """Match each reference box to an object: [n, 4], [m, 4] → [n], an object's index or a negative constant.

    A reference takes the object of its highest IoU if that IoU is at least `positive_iou`. It is BACKGROUND
    if the IoU is below `negative_iou`, else IGNORED.

    Args:
        allow_low_quality: whether the references with the highest IoU for an object (all of them in a tie)
            are positive however low that IoU is. Each still takes the object of its own highest IoU, possibly
            another one (Ren et al. 2015 §3.1.2 (i)).
    """
    if not len(objects):
        return torch.full((len(references),), BACKGROUND, device=references.device)
    overlaps = box_iou(objects, references)  # [m, n]
    overlap, nearest = overlaps.max(dim=0)
    unmatched = torch.where(overlap < negative_iou, BACKGROUND, IGNORED)
    matches = torch.where(overlap >= positive_iou, nearest, unmatched)
    if allow_low_quality:
        best = (overlaps == overlaps.amax(dim=1, keepdim=True)) & (overlaps > 0)
        matches = torch.where(best.any(dim=0), nearest, matches)
    return matches


def match_every_object(
    references: Tensor, objects: Tensor, positive_iou: float, negative_iou: float
) -> Tensor:
    """Match as `match` does, then match each object to the reference of its highest IoU.

    Every object that overlaps a reference is therefore matched (Liu et al. 2016 §2.2), unless another object
    later in the list has the same best reference.
    """
    matches = match(references, objects, positive_iou, negative_iou, allow_low_quality=False)
    if len(objects):
        overlap, best = box_iou(objects, references).max(dim=1)
        overlapping = (overlap > 0).nonzero()[:, 0]
        matches.scatter_reduce_(0, best[overlapping], overlapping, "amax", include_self=False)
    return matches


def sample(matches: Tensor, count: int, positive_fraction: float) -> Tensor:
    """Sample `count` references and return their indices, sorted.

    At most `positive_fraction` of them are matched to an object; background fills the rest (Girshick 2015
    §2.3). Draws from torch's global generator.
    """
    positives, background = (matches >= 0).nonzero()[:, 0], (matches == BACKGROUND).nonzero()[:, 0]
    drawn = _draw(positives, int(count * positive_fraction))
    return torch.cat([drawn, _draw(background, count - len(drawn))]).sort().values


def _draw(indices: Tensor, count: int) -> Tensor:
    # on the CPU, so that a seed draws the same on every device
    return indices[torch.randperm(len(indices))[:count].to(indices.device)]
