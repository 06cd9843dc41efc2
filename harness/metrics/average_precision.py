"""Average precision of detection: COCO's twelve figures, and VOC's mean over classes (2007 and 2010).

AP = 1/N Σ_r p(r), p(r) = max over r' ≥ r of the precision at recall r', over N recall levels r.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from harness.errors import UsageError
from harness.metrics.matching import MAX_DETECTIONS, Matches, joined, match_coco, match_voc, split
from harness.metrics.metric import RESAMPLES, SEED, Metric
from harness.metrics.precision_recall import Curves, average_precision, pool, recall
from harness.statistics.bootstrap import defined_or_none, figure, mean_defined, resample_counts
from harness.task import Annotations, Detections, Scores

VERSION: Final = 1  # of the signatures; raise it with any change of what a figure means
COCO_AREAS: Final = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}  # px²
COCO_RECALLS: Final = np.linspace(0, 1, 101)
# COCO compares a recall with linspace's values, some of which lie above the hundredth they stand for.
LATE: Final = np.arange(101) / 100 < COCO_RECALLS
COCO_LIMITS: Final = ((0, 1), (0, 10), *((area, MAX_DETECTIONS) for area in range(4)))
"""(area range, most detections per class and image) of the six recalls; range 0 is all sizes."""


Resampled: TypeAlias = dict[str, NDArray[np.float64]]


class AveragePrecision(Metric):
    """What the protocols share: curves per class, of the data set and of its resamples."""

    task = "detection"
    signature: str
    limits: tuple[tuple[int, int], ...] = ()

    @abstractmethod
    def statistics(self, target: Annotations, prediction: Detections) -> Matches:
        """Which detections of an image found an annotation."""

    @abstractmethod
    def _figures(self, curves: Sequence[Curves], weights: NDArray[np.int32]) -> tuple[Resampled, Resampled]:
        """Of R resamples with weights [n, R]: figures by name, [R], and class figures, [classes, R]."""

    def summarise(
        self, statistics: Sequence[Matches], resamples: int = RESAMPLES, seed: int = SEED
    ) -> Scores:
        """Figures of 0–1, per class too; None where no annotation counts."""
        n = len(statistics)
        if not n or not self.classes:
            about = (np.nan, np.empty(0), n, "fraction")
            return Scores({name: figure(*about, self._signature(name)) for name in self.names})
        curves = pool(statistics, len(self.classes), self.limits)
        values, by_class = self._figures(curves, np.ones((n, 1), dtype=np.int32))
        resampled = self._resampled(curves, n, resamples, seed)
        metrics = {
            name: figure(
                values[name][0], resampled[name], n, "fraction", self._signature(name), name in self.reflected
            )
            for name in self.names
        }
        per_class = {
            label: {name: defined_or_none(rows[index, 0]) for name, rows in by_class.items()}
            for index, label in enumerate(self.classes)
        }
        return Scores(metrics, per_class)

    def resample(
        self, statistics: Sequence[Matches], resamples: int = RESAMPLES, seed: int = SEED
    ) -> Resampled:
        """All figures of every resample; none without images or classes."""
        if not statistics or not self.classes:
            return dict.fromkeys(self.names, np.empty(0))
        curves = pool(statistics, len(self.classes), self.limits)
        return self._resampled(curves, len(statistics), resamples, seed)

    def pack(self, statistics: Sequence[Matches]) -> dict[str, NDArray[Any]]:
        """As `joined`."""
        return joined(statistics)

    def unpack(self, arrays: Mapping[str, NDArray[Any]]) -> list[Matches]:
        """As `split`."""
        return split(arrays)

    def _signature(self, name: str) -> str:
        method = "basic" if name in self.reflected else "percentile"
        return f"{self.signature}|interval:{method}|v:{VERSION}"

    def _resampled(self, curves: Sequence[Curves], n: int, resamples: int, seed: int) -> Resampled:
        chunks = [self._figures(curves, counts)[0] for counts in resample_counts(n, resamples, seed)]
        return {
            name: np.concatenate([np.empty(0), *(chunk[name] for chunk in chunks)]) for name in self.names
        }


class Coco(AveragePrecision):
    """COCO's AP over ten IoU thresholds and 101 recall levels, and AR, overall and by size.

    Options: `area_ranges`, closed ranges in px² of small, medium and large.
    """

    names = (
        *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
        *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
    )
    reflected = frozenset(name for name in names if name.startswith("ap"))
    limits = COCO_LIMITS

    def __init__(
        self,
        classes: Sequence[str] = (),
        area_ranges: Mapping[str, Sequence[float]] = COCO_AREAS,
        **options: Any,
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
        most = "-".join(str(limit) for _, limit in COCO_LIMITS[:3])
        self.signature = f"coco|iou:0.50:0.05:0.95|recalls:101|areas:{areas}|maxdets:{most}"

    def statistics(self, target: Annotations, prediction: Detections) -> Matches:
        """COCO's greedy assignment within each area range."""
        return match_coco(target, prediction, self._ranges)

    def _figures(self, curves: Sequence[Curves], weights: NDArray[np.int32]) -> tuple[Resampled, Resampled]:
        precisions = np.array([average_precision(curve, weights, coco_levels) for curve in curves])
        recalls = np.array([recall(curve, weights, COCO_LIMITS) for curve in curves])
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
    """The VOC devkit's mean AP over the classes with positives, at one IoU threshold.

    Options: `iou`, reached at equality.
    """

    names = ("map",)
    protocol: str

    def __init__(self, classes: Sequence[str] = (), iou: float = 0.5, **options: Any) -> None:
        super().__init__(classes, **options)
        if not 0 < iou <= 1:
            raise UsageError(f"iou: expected a threshold above 0 and up to 1, found {iou}")
        self._iou = iou
        self.signature = f"{self.protocol}|iou:{iou:g}"

    @staticmethod
    @abstractmethod
    def levels(found: NDArray[np.int64], positives: NDArray[np.int32]) -> NDArray[np.float64]:
        """The share of recall levels reached."""

    def statistics(self, target: Annotations, prediction: Detections) -> Matches:
        """The devkit's assignment, without fallback."""
        return match_voc(target, prediction, self._iou)

    def _figures(self, curves: Sequence[Curves], weights: NDArray[np.int32]) -> tuple[Resampled, Resampled]:
        precisions = np.array([average_precision(curve, weights, self.levels)[0, 0] for curve in curves])
        return {"map": mean_defined(precisions, 0)}, {"ap": precisions}


class Voc07(Voc):
    """Eleven recall levels, at exactly k/10 (VOC 2007–2009).

    A figure that moves in steps of 1/11 a class: its bounds are not reflected, which covers less.
    """

    protocol = "voc07"

    @staticmethod
    def levels(found: NDArray[np.int64], positives: NDArray[np.int32]) -> NDArray[np.float64]:
        """Whole tenths: the quotient of integers is rounded correctly, so its floor is exact."""
        return (np.floor(found * 10 / positives) + 1) / 11


class Voc10(Voc):
    """Area under the precision envelope, at every recall step (VOC 2010–2012)."""

    protocol = "voc10"
    reflected = frozenset(Voc.names)

    @staticmethod
    def levels(found: NDArray[np.int64], positives: NDArray[np.int32]) -> NDArray[np.float64]:
        """Every step counts as much as it adds to recall."""
        return found / positives


def coco_levels(found: NDArray[np.int64], positives: NDArray[np.int32]) -> NDArray[np.float64]:
    """How many of the 101 levels a recall of found/positives reaches, as COCO's comparison decides it."""
    hundredths = found * 100 / positives
    whole = np.floor(hundredths)
    late = (hundredths == whole) & LATE[whole.astype(np.intp)]
    return (whole + 1 - late) / 101
