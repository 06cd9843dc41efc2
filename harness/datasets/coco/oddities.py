"""Notes on boxes that are legal but often mistakes; each kind is counted and noted once."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.datasets.files import Note
from harness.task import Annotations

_TOLERANCE = 1  # px beyond the edge of an image, which rounding explains
_PLAUSIBLE = 0.9  # share of boxes that must fit as corners to ask whether they are


def note_box_form(
    location: str, entries: str, boxes: NDArray[np.float64], sizes: NDArray[np.int64], note: Note
) -> None:
    """Note boxes [n, 4] that reach beyond their image, and boxes that look like fractions of it.

    `entries` says in messages what the file lists, such as `detections`. `sizes` [n, 2] are width and height
    of each box's image in px, 0 if unknown.
    """
    known = sizes.min(axis=1) > 0
    beyond = np.flatnonzero(known & ((boxes[:, 2:] - sizes).max(axis=1) > _TOLERANCE)).tolist()
    if beyond:
        first = beyond[0]
        sides = boxes[:, 2:] - boxes[:, :2]
        fits = ((sides > boxes[:, :2]) & (sides <= sizes + _TOLERANCE)).min(axis=1)
        is_likely = fits[known].mean() > _PLAUSIBLE
        question = "; are they corners in place of width and height?" if is_likely else ""
        note(
            f"{location}: {len(beyond)} of {len(boxes)} {entries} reach beyond their image, the first "
            f"[{first}] beyond {sizes[first, 0]}×{sizes[first, 1]} px{question}"
        )
    if known.any() and np.abs(boxes).max() <= 2 and sizes[known].min() > 2:
        note(f"{location}: no box is larger than 1 px; are they fractions of the image in place of px?")


def note_negative_sides(location: str, boxes: NDArray[np.float64], note: Note) -> None:
    """Note detections whose width or height is negative."""
    negative = (boxes[:, 2:] < boxes[:, :2]).sum(axis=1)
    if negative.any():
        note(
            f"{location}: {np.count_nonzero(negative)} of {len(boxes)} detections have a negative width or "
            f"height and match nothing; `coco` counts those with one negative side "
            f"({np.count_nonzero(negative == 1)}) as neither right nor wrong, and those with two as wrong"
        )


def note_ties(
    location: str,
    owners: NDArray[np.int64],
    labels: NDArray[np.int64],
    scores: NDArray[np.float64],
    note: Note,
) -> None:
    """Note equal scores that leave the ranking to the order of the file."""
    if len(scores) < 2:
        return
    distinct, ranks = np.unique(scores, return_inverse=True)
    if len(distinct) == 1:
        note(
            f"{location}: all {len(scores)} scores are equal, so that the order of the file alone ranks the "
            f"detections, and another order gives other figures"
        )
    elif len(distinct) < len(scores) / 2:
        groups = (owners * (labels.max() + 1) + labels) * len(distinct) + ranks
        _, counts = np.unique(groups, return_counts=True)
        tied = counts[counts > 1].sum()
        if tied > len(scores) / 2:
            note(
                f"{location}: {tied} of {len(scores)} detections share their score with another of the same "
                f"image and class, so that the order of the file ranks them"
            )


def note_missing_predictions(
    location: str, owners: NDArray[np.int64], targets: Sequence[Annotations], note: Note
) -> None:
    """Note how many images have no prediction; `owners` [n] are the predictions' indices in `targets`."""
    empty = np.bincount(owners, minlength=len(targets)) == 0
    if empty.any():
        annotated = sum(len(targets[index].boxes) > 0 for index in np.flatnonzero(empty).tolist())
        note(
            f"{location}: {empty.sum()} of {len(targets)} images have no prediction "
            f"({annotated} of them have annotations)"
        )


def note_uncounted(location: str, targets: Sequence[Annotations], note: Note) -> None:
    """Note annotations none of which can be found or missed, so that average precision is undefined."""
    crowd = np.concatenate([target.crowd for target in targets])
    difficult = np.concatenate([target.difficult for target in targets])
    if not len(crowd):
        note(f"{location}: there is no annotation, so that average precision is undefined")
    elif (crowd | difficult).all():
        kind = "iscrowd" if crowd.all() else "difficult" if difficult.all() else "iscrowd or difficult"
        note(f"{location}: all {len(crowd)} annotations are {kind}, so that none counts")
