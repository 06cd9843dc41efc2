"""Why detections are wrong, and what each kind of error costs: TIDE (Bolya et al. 2020, §2).

Every false positive has one type, by its highest IoU with annotations of its own class and of others; the
annotations that no correct detection finds, and no error of class or place is aimed at, are missed. What a
type costs is dAP: how much AP at IoU .5 rises when an oracle mends these errors and no others. Where the
paper leaves the order of tests open, it is that of the authors' toolbox (tidecv): localisation,
classification, duplicate, background, both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from harness.analysis.curves import average_precisions
from harness.analysis.record import ErrorEffect, ErrorType
from harness.metrics.matching import MAX_DETECTIONS, Matches, box_iou, ranked
from harness.statistics.bootstrap import figure, mean_defined
from harness.task import Annotations, Detections, Figure

FOREGROUND, BACKGROUND = 0.5, 0.1  # IoU t_f and t_b, Bolya et al. 2020 §2.2
VERSION = 1  # of the signature; raise it with any change of what dAP means
SIGNATURE = f"tide|tf:{FOREGROUND}|tb:{BACKGROUND}|recalls:101|maxdets:{MAX_DETECTIONS}|v:{VERSION}"

ERRORS: tuple[ErrorType, ...] = get_args(ErrorType)
STATES = ("correct", "ignored", *ERRORS)
"""Of a detection; `missed` is an annotation's."""
CORRECT, IGNORED, CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, IN_BACKGROUND, _ = range(len(STATES))


@dataclass(frozen=True, eq=False)
class Examined:
    """One image's d detections, by class and descending score, and g annotations."""

    order: NDArray[np.int64]  # [d], places in the prediction
    scores: NDArray[np.float64]  # [d]
    labels: NDArray[np.int64]  # [d]
    states: NDArray[np.int8]  # [d], indices into STATES
    aims: NDArray[np.int64]  # [d], the annotation found, or that an error of class or place is about; or −1
    rivals: NDArray[
        np.int64
    ]  # [r, 2], (false positive, annotation of another class) of IoU ≥ t_f, best first
    positives: NDArray[np.int64]  # [g], labels
    counted: NDArray[np.bool_]  # [g], neither crowd nor difficult

    @property
    def found(self) -> NDArray[np.bool_]:
        """[g], the annotations of correct detections."""
        return self._aimed_at(self.states == CORRECT)

    def missed(self, least: float = -np.inf) -> NDArray[np.bool_]:
        """[g], those that count and that no detection is about: correct, misplaced or of a wrong class.

        Args:
            least: of detections with at least this score.
        """
        near = (self.states == CORRECT) | (self.states == CLASSIFICATION) | (self.states == LOCALISATION)
        return self.counted & ~self._aimed_at(near & (self.scores >= least))

    def _aimed_at(self, detections: NDArray[np.bool_]) -> NDArray[np.bool_]:
        marks = np.zeros(len(self.positives), dtype=bool)
        marks[self.aims[detections]] = True
        return marks


def examine(target: Annotations, detections: Detections) -> Examined:
    """Match by COCO's rules at IoU t_f, then sort what is left into types of error."""
    order, ranks = ranked(detections)
    order = order[ranks < MAX_DETECTIONS]
    labels = detections.labels[order]
    ignored = target.crowd | target.difficult
    overlap = box_iou(detections.boxes[order].astype(np.float64), target.boxes, target.crowd)
    own_class = labels[:, None] == target.labels
    aims = _matched(overlap * own_class, target.crowd, ignored)
    matched = aims >= 0
    same = overlap * (own_class & ~ignored)
    other = overlap * (~own_class & ~ignored)
    same_best, other_best = same.max(axis=1, initial=0.0), other.max(axis=1, initial=0.0)
    states = np.select(
        [
            matched & ignored[aims] if len(ignored) else matched,
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
        aims[states == state] = overlaps[states == state].argmax(axis=1) if overlaps.size else -1
    rows, columns = np.nonzero((other >= FOREGROUND) & ~matched[:, None])
    best_first = np.lexsort((-other[rows, columns], -detections.scores[order][rows]))
    return Examined(
        order=order,
        scores=detections.scores[order].astype(np.float64),
        labels=labels,
        states=states,
        aims=aims,
        rivals=np.stack([rows, columns], axis=1)[best_first],
        positives=target.labels,
        counted=~ignored,
    )


def _matched(
    overlap: NDArray[np.float64], crowd: NDArray[np.bool_], ignored: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """The annotation that each detection takes, or −1: the best that is free, of the ignored ones last."""
    found = np.full(len(overlap), -1)
    taken = np.zeros(overlap.shape[1], dtype=bool)
    for row in np.flatnonzero(overlap.max(axis=1, initial=0.0) >= FOREGROUND):
        for eligible in (~ignored, ignored):
            free = overlap[row] * (eligible & ~taken)
            best = len(free) - 1 - int(free[::-1].argmax())  # the later of equals, as COCO has it
            if free[best] >= FOREGROUND:
                found[row] = best
                taken[best] = not crowd[best]
                break
    return found


def error_effects(
    images: Sequence[Examined], classes: int, least: float
) -> tuple[dict[ErrorType, ErrorEffect], Figure, Figure]:
    """Each type's count and dAP; and the dAP of no false positive, and of no annotation not found (§2.3).

    Args:
        least: score of the detections to be counted apart as well.
    """
    base = average_precisions([_matches(image, image.states == CORRECT) for image in images], classes)[:, 0]

    def effect(mended: Sequence[Matches]) -> Figure:
        fixed = average_precisions(mended, classes)[:, 0]
        # A class of which no annotation is left has no curve to be stretched: its AP stays 0.
        fixed = np.where(np.isnan(fixed) & ~np.isnan(base), 0.0, fixed)
        rise = mean_defined(fixed, 0) - mean_defined(base, 0)
        return figure(rise[0], rise[1:], len(images), "fraction", SIGNATURE)

    effects = {
        error: ErrorEffect(
            count=_count(images, error),
            shown=_count(images, error, least),
            dap=effect([mend(image, error) for image in images]),
        )
        for error in ERRORS
    }
    correct = [_matches(image, image.states == CORRECT, image.states == CORRECT) for image in images]
    found = [_matches(image, image.states == CORRECT, positive=image.found) for image in images]
    return effects, effect(correct), effect(found)


def _count(images: Sequence[Examined], error: ErrorType, least: float = -np.inf) -> int:
    if error == "missed":
        return sum(int(image.missed(least).sum()) for image in images)
    state = STATES.index(error)
    return sum(int(((image.states == state) & (image.scores >= least)).sum()) for image in images)


def mend(image: Examined, error: ErrorType) -> Matches:
    """The image as if it had no errors of one type (Bolya et al. 2020 §2.3).

    Of the misplaced or misclassified detections that are about one free annotation, the one with the
    highest score becomes correct; the others, and all false positives of another type, are taken away.
    Missed annotations no longer count.
    """
    correct = image.states == CORRECT
    if error == "missed":
        return _matches(image, correct, positive=image.counted & ~image.missed())
    wrong = image.states == STATES.index(error)
    labels = image.labels.copy()
    winners: list[int] = []
    if error in ("classification", "localisation"):
        rows = np.flatnonzero(wrong)
        rows = rows[np.lexsort((image.order[rows], -image.scores[rows]))]
        aims, first = np.unique(image.aims[rows], return_index=True)
        winners = [rows[at] for aim, at in zip(aims, first, strict=True) if not image.found[aim]]
        labels[winners] = image.positives[image.aims[winners]]
        correct = correct.copy()
        correct[winners] = True
    return _matches(image, correct, correct | ~wrong, labels=labels)


def _matches(
    image: Examined,
    correct: NDArray[np.bool_],
    kept: NDArray[np.bool_] | None = None,
    positive: NDArray[np.bool_] | None = None,
    labels: NDArray[np.int64] | None = None,
) -> Matches:
    """One area range, one IoU threshold; detections on ignored annotations are left out."""
    stay = image.states != IGNORED
    if kept is not None:
        stay &= kept
    rows = np.flatnonzero(correct[stay])
    hits = np.ones((len(rows), 1, 1), dtype=bool)
    return Matches(
        scores=image.scores[stay],
        labels=(image.labels if labels is None else labels)[stay].astype(np.int32),
        counted=np.ones((int(stay.sum()), 1), dtype=bool),
        matched=rows.astype(np.int32),
        ranks=np.zeros(len(rows), dtype=np.int32),
        correct=hits,
        absorbed=~hits,
        positives=image.positives.astype(np.int32),
        positive=(image.counted if positive is None else positive)[:, None],
    )
