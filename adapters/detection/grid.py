"""YOLO's grid: which cell and predictor answers for which object, boxes ↔ raw outputs, and the loss.

Redmon et al. 2016, "You Only Look Once", §2. The raw output of a cell is, in this order, C classes, B
confidences, and B × (x, y, √w, √h): the centre's place within the cell, the roots of the sides as shares of
the image's. Boxes are in shares of the image's side (0–1) throughout.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adapters.detection.boxes import area, iou


@dataclass(frozen=True)
class Form:
    """How raw values are read, and what the terms of the loss weigh."""

    linear: bool
    """Classes, confidences and centres are the raw values themselves, and all errors are squared, as in the
    paper; else they are logits, and classes and confidences are learnt by cross-entropy."""
    centre: float
    sides: float
    present: float  # of the confidence of the predictor that answers for an object
    absent: float  # of all other confidences


PAPER = Form(linear=True, centre=5.0, sides=5.0, present=1.0, absent=0.5)  # §2.2
LOGISTIC = Form(linear=False, centre=2.0, sides=50.0, present=2.0, absent=0.5)  # the prototype's


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
    """[…, C + 5B] → raw values of classes […, C], confidences […, B] and boxes […, B, 4]."""
    number = raw.shape[-1] - 5 * predictors
    classes, confidences, places = raw.split([number, predictors, 4 * predictors], dim=-1)
    return classes, confidences, places.unflatten(-1, (predictors, 4))


def decode(places: Tensor, columns: Tensor, rows: Tensor, grid: int, form: Form) -> Tensor:
    """Raw values […, 4] of cells (columns, rows: […]) → corners […, 4]."""
    corner = torch.stack(torch.broadcast_tensors(columns, rows), dim=-1).to(places)
    centre = (corner + _centre(places, form)) / grid
    half = places[..., 2:].clamp(min=0).square() / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def decode_all(raw: Tensor, predictors: int, form: Form) -> tuple[Tensor, Tensor]:
    """[N, S, S, C + 5B] → boxes [N, S·S·B, 4] and scores [N, S·S·B, C], Pr(class | object) · confidence."""
    grid = raw.shape[1]
    classes, confidences, places = split(raw.float(), predictors)
    steps = torch.arange(grid, device=raw.device)
    boxes = decode(places, steps[None, :, None], steps[:, None, None], grid, form)
    if form.linear:  # nothing keeps the outputs within 0–1, and two negative ones are no positive score
        classes, confidences = classes.clamp(0, 1), confidences.clamp(0, 1)
    else:
        classes, confidences = classes.softmax(dim=-1), confidences.sigmoid()
    scores = confidences[..., None] * classes[..., None, :]
    return boxes.flatten(1, 3), scores.flatten(1, 3)


def loss(raw: Tensor, targets: Targets, predictors: int, form: Form) -> dict[str, Tensor]:
    """The terms of equation 3, per image. raw: [N, S, S, C + 5B].

    Of a cell's predictors, the one whose box has the highest IoU with the object is responsible for it;
    its confidence is to be that IoU, all other confidences 0.
    """
    images, grid = raw.shape[:2]
    classes, confidences, places = split(raw.float().flatten(0, 2), predictors)
    cells = targets.cells
    columns, rows = cells % grid, cells // grid % grid
    with torch.no_grad():
        boxes = decode(places[cells], columns[:, None], rows[:, None], grid, form)
        overlaps = iou(boxes, targets.boxes[:, None])  # [K, B]
        overlap, responsible = overlaps.max(dim=1)
    wanted = torch.zeros_like(confidences)
    wanted[cells, responsible] = overlap
    weight = torch.full_like(confidences, form.absent)
    weight[cells, responsible] = form.present
    place = places[cells, responsible]  # [K, 4]
    centre = (targets.boxes[:, :2] + targets.boxes[:, 2:]) / 2 * grid - torch.stack([columns, rows], dim=-1)
    sides = (targets.boxes[:, 2:] - targets.boxes[:, :2]).sqrt()
    if form.linear:
        unsure = (weight * (confidences - wanted).square()).sum()
        true = nn.functional.one_hot(targets.labels, classes.shape[1])
        confused = (classes[cells] - true).square().sum()
    else:
        unsure = nn.functional.binary_cross_entropy_with_logits(confidences, wanted, weight, reduction="sum")
        confused = nn.functional.cross_entropy(classes[cells], targets.labels, reduction="sum")
    return {
        "centre": form.centre * (_centre(place, form) - centre).square().sum() / images,
        "sides": form.sides * (place[:, 2:] - sides).square().sum() / images,
        "confidence": unsure / images,
        "class": confused / images,
    }


def _centre(places: Tensor, form: Form) -> Tensor:
    """Where in the cell the centre is, 0–1: […, 4] → […, 2]."""
    return places[..., :2] if form.linear else places[..., :2].sigmoid()
