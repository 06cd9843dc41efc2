"""The vocabulary: samples, targets, predictions and figures of the three tasks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

TaskName = Literal["translation", "detection", "segmentation"]
TASKS: tuple[TaskName, ...] = get_args(TaskName)

Image: TypeAlias = NDArray[np.uint8]
"""[height, width, 3], RGB, 0–255."""

Mask: TypeAlias = NDArray[np.uint8]
"""[height, width], a class index per pixel."""

IGNORED = 255
"""The value of a mask's pixels that do not count and are not learnt from."""

BACKGROUND = "background"
"""What data sets call the class of a mask's pixels that show no object."""

References: TypeAlias = tuple[str, ...]
"""One or more correct translations of a source."""


@dataclass(frozen=True, eq=False)
class Annotations:
    """What is to be found in one image: `n` objects.

    Boxes are continuous corners (x1, y1, x2, y2) in pixels, COCO's convention: a box that covers the
    single pixel (0, 0) is (0, 0, 1, 1). VOC's inclusive pixels are converted by its loader.
    """

    boxes: NDArray[np.float64]  # [n, 4]
    labels: NDArray[np.int64]  # [n], indices into the data set's classes
    areas: NDArray[np.float64]  # [n], px²; COCO takes the mask's area, not the box's
    crowd: NDArray[np.bool_]  # [n], one box around many objects; may absorb many detections
    difficult: NDArray[np.bool_]  # [n], VOC: neither found nor missed

    @staticmethod
    def of_boxes(boxes: object, labels: object) -> Annotations:
        """Plain objects: the area is the box's, none is crowd or difficult."""
        corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
        sides = corners[:, 2:] - corners[:, :2]
        none = np.zeros(len(corners), dtype=bool)
        return Annotations(
            corners,
            np.asarray(labels, dtype=np.int64).reshape(-1),
            sides[:, 0] * sides[:, 1],
            none,
            none,
        )


@dataclass(frozen=True, eq=False)
class Detections:
    """What a model found in one image, in the order it reported them (ties keep this order)."""

    boxes: NDArray[np.float32]  # [n, 4], continuous corners x1 y1 x2 y2 in pixels of the original image
    scores: NDArray[np.float32]  # [n], 0–1
    labels: NDArray[np.int64]  # [n], indices into the data set's classes


@dataclass(frozen=True)
class Translation:
    """One hypothesis."""

    text: str


Input: TypeAlias = str | Image
Target: TypeAlias = References | Annotations | Mask
Prediction: TypeAlias = Translation | Detections | Mask


@dataclass(frozen=True, eq=False)
class Sample:
    """One item of a data set. The target is None where a model must not see it."""

    id: str
    input: Input
    target: Target | None = None


@dataclass(frozen=True, eq=False)
class Alignment:
    """What a translation model looked at in the source as it wrote each token."""

    source: tuple[str, ...]  # S tokens as the model reads them, its end-of-sentence token included
    target: tuple[str, ...]  # T tokens of the translation, likewise
    weights: NDArray[np.float32]  # [T, S], 0–1; each row sums to 1


@dataclass(frozen=True)
class Figure:
    """A number that knows what it is.

    `value` is None where the metric is undefined (no positives, say), never −1 or 0. `low` and `high`
    bound its 95% interval. `n` counts what it was computed over. `signature` names every choice that
    changes the number, so that two figures can be compared at a glance.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    unit: str
    signature: str


@dataclass(frozen=True)
class Scores:
    """What a metric says of one trial."""

    metrics: dict[str, Figure]
    per_class: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """Class name → metric name → value."""
