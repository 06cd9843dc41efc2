"""Detector weights published by torchvision: conversion of their names, their options and classes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from adapters.vision.published import published_classes
from harness.errors import UsageError

# Names up to torchvision 0.12 → since; all other names of `fasterrcnn_resnet50_fpn` are used here unchanged.
_FASTER_RCNN = (
    (re.compile(r"^rpn\.head\.conv\.(weight|bias)$"), r"rpn.head.conv.0.0.\1"),
    (re.compile(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$"), r"\1.0.\2"),
)
# Names of torchvision's `ssd300_vgg16` → those of `adapters.detection.ssd`.
_SSD = (
    (re.compile(r"^backbone\.scale_weight$"), r"scale"),
    (re.compile(r"^backbone\.features\.(\d+)\."), r"fine.\1."),
    (re.compile(r"^backbone\.extra\.0\.7\.1\."), "deep.8."),
    (re.compile(r"^backbone\.extra\.0\.7\.3\."), "deep.10."),
    (re.compile(r"^backbone\.extra\.0\.(\d)\."), r"deep.\1."),
    (re.compile(r"^backbone\.extra\.1\."), "extra.0."),
    (re.compile(r"^backbone\.extra\.2\."), "extra.1."),
    (re.compile(r"^backbone\.extra\.3\."), "extra.2."),
    (re.compile(r"^backbone\.extra\.4\."), "extra.3."),
    (re.compile(r"^head\.classification_head\.module_list\."), "heads.classes."),
    (re.compile(r"^head\.regression_head\.module_list\."), "heads.offsets."),
)
FIRST_MAP_BOXES = 4  # default boxes per cell of SSD's first map, Liu et al. 2016 §3.1


@dataclass(frozen=True, eq=False)
class FasterRcnnWeights:
    """Published weights of `fasterrcnn_resnet50_fpn` under torchvision's current names."""

    tensors: dict[str, Tensor]
    epsilon: float
    """Set the epsilon of the frozen batch normalisation."""
    classes: tuple[str, ...]


def faster_rcnn_weights(adapter: str, tensors: Mapping[str, Tensor]) -> FasterRcnnWeights:
    """Read weights in either generation of torchvision's names.

    A file without batch counters has frozen normalisation and is taken for COCO_V1, whose epsilon is 0.

    Raises:
        UsageError: the weights are not of this model.
    """
    classes = _length(adapter, tensors, "roi_heads.box_predictor.cls_score.bias") - 1
    used = {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
    epsilon = 1e-5 if len(used) < len(tensors) else 0.0
    return FasterRcnnWeights(_renamed(used, _FASTER_RCNN), epsilon, published_classes(classes))


def ssd_classes(adapter: str, tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Return the classes of weights of `ssd300_vgg16`.

    Raises:
        UsageError: the weights are not of this model.
    """
    logits = _length(adapter, tensors, "head.classification_head.module_list.0.bias")
    return published_classes(logits // FIRST_MAP_BOXES - 1)


def ssd_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of `ssd300_vgg16` for `ssd`, which has the same layers in the same order."""
    return _renamed(tensors, _SSD)


def _length(adapter: str, tensors: Mapping[str, Tensor], name: str) -> int:
    if name not in tensors:
        raise UsageError(f"adapter '{adapter}': the file has no tensor '{name}', as torchvision's files have")
    return len(tensors[name])


def _renamed(
    tensors: Mapping[str, Tensor], names: tuple[tuple[re.Pattern[str], str], ...]
) -> dict[str, Tensor]:
    renamed = dict(tensors)
    for pattern, replacement in names:
        renamed = {pattern.sub(replacement, name): tensor for name, tensor in renamed.items()}
    return renamed
