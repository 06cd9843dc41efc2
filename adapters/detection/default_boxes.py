"""SSD's default boxes, and what each of them learns (Liu et al. 2016, "SSD")."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from adapters.detection import box_regression as coder
from adapters.detection.matching import BETWEEN, match_each

NEGATIVES = 3  # background boxes learnt from, for each positive one, §2.2


Shape = tuple[float, float]
"""Width and height."""


@dataclass(frozen=True)
class Map:
    """Default boxes of one feature map, in shares of the image's side."""

    step: float  # between two cells
    shapes: tuple[Shape, ...]  # of the boxes around each cell's centre, none larger than the image


def shape(scale: float, aspect: float) -> Shape:
    """A box of the area scale² that is `aspect` times as wide as high, cut to the image."""
    return min(1.0, scale * math.sqrt(aspect)), min(1.0, scale / math.sqrt(aspect))


def pyramid(steps: Sequence[float], scales: Sequence[float], aspects: Sequence[Sequence[float]]) -> list[Map]:
    """Maps as §2.2 has them, from their scales; there is one scale more than maps.

    A cell has a square of its map's scale, one between that and the next map's (their geometric mean), and
    for each aspect an upright and a lying box of the map's scale.
    """
    return [
        Map(
            step,
            (
                shape(scale, 1),
                shape(math.sqrt(scale * following), 1),
                *(shape(scale, ratio) for aspect in own for ratio in (aspect, 1 / aspect)),
            ),
        )
        for step, (scale, following), own in zip(steps, pairwise(scales), aspects, strict=True)
    ]


def boxes(maps: Sequence[Map], cells: Sequence[tuple[int, int]], side: int) -> Tensor:
    """Corners in px of a square image: [boxes of all maps, 4]; row by row, the shapes of a cell together.

    Args:
        cells: rows and columns of each map.
    """
    found = []
    for one, (rows, columns) in zip(maps, cells, strict=True):
        y, x = torch.meshgrid(
            (torch.arange(rows) + 0.5) * one.step, (torch.arange(columns) + 0.5) * one.step, indexing="ij"
        )
        centres = torch.stack([x, y], dim=-1).reshape(-1, 1, 2)
        half = torch.tensor(one.shapes) / 2
        found.append(torch.cat([centres - half, centres + half], dim=-1).reshape(-1, 4))
    return torch.cat(found) * side


@dataclass(frozen=True)
class Thresholds:
    """IoU with an object from which a box is one, and under which it is background."""

    positive: float = 0.5  # §2.2
    negative: float = 0.5


def loss(
    logits: Tensor,
    offsets: Tensor,
    defaults: Tensor,
    objects: Sequence[Tensor],
    labels: Sequence[Tensor],
    thresholds: Thresholds,
) -> dict[str, Tensor]:
    """Equations 1–3, normalised by the positives of the whole batch.

    Args:
        logits: [N, D, 1 + C], background first.
        offsets: [N, D, 4].
        objects: per image, [Mᵢ, 4] in px; every object has its best box, however badly it
            fits, unless two have the same.
    """
    matched = torch.stack(
        [match_each(defaults, own, thresholds.positive, thresholds.negative) for own in objects]
    )
    positive = matched >= 0
    images, places = positive.nonzero(as_tuple=True)
    first = torch.tensor([0, *[len(own) for own in objects][:-1]], device=logits.device).cumsum(0)
    chosen = first[images] + matched[images, places]  # among the objects of all images
    wanted = torch.zeros_like(matched)
    wanted[images, places] = torch.cat(list(labels))[chosen] + 1
    aim = coder.encode(torch.cat(list(objects))[chosen], defaults[places], coder.SCALED)
    count = max(1, len(images))
    surprise = nn.functional.cross_entropy(
        logits.float().flatten(0, 1), wanted.flatten(), reduction="none"
    ).view_as(wanted)
    learnt = positive | hardest(surprise.detach(), positive, matched == BETWEEN)
    return {
        "box": nn.functional.smooth_l1_loss(offsets[images, places].float(), aim, reduction="sum") / count,
        "class": surprise[learnt].sum() / count,
    }


def hardest(surprise: Tensor, positive: Tensor, ignored: Tensor) -> Tensor:
    """Hard negative mining (§2.2): of each image the background boxes of highest loss, three a positive one.

    All [N, D]; positives must not be among those that are ranked, or they take the negatives' places.
    """
    ranked = surprise.masked_fill(positive | ignored, -torch.inf).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(ranked.shape[1], device=ranked.device).expand_as(ranked)
    rank = torch.empty_like(ranked).scatter_(1, ranked, places)
    return (rank < NEGATIVES * positive.sum(dim=1, keepdim=True)) & ~positive & ~ignored
