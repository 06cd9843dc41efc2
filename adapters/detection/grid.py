"""YOLO's grid: which cell and predictor answers for which object, boxes ↔ raw outputs, and the loss.

Redmon et al. 2016, "You Only Look Once", §2. The raw output of a cell is, in this order, C class logits,
B confidence logits, and B × (x, y, √w, √h): the centre as logits of its place within the cell, the roots
of the sides as shares of the image's. Boxes are in shares of the image's side (0–1) throughout.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adapters.detection.boxes import area, iou

# Weights of the terms: the prototype's. The paper's 5 and .5 go with squared errors on everything.
CENTRE, SIDES, OBJECT, NO_OBJECT, CLASS = 2.0, 50.0, 2.0, 0.5, 1.0


@dataclass(frozen=True, eq=False)
class Targets:
    """The K objects that a cell answers for."""

    cells: Tensor  # [K], image · S² + row · S + column
    boxes: Tensor  # [K, 4], corners
    labels: Tensor  # [K]


def assign(boxes: Tensor, labels: Tensor, images: Tensor, grid: int, count: int) -> Targets:
    """Give every object to the cell that its centre falls into.

    A cell answers for one object, the largest (ties: the first); the others are not learnt from.
    boxes [M, 4], labels [M], images [M] (0…count−1, whose box it is) → K ≤ M objects.
    """
    centres = ((boxes[:, :2] + boxes[:, 2:]) / 2 * grid).long().clamp(0, grid - 1)
    cells = (images * grid + centres[:, 1]) * grid + centres[:, 0]
    largest_first = area(boxes).argsort(descending=True, stable=True)
    rank = torch.empty_like(largest_first)
    rank[largest_first] = torch.arange(len(boxes), device=boxes.device)
    best = torch.full((count * grid * grid,), len(boxes), dtype=rank.dtype, device=boxes.device)
    best.scatter_reduce_(0, cells, rank, "amin")
    chosen = best[cells] == rank
    return Targets(cells[chosen], boxes[chosen], labels[chosen])


def split(raw: Tensor, predictors: int) -> tuple[Tensor, Tensor, Tensor]:
    """[…, C + 5B] → class logits […, C], confidence logits […, B], boxes' raw values […, B, 4]."""
    classes = raw.shape[-1] - 5 * predictors
    logits, confidences, places = raw.split([classes, predictors, 4 * predictors], dim=-1)
    return logits, confidences, places.unflatten(-1, (predictors, 4))


def decode(places: Tensor, columns: Tensor, rows: Tensor, grid: int) -> Tensor:
    """Raw values […, 4] of cells (columns, rows: […]) → corners […, 4]."""
    corner = torch.stack(torch.broadcast_tensors(columns, rows), dim=-1).to(places)
    centre = (corner + places[..., :2].sigmoid()) / grid
    half = places[..., 2:].clamp(min=0).square() / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def decode_all(raw: Tensor, predictors: int) -> tuple[Tensor, Tensor]:
    """[N, S, S, C + 5B] → boxes [N, S·S·B, 4] and scores [N, S·S·B, C], Pr(class | object) · confidence."""
    grid = raw.shape[1]
    logits, confidences, places = split(raw.float(), predictors)
    steps = torch.arange(grid, device=raw.device)
    boxes = decode(places, steps[None, :, None], steps[:, None, None], grid)
    scores = confidences.sigmoid()[..., None] * logits.softmax(dim=-1)[..., None, :]
    return boxes.flatten(1, 3), scores.flatten(1, 3)


def loss(raw: Tensor, targets: Targets, predictors: int) -> dict[str, Tensor]:
    """The terms of equation 3, per image. raw: [N, S, S, C + 5B].

    Of a cell's predictors, the one whose box has the highest IoU with the object is responsible for it;
    its confidence is to be that IoU, all other confidences 0. Classes are learnt by cross-entropy and
    confidences by binary cross-entropy instead of the paper's squared errors.
    """
    images, grid = raw.shape[:2]
    logits, confidences, places = split(raw.float().flatten(0, 2), predictors)
    cells = targets.cells
    columns, rows = cells % grid, cells // grid % grid
    with torch.no_grad():
        boxes = decode(places[cells], columns[:, None], rows[:, None], grid)
        overlaps = iou(boxes, targets.boxes[:, None])  # [K, B]
        overlap, responsible = overlaps.max(dim=1)
    wanted = torch.zeros_like(confidences)
    wanted[cells, responsible] = overlap
    weight = torch.full_like(confidences, NO_OBJECT)
    weight[cells, responsible] = OBJECT
    place = places[cells, responsible]  # [K, 4]
    centre = (targets.boxes[:, :2] + targets.boxes[:, 2:]) / 2 * grid - torch.stack([columns, rows], dim=-1)
    sides = (targets.boxes[:, 2:] - targets.boxes[:, :2]).sqrt()
    unsure = nn.functional.binary_cross_entropy_with_logits(confidences, wanted, weight, reduction="sum")
    return {
        "centre": CENTRE * (place[:, :2].sigmoid() - centre).square().sum() / images,
        "sides": SIDES * (place[:, 2:] - sides).square().sum() / images,
        "confidence": unsure / images,
        "class": CLASS * nn.functional.cross_entropy(logits[cells], targets.labels, reduction="sum") / images,
    }
