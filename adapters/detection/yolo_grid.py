"""YOLO's grid: assignment of objects to cells and predictors, decoding of raw outputs, and the loss.

Redmon et al. 2016, "You Only Look Once", §2. The raw output of a cell is, in this order, C classes, B
confidences, and B × (x, y, √w, √h): the position of the centre within the cell, and the square roots of the
sides as fractions of the image's sides. Boxes are in fractions of the image's sides (0–1) throughout.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.ops import box_area

Grid = tuple[int, int]  # rows and columns of cells; the paper's S for both


@dataclass(frozen=True)
class Variant:
    """The interpretation of raw values, and the weights of the terms of the loss."""

    linear: bool
    """If true, classes, confidences and centres are the raw values and all errors are squared, as in the
    paper. Otherwise, raw values are logits, and classes and confidences have a cross-entropy loss."""
    centre_weight: float  # λ_coord of equation 3 for x and y
    size_weight: float  # λ_coord for w and h
    object_weight: float  # for the confidence of the predictor that is responsible for an object
    no_object_weight: float  # λ_noobj, for all other confidences


PAPER = Variant(
    linear=True, centre_weight=5.0, size_weight=5.0, object_weight=1.0, no_object_weight=0.5
)  # §2.2
LOGISTIC = Variant(
    linear=False, centre_weight=2.0, size_weight=50.0, object_weight=2.0, no_object_weight=0.5
)  # as in the prototype


@dataclass(frozen=True, eq=False)
class GridTargets:
    """The K objects for which a cell is responsible."""

    cells: Tensor  # [K], (image · rows + row) · columns + column
    boxes: Tensor  # [K, 4], corners
    labels: Tensor  # [K]


def assign(boxes: Tensor, labels: Tensor, image_indices: Tensor, grid: Grid, images: int) -> GridTargets:
    """Assign every object to the cell that contains its centre.

    A cell is responsible for one object, the largest (ties: the first); the others are not in the loss.
    The boxes [M, 4] and labels [M] are in the images `image_indices` [M], 0…images − 1.
    """
    rows, columns = grid
    across, down = ((boxes[:, :2] + boxes[:, 2:]) / 2 * _across_and_down(grid, boxes)).long().unbind(dim=1)
    cells = (image_indices * rows + down.clamp(0, rows - 1)) * columns + across.clamp(0, columns - 1)
    largest_first = box_area(boxes).argsort(descending=True, stable=True)
    rank = torch.empty_like(largest_first)
    rank[largest_first] = torch.arange(len(boxes), device=boxes.device)
    best = torch.full((images * rows * columns,), len(boxes), dtype=rank.dtype, device=boxes.device)
    best.scatter_reduce_(0, cells, rank, "amin")
    assigned = best[cells] == rank
    return GridTargets(cells[assigned], boxes[assigned], labels[assigned])


def split(raw: Tensor, predictors: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split raw outputs […, C + 5B] into classes […, C], confidences […, B] and boxes […, B, 4]."""
    classes = raw.shape[-1] - 5 * predictors
    logits, confidences, boxes = raw.split([classes, predictors, 4 * predictors], dim=-1)
    return logits, confidences, boxes.unflatten(-1, (predictors, 4))


def decode(raw_boxes: Tensor, columns: Tensor, rows: Tensor, grid: Grid, variant: Variant) -> Tensor:
    """Decode raw boxes […, 4] of the cells at columns and rows […] into corners […, 4]."""
    cell = torch.stack(torch.broadcast_tensors(columns, rows), dim=-1).to(raw_boxes)
    centre = (cell + _centre(raw_boxes, variant)) / _across_and_down(grid, raw_boxes)
    half = raw_boxes[..., 2:].clamp(min=0).square() / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def decode_all(raw: Tensor, predictors: int, variant: Variant) -> tuple[Tensor, Tensor]:
    """Decode raw outputs [N, R, S, C + 5B] into boxes [N, R·S·B, 4] and scores [N, R·S·B, C].

    A score is Pr(class | object) · confidence.
    """
    grid = raw.shape[1], raw.shape[2]
    classes, confidences, raw_boxes = split(raw.float(), predictors)
    rows, columns = (torch.arange(cells, device=raw.device) for cells in grid)
    boxes = decode(raw_boxes, columns[None, :, None], rows[:, None, None], grid, variant)
    if variant.linear:  # outputs can be outside 0–1, and the product of two negative ones must not be a score
        classes, confidences = classes.clamp(0, 1), confidences.clamp(0, 1)
    else:
        classes, confidences = classes.softmax(dim=-1), confidences.sigmoid()
    scores = confidences[..., None] * classes[..., None, :]
    return boxes.flatten(1, 3), scores.flatten(1, 3)


def loss(raw: Tensor, targets: GridTargets, predictors: int, variant: Variant) -> dict[str, Tensor]:
    """Compute the terms of equation 3 per image from raw outputs [N, R, S, C + 5B].

    Of a cell's predictors, the one whose box has the highest IoU with the object is responsible for it. The
    target of its confidence is that IoU, and that of all other confidences is 0.
    """
    images, grid = len(raw), (raw.shape[1], raw.shape[2])
    classes, confidences, raw_boxes = split(raw.float().flatten(0, 2), predictors)
    cells = targets.cells
    columns, rows = cells % grid[1], cells // grid[1] % grid[0]
    with torch.no_grad():
        boxes = decode(raw_boxes[cells], columns[:, None], rows[:, None], grid, variant)
        overlaps = _iou(boxes, targets.boxes[:, None])  # [K, B]
        overlap, responsible = overlaps.max(dim=1)
    target_confidences = torch.zeros_like(confidences)
    target_confidences[cells, responsible] = overlap
    weights = torch.full_like(confidences, variant.no_object_weight)
    weights[cells, responsible] = variant.object_weight
    responsible_boxes = raw_boxes[cells, responsible]  # [K, 4]
    across_and_down = _across_and_down(grid, targets.boxes)
    centres = (targets.boxes[:, :2] + targets.boxes[:, 2:]) / 2 * across_and_down
    centres = centres - torch.stack([columns, rows], dim=-1)
    roots = (targets.boxes[:, 2:] - targets.boxes[:, :2]).sqrt()
    if variant.linear:
        confidence_loss = (weights * (confidences - target_confidences).square()).sum()
        one_hot = nn.functional.one_hot(targets.labels, classes.shape[1])
        class_loss = (classes[cells] - one_hot).square().sum()
    else:
        confidence_loss = nn.functional.binary_cross_entropy_with_logits(
            confidences, target_confidences, weights, reduction="sum"
        )
        class_loss = nn.functional.cross_entropy(classes[cells], targets.labels, reduction="sum")
    centre_loss = (_centre(responsible_boxes, variant) - centres).square().sum()
    size_loss = (responsible_boxes[:, 2:] - roots).square().sum()
    return {
        "centre": variant.centre_weight * centre_loss / images,
        "sides": variant.size_weight * size_loss / images,
        "confidence": confidence_loss / images,
        "class": class_loss / images,
    }


def _iou(first: Tensor, second: Tensor) -> Tensor:
    """Return the intersection over union of broadcast boxes, of which the second have an area."""
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    shared = (high - low).clamp(min=0).prod(dim=-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(dim=-1) for boxes in (first, second)]
    return shared / (areas[0] + areas[1] - shared)


def _across_and_down(grid: Grid, like: Tensor) -> Tensor:
    """Return the columns and rows of a grid, [2], with the type and device of another tensor."""
    return like.new_tensor([grid[1], grid[0]])


def _centre(raw_boxes: Tensor, variant: Variant) -> Tensor:
    """Return the position of the centre within the cell, 0–1: […, 4] → […, 2]."""
    return raw_boxes[..., :2] if variant.linear else raw_boxes[..., :2].sigmoid()
