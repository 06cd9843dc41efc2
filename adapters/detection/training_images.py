"""Training images of detectors: the objects that count in them, and how images are varied."""

from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from harness.task import Annotations, Image, Sample

MIRROR_PROBABILITY = 0.5  # per training image; Girshick 2015 §2.3

RegionAugmentation: TypeAlias = Literal["none", "digits", "flip"]
Augmentation: TypeAlias = Literal["none", "digits", "flip", "yolo", "ssd"]
"""The option `augmentation`:

- `digits`: shifts, permuted and inverted colours, no flips.
- `flip`: half of the images are mirrored (Girshick 2015 §2.3).
- `yolo`: also scale, translation, exposure and saturation (Redmon et al. 2016 §2.2).
- `ssd`: also colours, a larger canvas and crops (Liu et al. 2016 §2.2 and §3.6).
"""


class AugmentedImage(NamedTuple):
    """A training image, its remaining boxes, and their indices among the boxes before augmentation."""

    image: Image
    boxes: NDArray[np.float64]  # [m, 4], px
    indices: NDArray[np.int64]  # [m]


def mirrored(image: Image, boxes: NDArray[np.float64]) -> tuple[Image, NDArray[np.float64]]:
    """Mirror an image and its boxes [m, 4] from left to right."""
    width = image.shape[1]
    x1, y1, x2, y2 = boxes.T
    return np.ascontiguousarray(image[:, ::-1]), np.stack([width - x2, y1, width - x1, y2], axis=1)


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
