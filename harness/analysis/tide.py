"""Types of detection errors and what each costs: TIDE (Bolya et al. 2020, §2).

Every false positive has one type, which depends on its highest IoU with annotations of its own class and of
other classes. An annotation is missed if no detection matches it or has a localisation or classification
error about it.

The cost of a type is dAP: how much AP at IoU .5 rises if an oracle fixes these errors and no others.

The paper does not define the order in which the types are tested. This module follows the authors' toolbox
(tidecv): localisation, classification, duplicate, background, both.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from harness.analysis.curves import average_precisions
from harness.analysis.record import ErrorEffect, ErrorType
from harness.metrics.matching import MAX_DETECTIONS, Matches, box_iou, rank_detections
from harness.statistics.jackknife import figure, mean_defined
from harness.task import Annotations, Detections, Figure

FOREGROUND, BACKGROUND = 0.5, 0.1  # IoU t_f and t_b, Bolya et al. 2020 §2.2
VERSION = 1  # of the signature; raise it when the meaning of dAP changes
SIGNATURE = f"tide|tf:{FOREGROUND}|tb:{BACKGROUND}|recalls:101|maxdets:{MAX_DETECTIONS}|v:{VERSION}"

ERRORS: tuple[ErrorType, ...] = get_args(ErrorType)
STATES = ("correct", "ignored", *ERRORS)  # states of a detection; only an annotation can be `missed`
CORRECT, IGNORED, CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, IN_BACKGROUND, _ = range(len(STATES))


@dataclass(frozen=True, eq=False)
class ImageErrors:
    """Hold an image's d detections, by class and descending score, with their states, and g annotations."""

    order: NDArray[np.int64]  # [d], indices into the prediction
    scores: NDArray[np.float64]  # [d]
    labels: NDArray[np.int64]  # [d]
    states: NDArray[np.int8]  # [d], indices into STATES
    # [d], index of the annotation that the detection matches, or that its localisation or classification
    # error is about; else −1
    annotations: NDArray[np.int64]
    # [r, 2], (unmatched detection, annotation of another class) with IoU ≥ t_f, by descending score, then IoU
    confused: NDArray[np.int64]
    positives: NDArray[np.int64]  # [g], labels
    counted: NDArray[np.bool_]  # [g], neither crowd nor difficult

    @property
    def detected(self) -> NDArray[np.bool_]:
        """Tell whether a correct detection matches each annotation: [g]."""
        return self._mark_annotations(self.states == CORRECT)

    def missed(self, min_score: float = -np.inf) -> NDArray[np.bool_]:
        """Mark the annotations that count and that no detection matches or is wrong about: [g].

        Only detections with at least `min_score` are considered.
        """
        near = (self.states == CORRECT) | (self.states == CLASSIFICATION) | (self.states == LOCALISATION)
        return self.counted & ~self._mark_annotations(near & (self.scores >= min_score))

    def _mark_annotations(self, detections: NDArray[np.bool_]) -> NDArray[np.bool_]:
        marks = np.zeros(len(self.positives), dtype=bool)
        marks[self.annotations[detections]] = True
        return marks


def classify_errors(target: Annotations, detections: Detections) -> ImageErrors:
    """Match by COCO's rules at IoU t_f, then sort the unmatched detections into types of error."""
    order, ranks = rank_detections(detections)
    order = order[ranks < MAX_DETECTIONS]
    labels = detections.labels[order]
    ignored = target.crowd | target.difficult
    overlap = box_iou(detections.boxes[order].astype(np.float64), target.boxes, target.crowd)
    same_class = labels[:, None] == target.labels
    annotations = _match_greedily(overlap * same_class, target.crowd, ignored)
    matched = annotations >= 0
    same = overlap * (same_class & ~ignored)
    other = overlap * (~same_class & ~ignored)
    same_best, other_best = same.max(axis=1, initial=0.0), other.max(axis=1, initial=0.0)
    states = np.select(
        [
            matched & ignored[annotations] if len(ignored) else matched,
            matched,
            (same_best >= BACKGROUND) & (same_best < FOREGROUND),
            other_best >= FOREGROUND,
            same_best >= FOREGROUND,
            other_best <= BACKGROUND,
        ],
        [IGNORED, CORRECT, LOCALISATION, CLASSIFICATION, DUPLICATE, IN_BACKGROUND],
        BOTH,
    ).astype(np.int8)
    for state, overlaps in ((LOCALISATION, same), (CLASSIFICATION, other)):
        annotations[states == state] = overlaps[states == state].argmax(axis=1) if overlaps.size else -1
    rows, columns = np.nonzero((other >= FOREGROUND) & ~matched[:, None])
    best_first = np.lexsort((-other[rows, columns], -detections.scores[order][rows]))
    return ImageErrors(
        order=order,
        scores=detections.scores[order].astype(np.float64),
        labels=labels,
        states=states,
        annotations=annotations,
        confused=np.stack([rows, columns], axis=1)[best_first],
        positives=target.labels,
        counted=~ignored,
    )


def _match_greedily(
    overlap: NDArray[np.float64], crowd: NDArray[np.bool_], ignored: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Return the annotation that each detection takes, or −1: the best free one, ignored ones last."""
    annotations = np.full(len(overlap), -1)
    taken = np.zeros(overlap.shape[1], dtype=bool)
    for row in np.flatnonzero(overlap.max(axis=1, initial=0.0) >= FOREGROUND):
        for eligible in (~ignored, ignored):
            free = overlap[row] * (eligible & ~taken)
            best = len(free) - 1 - int(free[::-1].argmax())  # of equal IoUs the later, as in COCO
            if free[best] >= FOREGROUND:
                annotations[row] = best
                taken[best] = not crowd[best]
                break
    return annotations


def error_effects(
    images: Sequence[ImageErrors], classes: int, min_score: float
) -> tuple[dict[ErrorType, ErrorEffect], Figure, Figure]:
    """Compute the count and dAP of each type of error, and two special dAPs (Bolya et al. 2020, §2.3).

    A detection from `min_score` on also counts as shown. Return the effects by type, the dAP of removing all
    false positives, and the dAP of removing all annotations that are not found.
    """
    base = average_precisions([*map(_to_matches, images)], classes)[:, 0]

    def effect(fixed: Iterable[ImageErrors]) -> Figure:
        precisions = average_precisions([*map(_to_matches, fixed)], classes)[:, 0]
        # A class that no longer has annotations has no AP; it counts as 0.
        precisions = np.where(np.isnan(precisions) & ~np.isnan(base), 0.0, precisions)
        rise = mean_defined(precisions, 0) - mean_defined(base, 0)
        return figure(rise, len(images), "fraction", SIGNATURE, (-1.0, 1.0))

    effects = {
        error: ErrorEffect(
            count=_count(images, error),
            shown=_count(images, error, min_score),
            dap=effect(fix_errors(image, error) for image in images),
        )
        for error in ERRORS
    }
    only_correct = (_without(image, image.states != CORRECT) for image in images)
    only_detected = (replace(image, counted=image.detected) for image in images)
    return effects, effect(only_correct), effect(only_detected)


def _count(images: Sequence[ImageErrors], error: ErrorType, min_score: float = -np.inf) -> int:
    if error == "missed":
        return sum(int(image.missed(min_score).sum()) for image in images)
    state = STATES.index(error)
    return sum(int(((image.states == state) & (image.scores >= min_score)).sum()) for image in images)


def fix_errors(image: ImageErrors, error: ErrorType) -> ImageErrors:
    """Return the image without errors of one type (Bolya et al. 2020, §2.3).

    - Localisation, classification: among the errors about one annotation that is not found, the one with the
      highest score becomes correct; all others are removed.
    - Both, duplicate, background: the detections are removed.
    - Missed: the annotations no longer count.
    """
    if error == "missed":
        return replace(image, counted=image.counted & ~image.missed())
    wrong = image.states == STATES.index(error)
    fixed = _without(image, wrong)
    if error in ("classification", "localisation"):
        rows = np.flatnonzero(wrong)
        rows = rows[np.lexsort((image.order[rows], -image.scores[rows]))]
        annotations, first = np.unique(image.annotations[rows], return_index=True)
        best = rows[first[~image.detected[annotations]]]
        fixed = replace(fixed, labels=image.labels.copy())
        fixed.labels[best] = image.positives[image.annotations[best]]
        fixed.states[best] = CORRECT
    return fixed


def _without(image: ImageErrors, removed: NDArray[np.bool_]) -> ImageErrors:
    """Return the image with some of its detections [d] ignored."""
    return replace(image, states=np.where(removed, np.int8(IGNORED), image.states))


def _to_matches(image: ImageErrors) -> Matches:
    """Return matches of one area range and one IoU threshold, without ignored detections."""
    stay = image.states != IGNORED
    rows = np.flatnonzero(image.states[stay] == CORRECT)
    hits = np.ones((len(rows), 1, 1), dtype=bool)
    return Matches(
        scores=image.scores[stay],
        labels=image.labels[stay].astype(np.int32),
        counted=np.ones((int(stay.sum()), 1), dtype=bool),
        matched=rows.astype(np.int32),
        ranks=np.zeros(len(rows), dtype=np.int32),
        correct=hits,
        absorbed=~hits,
        positives=image.positives.astype(np.int32),
        positive=image.counted[:, None],
    )
