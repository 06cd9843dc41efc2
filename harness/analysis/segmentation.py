"""Analysis of segmentation: which classes are confused, pixel by pixel, and images ranked by mean IoU."""

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from harness.analysis.analyser import Analyser, ImageFiles, Pick, ratios
from harness.analysis.images import colour, error_file, image_file, mask_file
from harness.analysis.record import ClassIou, SegmentationAnalysis, ShownMasks
from harness.metrics.iou import boundary_counts
from harness.task import BACKGROUND, Image, Mask, Sample


class SegmentationAnalyser(Analyser[Mask, ShownMasks]):
    """Collects a confusion matrix and the counts of each image.

    Pixels whose annotated value is not a class are ignored.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = tuple(classes)
        self._confusion = np.zeros((len(classes), len(classes)), dtype=np.int64)
        # Per image [5, classes]: correct, annotated and predicted pixels; boundary pixels in both masks, and
        # in either.
        self._counts: list[NDArray[np.int64]] = []

    def add(self, sample: Sample, prediction: Mask) -> None:
        target = cast(Mask, sample.target)
        pairs = confusion_matrix(target, prediction, len(self._classes))
        self._confusion += pairs
        areas = pairs.diagonal(), pairs.sum(axis=1), pairs.sum(axis=0)
        counted = np.where(target < len(self._classes), prediction, target)
        self._counts.append(np.stack([*areas, *boundary_counts(target, counted, len(self._classes))]))

    def columns(self) -> dict[str, NDArray[np.float64]]:
        """Return the number of annotated classes without the background, and their share of the pixels."""
        counts = self._stacked()
        union = counts[:, 1] + counts[:, 2] - counts[:, 0]
        present = (union > 0).sum(axis=1)
        iou = np.divide(counts[:, 0], union, out=np.zeros(union.shape), where=union > 0).sum(axis=1)
        annotated = counts[:, 1]
        pixels = annotated.sum(axis=1)
        objects = self._objects()
        share = np.full(len(counts), np.nan)
        return {
            # An image whose pixels are all ignored has no errors: its score is 1.
            "score": np.divide(iou, present, out=np.ones(len(iou)), where=present > 0),
            "classes": (annotated[:, objects] > 0).sum(axis=1).astype(np.float64),
            "object share": np.divide(annotated[:, objects].sum(axis=1), pixels, out=share, where=pixels > 0),
            "shown": (union[:, objects] > 0).sum(axis=1).astype(np.float64),
        }

    def _objects(self) -> list[int]:
        return [label for label, name in enumerate(self._classes) if name != BACKGROUND]

    def show(self, pick: Pick, sample: Sample, prediction: Mask) -> tuple[ShownMasks, ImageFiles]:
        image, target = cast(Image, sample.input), cast(Mask, sample.target)
        stem = f"samples/{pick.index:08d}"
        classes = len(self._classes)
        shown = ShownMasks(
            **vars(pick),
            id=sample.id,
            width=image.shape[1],
            height=image.shape[0],
            image=f"{stem}.webp",
            annotation=f"{stem}-annotation.png",
            prediction=f"{stem}-prediction.png",
            errors=f"{stem}-errors.png",
        )
        return shown, {
            shown.image: image_file(image),
            shown.annotation: mask_file(target, classes),
            shown.prediction: mask_file(prediction, classes),
            shown.errors: error_file(target, prediction, classes),
        }

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
        """Return the counts of all images: [images, 5, classes]."""
        return np.array(self._counts, dtype=np.int64).reshape(-1, 5, len(self._classes))


def confusion_matrix(target: Mask, prediction: Mask, classes: int) -> NDArray[np.int64]:
    """Count the pixels of class i predicted as j: [classes, classes].

    Pixels whose annotated value is not a class are excluded.
    """
    counted = target < classes
    codes = target[counted].astype(np.int64) * classes + prediction[counted]
    return np.bincount(codes, minlength=classes * classes).reshape(classes, classes)
