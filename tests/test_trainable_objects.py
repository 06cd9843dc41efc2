"""Objects that detectors train on: difficult ones as in the papers' code; never crowds and empty boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from adapters.detection.faster_rcnn import FasterRcnn
from adapters.detection.rcnn import Rcnn
from adapters.detection.ssd import Ssd
from adapters.detection.yolo import Yolo
from adapters.torchvision.faster_rcnn import TorchvisionFasterRcnn
from adapters.torchvision.ssd import TorchvisionSsd
from harness.adapter import Runtime
from harness.task import Annotations, Sample

EASY, DIFFICULT, CROWD, EMPTY = range(4)


def sample() -> Sample:
    boxes = np.array([[5.0, 5, 45, 45], [50, 10, 90, 60], [20, 30, 80, 90], [10, 10, 10, 30]])
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    indices = np.arange(4)
    target = Annotations(boxes, indices.astype(np.int64), areas, indices == CROWD, indices == DIFFICULT)
    return Sample("0", np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8), target)


def trained_labels(adapter: Any) -> set[int]:
    """Labels in any of several batches, because augmentation can remove an object."""
    trained: set[int] = set()
    for seed in range(8):
        batch = adapter.training_batch([sample()], np.random.default_rng(seed))
        if isinstance(adapter, Yolo):
            labels = [batch.targets.labels]
        elif isinstance(adapter, Rcnn):
            labels = batch.images.labels
        elif isinstance(adapter, TorchvisionFasterRcnn | TorchvisionSsd):
            labels = [target["labels"] - 1 for target in batch.targets]
        else:
            labels = batch.labels
        trained |= {int(label) for image_labels in labels for label in image_labels}
    return trained


@pytest.mark.parametrize(
    ("adapter", "options", "expected"),
    [
        (Rcnn, {}, {EASY}),
        (FasterRcnn, {}, {EASY}),
        (FasterRcnn, {"backbone": "resnet50-fpn", "shorter_side": 64, "longer_side": 64}, {EASY}),
        (Yolo, {}, {EASY}),
        (Yolo, {"backbone": "yolov1"}, {EASY}),
        (Ssd, {}, {EASY}),
        (Ssd, {"backbone": "vgg16"}, {EASY, DIFFICULT}),  # as in Liu et al.'s training
        (TorchvisionFasterRcnn, {}, {EASY}),
        (TorchvisionSsd, {}, {EASY, DIFFICULT}),
    ],
)
def test_difficult_objects_are_trained_on_if_the_published_code_does(
    adapter: Any, options: dict[str, Any], expected: set[int]
) -> None:
    assert trained_labels(adapter(adapter.Options(**options), Runtime())) == expected
