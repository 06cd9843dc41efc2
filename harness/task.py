"""Vocabulary of the three tasks: samples, targets, predictions and figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

TaskName = Literal["translation", "detection", "segmentation"]
TASKS: tuple[TaskName, ...] = get_args(TaskName)
Better = Literal["higher", "lower"]

Interval: TypeAlias = tuple[float, float]
"""Lower and upper bound."""

Image: TypeAlias = NDArray[np.uint8]
"""[height, width, 3], RGB, 0–255."""

Mask: TypeAlias = NDArray[np.uint8]
"""[height, width], a class index per pixel."""

IGNORED = 255
"""Value of mask pixels that are excluded from training and scoring."""

BACKGROUND = "background"
"""Name of the class of mask pixels that show no object."""

References: TypeAlias = tuple[str, ...]
"""One or more reference translations of a source sentence."""


@dataclass(frozen=True)
class InstanceMasks:
    """The masks of the objects of one image, as COCO's compressed run lengths."""

    size: tuple[int, int]  # height and width in px
    counts: tuple[bytes, ...]  # [n]

    def encoded(self, rows: NDArray[np.int64]) -> list[dict[str, object]]:
        """Return some of the masks as pycocotools takes them."""
        return [{"size": self.size, "counts": self.counts[row]} for row in rows]


@dataclass(frozen=True, eq=False)
class Annotations:
    """The annotated objects of one image, `n` in number.

    Boxes are continuous corners (x1, y1, x2, y2) in pixels, COCO's convention: a box that covers the
    single pixel (0, 0) is (0, 0, 1, 1). VOC's inclusive pixels are converted by its loader.
    """

    boxes: NDArray[np.float64]  # [n, 4]
    labels: NDArray[np.int64]  # [n], indices into the data set's classes
    areas: NDArray[np.float64]  # [n], px²; in COCO the area of the mask, not of the box
    crowd: NDArray[np.bool_]  # [n], one box around many objects, which may match many detections
    difficult: NDArray[np.bool_]  # [n], VOC: neither a match nor a miss counts
    masks: InstanceMasks | None = None  # [n], only where masks are compared in place of boxes

    @staticmethod
    def of_boxes(boxes: object, labels: object) -> Annotations:
        """Return annotations without crowds and difficult objects, with the areas of the boxes.

        Args:
            boxes: [n, 4], array-like.
            labels: [n], array-like.
        """
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
    """Detected objects of one image, in the order of the model's output.

    Detections with equal scores are ranked in this order.
    """

    boxes: NDArray[np.float32]  # [n, 4], continuous corners x1 y1 x2 y2 in pixels of the original image
    scores: NDArray[np.float32]  # [n], 0–1
    labels: NDArray[np.int64]  # [n], indices into the data set's classes
    masks: InstanceMasks | None = None  # [n], only where masks are compared in place of boxes


@dataclass(frozen=True)
class Translation:
    """A translated sentence."""

    text: str


Input: TypeAlias = str | Image
Target: TypeAlias = References | Annotations | Mask
Prediction: TypeAlias = Translation | Detections | Mask


@dataclass(frozen=True, eq=False)
class Sample:
    """One item of a data set. The target is None if the sample is passed to a model for prediction."""

    id: str
    input: Input
    target: Target | None = None
    group: str | None = None
    """Source of the sample, such as a video or document, if samples of one source are not independent."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """Attention of a translation model: weights of the source tokens for each target token."""

    source: tuple[str, ...]  # S source tokens as the model reads them, including its end-of-sentence token
    target: tuple[str, ...]  # T tokens of the translation, including its end-of-sentence token
    weights: NDArray[np.float32]  # [T, S], 0–1; each row sums to 1


@dataclass(frozen=True)
class Figure:
    """A value with its interval, sample size, unit and signature.

    `value` is None if the metric is undefined (for example without positives), never −1 or 0. `low` and
    `high` bound its 95% interval. `n` is the number of items that it was computed over. `signature` names
    every choice that changes the value, so that it shows whether two figures can be compared. `better` is the
    direction of improvement, None where there is none. `note` says why an interval may be wrong.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    value: float | None
    low: float | None
    high: float | None
    n: int
    unit: str
    signature: str
    better: Better | None = None
    note: str | None = None

    @property
    def interval(self) -> Interval | None:
        """Return the bounds, or None if there is no interval."""
        return None if self.low is None or self.high is None else (self.low, self.high)


@dataclass(frozen=True)
class Scores:
    """Figures of one metric for one trial."""

    metrics: dict[str, Figure]
    per_class: dict[str, dict[str, Figure]] = field(default_factory=dict)
    """Class name → metric name → figure, whose n is the number of samples in which the class is annotated."""
