"""Which classes are taken for which, pixel by pixel, and images ranked by their own mean IoU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.analysis.analyser import Analyser, Pick, Pictures, pick
from harness.analysis.images import colour, error_file, image_file, mask_file
from harness.analysis.ratios import ratios
from harness.analysis.record import ClassIou, SegmentationAnalysis, ShownMasks
from harness.metrics.iou import boundary_counts
from harness.task import BACKGROUND, Mask, Sample


class SegmentationAnalyser(Analyser):
    """The confusion matrix of all pixels but the ignored ones, which are those annotated as no class."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = tuple(classes)
        self._confusion = np.zeros((len(classes), len(classes)), dtype=np.int64)
        # Of each image [5, classes]: correct, annotated, predicted; boundary pixels in both masks, in either.
        self._counts: list[NDArray[np.int64]] = []

    def add(self, sample: Sample, prediction: Mask) -> None:
        target: Any = sample.target
        pairs = confusion(target, prediction, len(self._classes))
        self._confusion += pairs
        areas = pairs.diagonal(), pairs.sum(axis=1), pairs.sum(axis=0)
        counted = np.where(target < len(self._classes), prediction, target)
        self._counts.append(np.stack([*areas, *boundary_counts(target, counted, len(self._classes))]))

    def picks(self) -> list[Pick]:
        counts = self._stacked()
        union = counts[:, 1] + counts[:, 2] - counts[:, 0]
        present = (union > 0).sum(axis=1)
        iou = np.divide(counts[:, 0], union, out=np.zeros(union.shape), where=union > 0).sum(axis=1)
        # An image that is ignored as a whole has nothing wrong.
        scores = np.divide(iou, present, out=np.ones(len(iou)), where=present > 0)
        objects = [place for place, name in enumerate(self._classes) if name != BACKGROUND]
        return pick(scores.tolist(), (union[:, objects] > 0).sum(axis=1).tolist())

    def show(self, pick: Pick, sample: Sample, prediction: Mask) -> tuple[ShownMasks, Pictures]:
        image: Any = sample.input
        target: Any = sample.target
        stem = f"samples/{pick.index:08d}"
        files = {
            "image": (f"{stem}.webp", image_file(image)),
            "annotation": (f"{stem}-annotation.png", mask_file(target, len(self._classes))),
            "prediction": (f"{stem}-prediction.png", mask_file(prediction, len(self._classes))),
            "errors": (f"{stem}-errors.png", error_file(target, prediction, len(self._classes))),
        }
        shown = ShownMasks(
            index=pick.index,
            id=sample.id,
            role=pick.role,
            score=pick.score,
            width=image.shape[1],
            height=image.shape[0],
            **{part: path for part, (path, _) in files.items()},
        )
        return shown, dict(files.values())

    def conclude(self, shown: Sequence[ShownMasks]) -> SegmentationAnalysis:
        counts = self._stacked()
        correct, annotated, predicted, both, either = np.moveaxis(counts, 1, 0)
        iou = ratios(correct, annotated + predicted - correct, f"class_iou|classes:{len(self._classes)}")
        accuracy = ratios(correct, annotated, f"class_accuracy|classes:{len(self._classes)}")
        boundary_iou = ratios(both, either, f"class_boundary_iou|classes:{len(self._classes)}")
        return SegmentationAnalysis(
            n=len(counts),
            ranked_by="mean IoU of the image over the classes annotated or predicted in it",
            classes=list(self._classes),
            colours=["#{:02x}{:02x}{:02x}".format(*colour(label)) for label in range(len(self._classes))],
            per_class=[
                ClassIou(
                    label=label,
                    iou=iou[index],
                    accuracy=accuracy[index],
                    boundary_iou=boundary_iou[index],
                    annotated=int(annotated[:, index].sum()),
                    predicted=int(predicted[:, index].sum()),
                )
                for index, label in enumerate(self._classes)
            ],
            confusion=self._confusion.tolist(),
            samples=list(shown),
        )

    def _stacked(self) -> NDArray[np.int64]:
        return np.array(self._counts, dtype=np.int64).reshape(-1, 5, len(self._classes))


def confusion(target: Mask, prediction: Mask, classes: int) -> NDArray[np.int64]:
    """Pixels of class i predicted as j, [classes, classes]; those annotated as no class are left out."""
    counted = target < classes
    codes = target[counted].astype(np.int64) * classes + prediction[counted]
    return np.bincount(codes, minlength=classes * classes).reshape(classes, classes)
