"""Which object a reference box (anchor, default box, proposal) is to find; which of them are learnt from."""

from __future__ import annotations

import torch
from torch import Tensor

from adapters.detection.boxes import iou

BACKGROUND = -1
BETWEEN = -2


def match(references: Tensor, objects: Tensor, positive: float, negative: float, *, best_too: bool) -> Tensor:
    """Match each reference box with an object: [n, 4], [m, 4] → [n], an object's index or below 0.

    A reference takes the object of its highest IoU if that is at least `positive`; below `negative` it is
    BACKGROUND, else BETWEEN and not learnt from.

    Args:
        best_too: the references of highest IoU with an object are no background however low that is (ties:
            all), and take the object nearest to them, maybe another (Ren et al. 2015 §3.1.2 (i)).
    """
    if not len(objects):
        return torch.full((len(references),), BACKGROUND, device=references.device)
    overlaps = iou(objects[:, None], references)  # [m, n]
    overlap, nearest = overlaps.max(dim=0)
    found = torch.where(overlap >= positive, nearest, torch.where(overlap < negative, BACKGROUND, BETWEEN))
    if best_too:
        best = (overlaps == overlaps.amax(dim=1, keepdim=True)) & (overlaps > 0)
        found = torch.where(best.any(dim=0), nearest, found)
    return found


def match_each(references: Tensor, objects: Tensor, positive: float, negative: float) -> Tensor:
    """As `match`, but each object that touches a reference then takes the one of its highest IoU.

    So every object is learnt (Liu et al. 2016 §2.2), unless two have the same best reference: then the later.
    """
    found = match(references, objects, positive, negative, best_too=False)
    if len(objects):
        overlap, best = iou(objects[:, None], references).max(dim=1)
        touching = (overlap > 0).nonzero()[:, 0]
        found.scatter_reduce_(0, best[touching], touching, "amax", include_self=False)
    return found


def sample(matched: Tensor, count: int, positives: float) -> Tensor:
    """Draw `count` of the references, at most a share `positives` of them matched ones: indices, sorted.

    Background fills what matched ones leave (Girshick 2015 §2.3). Drawn from torch's generator.
    """
    objects, background = (matched >= 0).nonzero()[:, 0], (matched == BACKGROUND).nonzero()[:, 0]
    taken = _draw(objects, int(count * positives))
    return torch.cat([taken, _draw(background, count - len(taken))]).sort().values


def _draw(places: Tensor, count: int) -> Tensor:
    # on the CPU, so that a seed draws the same on every device
    return places[torch.randperm(len(places))[:count].to(places.device)]
