"""SSD's default boxes and its loss (Liu et al. 2016, "SSD: Single Shot MultiBox Detector")."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from adapters.detection import box_regression
from adapters.detection.box_regression import SCALED_WEIGHTS
from adapters.detection.matching import IGNORED, match_every_object

NEGATIVE_RATIO = 3  # background boxes in the loss per positive one, §2.2

Shape = tuple[float, float]  # width and height


@dataclass(frozen=True)
class MapLayout:
    """Default boxes of one feature map; lengths are fractions of the image's longer side."""

    step: float | None  # between neighbouring cells; None if the map's cells divide the image evenly
    shapes: tuple[Shape, ...]  # of the boxes around the centre of a cell, none larger than the image


class Thresholds(NamedTuple):
    """Minimum IoU with an object of a positive default box, and maximum IoU of a background box."""

    positive_iou: float = 0.5  # §2.2
    negative_iou: float = 0.5


def shape(scale: float, aspect_ratio: float) -> Shape:
    """Return a box of area scale² and the given width / height, clipped to the image."""
    return min(1.0, scale * math.sqrt(aspect_ratio)), min(1.0, scale / math.sqrt(aspect_ratio))


def layouts_of_scales(
    steps: Sequence[float | None], scales: Sequence[float], aspect_ratios: Sequence[Sequence[float]]
) -> list[MapLayout]:
    """Lay out maps as in §2.2, given one more scale than maps.

    A cell has a square of its map's scale, and one of the geometric mean of that scale and the next. For each
    aspect ratio of its map, it has a wide and a tall box of the map's scale.
    """
    return [
        MapLayout(
            step,
            (
                shape(scale, 1),
                shape(math.sqrt(scale * next_scale), 1),
                *(shape(scale, ratio) for aspect in map_ratios for ratio in (aspect, 1 / aspect)),
            ),
        )
        for step, (scale, next_scale), map_ratios in zip(steps, pairwise(scales), aspect_ratios, strict=True)
    ]


def default_boxes(
    layouts: Sequence[MapLayout], cells: Sequence[tuple[int, int]], size: tuple[int, int]
) -> Tensor:
    """Return the default boxes of all maps of an image, corners in px: [D, 4].

    The order is map by map, row by row, and the shapes of a cell together. `cells` are the rows and columns
    of each map, and `size` is the (height, width) of the image.
    """
    side = max(size)
    boxes = []
    for layout, (rows, columns) in zip(layouts, cells, strict=True):
        down = layout.step or size[0] / side / rows
        right = layout.step or size[1] / side / columns
        y, x = torch.meshgrid(
            (torch.arange(rows) + 0.5) * down, (torch.arange(columns) + 0.5) * right, indexing="ij"
        )
        centres = torch.stack([x, y], dim=-1).reshape(-1, 1, 2)
        half = torch.tensor(layout.shapes) / 2
        boxes.append(torch.cat([centres - half, centres + half], dim=-1).reshape(-1, 4))
    return torch.cat(boxes) * side


def loss(
    logits: Tensor,
    offsets: Tensor,
    defaults: Tensor,
    objects: Sequence[Tensor],
    labels: Sequence[Tensor],
    thresholds: Thresholds,
) -> dict[str, Tensor]:
    """Compute equations 1–3, normalised by the number of positive boxes of the whole batch.

    Args:
        logits, offsets, defaults: [N, D, 1 + C], background first; [N, D, 4]; [D, 4] in px.
        objects: per image, [Mᵢ, 4] in px. Every object is matched to its best default box, however small
            their IoU, unless two objects have the same best box.
        labels: per image, [Mᵢ].
    """
    matches = torch.stack([match_every_object(defaults, boxes, *thresholds) for boxes in objects])
    positive = matches >= 0
    images, defaults_matched = positive.nonzero(as_tuple=True)
    first = torch.tensor([0, *[len(boxes) for boxes in objects][:-1]], device=logits.device).cumsum(0)
    matched = first[images] + matches[images, defaults_matched]  # index into the objects of all images
    target_labels = torch.zeros_like(matches)
    target_labels[images, defaults_matched] = torch.cat(list(labels))[matched] + 1
    target_offsets = box_regression.encode(
        torch.cat(list(objects))[matched], defaults[defaults_matched], SCALED_WEIGHTS
    )
    count = max(1, len(images))
    class_losses = nn.functional.cross_entropy(
        logits.float().flatten(0, 1), target_labels.flatten(), reduction="none"
    ).view_as(target_labels)
    counted = positive | hard_negatives(class_losses.detach(), positive, matches == IGNORED)
    box_losses = nn.functional.smooth_l1_loss(
        offsets[images, defaults_matched].float(), target_offsets, reduction="sum"
    )
    return {"box": box_losses / count, "class": class_losses[counted].sum() / count}


def hard_negatives(class_losses: Tensor, positive: Tensor, ignored: Tensor) -> Tensor:
    """Select the background boxes with the highest loss, NEGATIVE_RATIO per positive box of an image (§2.2).

    All tensors are [N, D]. Positive boxes are ranked last, so that they do not displace negatives.
    """
    ranked = class_losses.masked_fill(positive | ignored, -torch.inf)
    order = ranked.argsort(dim=1, descending=True, stable=True)
    positions = torch.arange(order.shape[1], device=order.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, positions)
    return (rank < NEGATIVE_RATIO * positive.sum(dim=1, keepdim=True)) & ~positive & ~ignored
