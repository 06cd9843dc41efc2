"""Detector weights published by torchvision: conversion of their names, and their classes."""

import re
from collections.abc import Mapping

from torch import Tensor
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from harness.checkpoint import Checkpoint
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
    *((re.compile(rf"^backbone\.extra\.{n + 1}\."), f"extra.{n}.") for n in range(4)),
    (re.compile(r"^head\.classification_head\.module_list\."), "heads.classes."),
    (re.compile(r"^head\.regression_head\.module_list\."), "heads.offsets."),
)
SSD_LOGITS = "head.classification_head.module_list.0.bias"  # of the first map
FIRST_MAP_BOXES = 4  # default boxes per cell of SSD's first map, Liu et al. 2016 §3.1


def faster_rcnn_checkpoint(
    adapter: str, tensors: Mapping[str, Tensor], options: Mapping[str, object]
) -> Checkpoint:
    """Convert weights of `fasterrcnn_resnet50_fpn` in either generation of torchvision's names.

    A file without batch counters has frozen normalisation and is taken for COCO_V1, whose epsilon is 0. The
    option `epsilon` is added to the given ones.

    Raises:
        UsageError: the weights are not of this model.
    """
    classes = class_count(adapter, tensors, "roi_heads.box_predictor.cls_score.bias") - 1
    used = {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
    epsilon = 1e-5 if len(used) < len(tensors) else 0.0
    renamed = _renamed(used, _FASTER_RCNN)
    return Checkpoint(renamed, adapter, {**options, "epsilon": epsilon}, published_classes(classes))


def ssd_checkpoint(adapter: str, tensors: Mapping[str, Tensor], options: Mapping[str, object]) -> Checkpoint:
    """Convert weights of `ssd300_vgg16`, which has the layers of `ssd` in the same order.

    Raises:
        UsageError: the weights are not of this model.
    """
    logits = class_count(adapter, tensors, SSD_LOGITS)
    classes = published_classes(logits // FIRST_MAP_BOXES - 1)
    return Checkpoint(_renamed(tensors, _SSD), adapter, options, classes)


def published_classes(count: int) -> tuple[str, ...]:
    """Return COCO's class names if torchvision publishes weights with this many classes, else empty names."""
    names: list[str] = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"][1:]
    return tuple(names) if len(names) == count else ("",) * count


def class_count(adapter: str, tensors: Mapping[str, Tensor], name: str) -> int:
    """Return the length of the tensor with a bias per class score.

    Raises:
        UsageError: the file lacks this tensor.
    """
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
