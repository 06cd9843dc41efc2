"""The annotated objects that a detector is trained on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harness.task import Annotations, Sample


def trainable_objects(
    sample: Sample, *, difficult: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the boxes [m, 4] and labels [m] of a sample's objects, except crowds and empty boxes.

    Args:
        difficult: whether to include VOC's difficult objects. The published code of Fast and Faster R-CNN
            (`use_diff`) and of YOLO excludes them; the code of SSD (`train_on_diff_gt`) includes them. If
            excluded, they count as background.
    """
    target = sample.target
    assert isinstance(target, Annotations)
    sides = target.boxes[:, 2:] - target.boxes[:, :2]
    keep = ~target.crowd & (sides > 0).all(axis=1)
    if not difficult:
        keep &= ~target.difficult
    return target.boxes[keep], target.labels[keep]
