"""Boxes as offsets from a reference box: (tx, ty, tw, th) of Girshick et al. 2014, appendix C.

    tx = (x − xᵣ) / wᵣ,  ty = (y − yᵣ) / hᵣ,  tw = ln(w / wᵣ),  th = ln(h / hᵣ)

with (x, y) the centre of a box and r its reference (a proposal, an anchor, a default box). Each offset is
multiplied by a weight, so that all are of similar size where they are learnt.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Weights = tuple[float, float, float, float]
PLAIN: Weights = (1.0, 1.0, 1.0, 1.0)  # of a region proposal network, Ren et al. 2015 equation 2
# Of region classifiers and SSD: the reciprocals of the offsets' deviations, .1 and .2, that Girshick's and
# Liu's published code divides by.
SCALED: Weights = (10.0, 10.0, 5.0, 5.0)
LARGEST = math.log(1000 / 16)  # of tw and th when decoding: exp stays finite; as in Detectron and torchvision


def encode(boxes: Tensor, references: Tensor, weights: Weights) -> Tensor:
    """Corners […, 4] of boxes and their references, both of positive sides → offsets […, 4]."""
    centres, sides = _centres(boxes)
    origins, units = _centres(references)
    offsets = torch.cat([(centres - origins) / units, (sides / units).log()], dim=-1)
    return offsets * offsets.new_tensor(weights)


def decode(offsets: Tensor, references: Tensor, weights: Weights) -> Tensor:
    """The inverse of `encode`: offsets […, 4] and references, broadcastable → corners […, 4]."""
    origins, units = _centres(references)
    moved = offsets / offsets.new_tensor(weights)
    centres = origins + moved[..., :2] * units
    half = moved[..., 2:].clamp(max=LARGEST).exp() * units / 2
    return torch.cat([centres - half, centres + half], dim=-1)


def _centres(boxes: Tensor) -> tuple[Tensor, Tensor]:
    sides = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + sides / 2, sides
