"""Intersection over union of semantic segmentation, from one confusion matrix over the whole data set.

With n_ij pixels of class i predicted as j, t_i = Σ_j n_ij and p_j = Σ_i n_ij (Long et al. 2015 §5):

    IoU_i = n_ii / (t_i + p_i − n_ii)      accuracy_i = n_ii / t_i
    pixel accuracy = Σ n_ii / Σ t_i        frequency-weighted IoU = Σ t_i IoU_i / Σ t_i

All of them follow from n_ii, t_i and p_i, which are therefore the statistics of an image. The mean IoU
excludes classes that are neither annotated nor predicted; the mean accuracy excludes classes that are not
annotated.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from harness.errors import UsageError
from harness.metrics.metric import Computed, CountMetric, Groups, Values
from harness.statistics.jackknife import mean_defined
from harness.task import BACKGROUND, Mask

CODES = 256  # possible values of a mask's pixel
VERSION = 1  # of the signature; raise it when the meaning of a figure changes
BOUNDARY_RATIO = 0.02  # boundary width as a fraction of the image diagonal, Cheng et al. 2021 §5.1


class Iou(CountMetric[Mask, Mask]):
    """Mean, frequency-weighted, foreground and boundary IoU, and pixel and mean accuracy; 0–1.

    Foreground IoU is the mean over all classes except `background`. It is not the binary IoU of objects
    against background. It is undefined if no class has that name.

    Boundary IoU (Cheng et al. 2021) is the IoU of the pixels within the boundary width of their own class
    mask's edge, summed over the data set as for IoU.

    Options: `ignore_index`, the annotated value whose pixels are excluded from annotation and prediction.
    """

    task = "segmentation"
    bounds = (0.0, 1.0)
    names = (
        *("miou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou"),
        *("boundary_iou", "foreground_iou"),
    )

    def __init__(
        self, classes: Sequence[str] = (), ignore_index: int | None = None, **options: object
    ) -> None:
        super().__init__(classes, **options)
        if not 1 <= len(self.classes) <= CODES:
            raise UsageError(f"classes: expected 1 to {CODES} of them, found {len(self.classes)}")
        if ignore_index is not None and not len(self.classes) <= ignore_index < CODES:
            if len(self.classes) == CODES:
                raise UsageError(f"ignore_index: {CODES} classes leave no value for it, found {ignore_index}")
            raise UsageError(
                f"ignore_index: expected a value that is not a class, {len(self.classes)} to {CODES - 1}, "
                f"found {ignore_index}"
            )
        self._ignore = ignore_index
        self._signature = (
            f"iou|classes:{len(self.classes)}|ignore:{'none' if ignore_index is None else ignore_index}"
            f"|boundary:{BOUNDARY_RATIO}|v:{VERSION}"
        )

    def statistics(self, target: Mask, prediction: Mask) -> NDArray[np.int64]:
        """Count the pixels of one image: [5, classes].

        The rows are correct, annotated and predicted pixels, then intersection and union of boundary pixels.
        Other sizes and values that are neither a class nor the ignore index are UsageErrors.
        """
        if target.shape != prediction.shape:
            raise UsageError(
                f"the annotation is {size_text(target)}, the prediction {size_text(prediction)} pixels "
                f"(width × height)"
            )
        pairs = _count_pairs(target, prediction)
        self._check(pairs)
        if self._ignore is not None and pairs[self._ignore].any():
            prediction = np.where(target == self._ignore, np.uint8(self._ignore), prediction)
            pairs[self._ignore] = 0
        n = len(self.classes)
        areas = pairs.diagonal()[:n], pairs.sum(axis=1)[:n], pairs.sum(axis=0)[:n]
        return np.stack([*areas, *boundary_counts(target, prediction, n)])

    def compute(self, statistics: Sequence[NDArray[np.int64]], groups: Groups) -> Computed:
        computed = super().compute(statistics, groups)
        carriers = sum((counts[1] > 0 for counts in statistics), start=np.zeros(len(self.classes), np.int64))
        averaged = ("miou", "mean_accuracy", "boundary_iou", "foreground_iou")
        return replace(computed, carriers=dict.fromkeys(averaged, carriers))

    def signature(self, name: str, statistics: Sequence[NDArray[np.int64]]) -> str:  # noqa: ARG002
        return self._signature

    def _check(self, pairs: NDArray[np.int64]) -> None:
        """Raise a UsageError unless each value is a class, or is the ignore index where that is annotated."""
        n = len(self.classes)
        known = np.zeros(CODES, dtype=bool)
        known[:n] = True
        expected = f"0 to {n - 1}"
        if self._ignore is not None:
            known[self._ignore] = True
            expected += f", or {self._ignore} for ignored"
        for side, counts in (("annotation", pairs.sum(axis=1)), ("prediction", pairs.sum(axis=0))):
            if counts[~known].any():
                value = np.flatnonzero(~known & (counts > 0))[0]
                raise UsageError(f"the {side} has pixels of value {value}; expected {expected}")
        if self._ignore is not None and pairs[:n, self._ignore].any():
            raise UsageError(
                f"the prediction has the ignore index {self._ignore} where a class is annotated; "
                f"expected 0 to {n - 1} there; if {self._ignore} means a class, declare that label, as in "
                f"background=0,object=1+{self._ignore}"
            )

    def figures(self, sums: NDArray[np.int64]) -> Values:
        by_class = self.class_figures(sums)
        iou = by_class["iou"]
        correct, annotated = sums[:, 0], sums[:, 1]
        pixels = annotated.sum(axis=1)
        objects = [label for label, name in enumerate(self.classes) if name != BACKGROUND]
        foreground = iou[:, objects if BACKGROUND in self.classes else []]
        return {
            "miou": mean_defined(iou, 1),
            "pixel_accuracy": _ratio(correct.sum(axis=1), pixels),
            "mean_accuracy": mean_defined(by_class["accuracy"], 1),
            "frequency_weighted_iou": _ratio((annotated * np.nan_to_num(iou)).sum(axis=1), pixels),
            "boundary_iou": mean_defined(by_class["boundary_iou"], 1),
            "foreground_iou": mean_defined(foreground, 1),
        }

    def class_figures(self, sums: NDArray[np.int64]) -> Values:
        correct, annotated, predicted, intersection, union = np.moveaxis(sums, 1, 0)
        return {
            "iou": _ratio(correct, annotated + predicted - correct),
            "accuracy": _ratio(correct, annotated),
            "boundary_iou": _ratio(intersection, union),
        }


def boundary_counts(target: Mask, prediction: Mask, classes: int) -> NDArray[np.int64]:
    """Count each class's boundary pixels in the intersection and in the union of the masks: [2, classes].

    Pixels that do not count must have the same value in both masks, and it must not be a class.
    """
    at_target, at_prediction = boundary(target), boundary(prediction)
    both = _histogram(target[at_target & at_prediction & (target == prediction)])
    either = _histogram(target[at_target]) + _histogram(prediction[at_prediction]) - both
    return np.stack([both[:classes], either[:classes]])


def boundary(mask: Mask) -> NDArray[np.bool_]:
    """Mark the pixels that d erosions by a 3×3 square remove from their class's mask: [height, width].

    d = max(1, round(0.02 · diagonal)) (Cheng et al. 2021 §5.1); pixels outside the image are no class. d
    erosions by 3×3 equal one erosion by (2d + 1)², which keeps a pixel if and only if that square around it
    contains a single class. One pass therefore serves all classes.
    """
    height, width = mask.shape
    d = max(1, round(BOUNDARY_RATIO * float(np.hypot(height, width))))
    edge = np.ones(mask.shape, dtype=bool)
    if min(height, width) > 2 * d:
        across = _all_in_window(mask[:, 1:] == mask[:, :-1], 2 * d, axis=1)  # [height, width − 2d]
        down = (mask[1:] == mask[:-1])[:, d : width - d]
        along = _all_in_window(down, 2 * d, axis=0)  # [height − 2d, width − 2d]
        edge[d : height - d, d : width - d] = ~(_all_in_window(across, 2 * d + 1, axis=0) & along)
    return edge


def _all_in_window(flags: NDArray[np.bool_], length: int, axis: int) -> NDArray[np.bool_]:
    """Return whether all flags of each window along the axis are set, by doubling the window's length."""
    windows = np.moveaxis(flags, axis, 0)
    span = 1
    while span < length:
        step = min(span, length - span)
        windows = windows[:-step] & windows[step:]
        span += step
    return np.moveaxis(windows, 0, axis)


def size_text(mask: Mask) -> str:
    """Return `width × height`, as image tools print it."""
    return f"{mask.shape[1]}×{mask.shape[0]}"


def _count_pairs(target: Mask, prediction: Mask) -> NDArray[np.int64]:
    """Count the pixels of each (annotated, predicted) pair of values: [256, 256]."""
    codes = (target.astype(np.uint16) << 8) | prediction
    return np.bincount(codes.ravel(), minlength=CODES * CODES).reshape(CODES, CODES)


def _histogram(values: NDArray[np.uint8]) -> NDArray[np.int64]:
    return np.bincount(values, minlength=CODES)


def _ratio(part: NDArray[np.int64] | NDArray[np.float64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """Divide part by whole; NaN if the whole is 0."""
    ratio: NDArray[np.float64] = np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
    return ratio
