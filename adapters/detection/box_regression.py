"""Boxes as offsets from a reference box: (tx, ty, tw, th) of Girshick et al. 2014, appendix C.

    tx = (x − xᵣ) / wᵣ,  ty = (y − yᵣ) / hᵣ,  tw = ln(w / wᵣ),  th = ln(h / hᵣ)

with (x, y) the centre of a box and r its reference (a proposal, an anchor, a default box). Each offset is
multiplied by a weight, so that all four have a similar scale during training.
"""

import math

import torch
from torch import Tensor

Weights = tuple[float, float, float, float]
UNIT_WEIGHTS: Weights = (1.0, 1.0, 1.0, 1.0)  # region proposal networks, Ren et al. 2015 equation 2
# Region classifiers and SSD: the reciprocals of the standard deviations .1 and .2, by which Girshick's and
# Liu's published code divide.
SCALED_WEIGHTS: Weights = (10.0, 10.0, 5.0, 5.0)
# Upper limit of tw and th when decoding, which keeps exp finite; as in Detectron and torchvision.
MAX_LOG_RATIO = math.log(1000 / 16)


def encode(boxes: Tensor, references: Tensor, weights: Weights) -> Tensor:
    """Encode boxes relative to references, both corners […, 4] with positive sides, as offsets […, 4]."""
    centres, sides = _centres_and_sides(boxes)
    reference_centres, reference_sides = _centres_and_sides(references)
    offsets = torch.cat(
        [(centres - reference_centres) / reference_sides, (sides / reference_sides).log()], dim=-1
    )
    return offsets * offsets.new_tensor(weights)


def decode(offsets: Tensor, references: Tensor, weights: Weights) -> Tensor:
    """Invert `encode`: offsets […, 4] and references, broadcastable → corners […, 4]."""
    reference_centres, reference_sides = _centres_and_sides(references)
    unscaled = offsets / offsets.new_tensor(weights)
    centres = reference_centres + unscaled[..., :2] * reference_sides
    half = unscaled[..., 2:].clamp(max=MAX_LOG_RATIO).exp() * reference_sides / 2
    return torch.cat([centres - half, centres + half], dim=-1)


def _centres_and_sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    sides = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + sides / 2, sides
