"""Average precision of detection: COCO's twelve figures, and VOC's mean over classes (2007 and 2010).

AP = 1/N Σ_r p(r), where p(r) is the highest precision at any recall r' ≥ r, over N recall levels r
(Everingham et al. 2010, §4.2; Lin et al. 2014).
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from harness.errors import UsageError
from harness.metrics import matching
from harness.metrics.matching import MAX_DETECTIONS, Matches
from harness.metrics.metric import Computed, Groups, Metric, StoredArrays, Values
from harness.metrics.precision_recall import Curves, average_precision, average_recall, build_curves
from harness.statistics.jackknife import leave_out_weights, mean_defined
from harness.task import Annotations, Detections

VERSION: Final = 1  # of the signatures; raise it when the meaning of a figure changes
# px², closed ranges, from pycocotools' Params.
COCO_AREAS: Final = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
COCO_RECALLS: Final = np.linspace(0, 1, 101)
# COCO compares a recall with linspace's values, some of which lie above the hundredth that they represent.
ABOVE_HUNDREDTH: Final = np.arange(101) / 100 < COCO_RECALLS
COCO_LIMITS: Final = ((0, 1), (0, 10), *((area, MAX_DETECTIONS) for area in range(4)))
"""(area range, maximum detections per class and image) of the six recalls; range 0 is all sizes."""


class AveragePrecision(Metric[Annotations, Detections, Matches]):
    """The base of the protocols: figures of 0–1 from one curve per class."""

    task = "detection"
    bounds = (0.0, 1.0)
    limits: tuple[tuple[int, int], ...] = ()
    _choices: str
    """Everything that changes a figure, for its signature."""

    area_ranges: tuple[int, ...] = (0,)
    """Index of the area range of each figure."""

    @abstractmethod
    def _figures(self, curves: Sequence[Curves], weights: NDArray[np.int32]) -> tuple[Values, Values]:
        """Compute figures [R] and those of each class [classes, R], both by name, of R weightings [n, R]."""

    def compute(self, statistics: Sequence[Matches], groups: Groups) -> Computed:
        """Compute the figures, overall and per class, 0–1; NaN if no annotation counts."""
        if not self.classes:
            size = 1 if groups is None else int(groups.max()) + 2
            return Computed(dict.fromkeys(self.names, np.full(size, np.nan)))
        curves = build_curves(statistics, len(self.classes), self.limits)
        figures, by_class = self._figures(curves, leave_out_weights(len(statistics), groups))
        carriers = np.stack([curve.carriers for curve in curves], axis=1)  # [A, classes]
        return Computed(
            figures,
            by_class,
            {name: carriers[area] for name, area in zip(self.names, self.area_ranges, strict=True)},
        )

    def signature(self, name: str, statistics: Sequence[Matches]) -> str:  # noqa: ARG002
        return f"{self._choices}|v:{VERSION}"

    def pack(self, statistics: Sequence[Matches]) -> StoredArrays:
        return matching.join_matches(statistics)

    def unpack(self, arrays: StoredArrays) -> list[Matches]:
        return matching.split_matches(arrays)


class Coco(AveragePrecision):
    """COCO's AP over ten IoU thresholds and 101 recall levels, and AR, overall and by size (Lin et al. 2014).

    AP is the mean over thresholds and classes; AR is the recall averaged over thresholds and classes, given
    at most 1, 10 or 100 detections per class and image. The definitions are those of pycocotools' COCOeval.

    Options: `area_ranges`, closed ranges in px² of small, medium and large; `iou_type`, `bbox` or `segm`:
    compare boxes or instance masks.
    """

    names = (
        *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
        *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
    )
    limits = COCO_LIMITS
    area_ranges = (0, 0, 0, 1, 2, 3, *(area for area, _ in COCO_LIMITS))

    def __init__(
        self,
        classes: Sequence[str] = (),
        area_ranges: Mapping[str, Sequence[float]] = COCO_AREAS,
        iou_type: str = "bbox",
        **options: object,
    ) -> None:
        super().__init__(classes, **options)
        if set(area_ranges) != set(COCO_AREAS) or any(
            len(ends) != 2 or ends[0] > ends[1] for ends in area_ranges.values()
        ):
            raise UsageError(
                f"area_ranges: expected ascending [from, to] in px² for small, medium and large, "
                f"found {dict(area_ranges)}"
            )
        ends = [(0.0, COCO_AREAS["large"][1]), *(tuple(area_ranges[size]) for size in COCO_AREAS)]
        self._ranges = np.array(ends, dtype=np.float64)
        areas = ",".join(f"{size}:{area_ranges[size][0]:g}-{area_ranges[size][1]:g}" for size in COCO_AREAS)
        limits = "-".join(str(limit) for _, limit in COCO_LIMITS[:3])
        self._masks = iou_type == "segm"
        compared = "|iou_type:segm" if self._masks else ""
        self._choices = f"coco{compared}|iou:0.50:0.05:0.95|recalls:101|areas:{areas}|maxdets:{limits}"

    def statistics(self, target: Annotations, prediction: Detections) -> Matches:
        return matching.match_coco(target, prediction, self._ranges, self._masks)

    def _figures(self, curves: Sequence[Curves], weights: NDArray[np.int32]) -> tuple[Values, Values]:
        precisions = np.array([average_precision(curve, weights, coco_levels) for curve in curves])
        recalls = np.array([average_recall(curve, weights, COCO_LIMITS) for curve in curves])
        overall, by_size = precisions[:, 0], precisions[:, 1:]  # [classes, T, R], [classes, sizes, T, R]
        figures = [
            mean_defined(overall, (0, 1)),
            mean_defined(overall[:, 0], 0),  # IoU 0.50
            mean_defined(overall[:, 5], 0),  # IoU 0.75
            *(mean_defined(by_size[:, size], (0, 1)) for size in range(3)),
            *mean_defined(recalls, 0),
        ]
        by_class = {"ap": mean_defined(overall, 1), "ap50": overall[:, 0]}
        return dict(zip(self.names, figures, strict=True)), by_class


class Voc(AveragePrecision):
    """The VOC devkit's mean AP over the classes with annotations, at one IoU threshold.

    Options: `iou`, the threshold; an IoU equal to it is a match.
    """

    names = ("map",)
    protocol: ClassVar[str]

    def __init__(self, classes: Sequence[str] = (), iou: float = 0.5, **options: object) -> None:
        super().__init__(classes, **options)
        if not 0 < iou <= 1:
            raise UsageError(f"iou: expected a threshold above 0 and up to 1, found {iou}")
        self._iou = iou
        self._choices = f"{self.protocol}|iou:{iou:g}"

    @staticmethod
    @abstractmethod
    def levels(correct: NDArray[np.int64], positives: NDArray[np.int32]) -> NDArray[np.float64]:
        """Return the fraction of recall levels reached [m, R], from correct [m, R] of positives [R]."""

    def statistics(self, target: Annotations, prediction: Detections) -> Matches:
        return matching.match_voc(target, prediction, self._iou)

    def _figures(self, curves: Sequence[Curves], weights: NDArray[np.int32]) -> tuple[Values, Values]:
        precisions = np.array([average_precision(curve, weights, self.levels)[0, 0] for curve in curves])
        return {"map": mean_defined(precisions, 0)}, {"ap": precisions}


class Voc07(Voc):
    """Mean AP over eleven recall levels, at exactly k/10 (VOC 2007–2009; Everingham et al. 2010, §4.2).

    The AP of a class moves in steps of 1/11.
    """

    protocol = "voc07"

    @staticmethod
    def levels(correct: NDArray[np.int64], positives: NDArray[np.int32]) -> NDArray[np.float64]:
        """Count whole tenths; the quotient of integers is correctly rounded, so its floor is exact."""
        return (np.floor(correct * 10 / positives) + 1) / 11


class Voc10(Voc):
    """Mean area under the precision envelope, at every recall step (VOC 2010–2012, devkit's VOCap.m)."""

    protocol = "voc10"

    @staticmethod
    def levels(correct: NDArray[np.int64], positives: NDArray[np.int32]) -> NDArray[np.float64]:
        """Return the recall: each step counts as much as it adds to recall."""
        return correct / positives


def coco_levels(correct: NDArray[np.int64], positives: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the fraction of the 101 levels that a recall of correct/positives reaches, by COCO's rule."""
    hundredths = correct * 100 / positives
    whole = np.floor(hundredths)
    missed = (hundredths == whole) & ABOVE_HUNDREDTH[whole.astype(np.intp)]
    levels: NDArray[np.float64] = (whole + 1 - missed) / 101
    return levels
