"""Placement of digits, rows of digits and distractors that keeps the digits below visible."""

from collections.abc import Sequence

import numpy as np

from harness.datasets.scenes.canvas import SIZE, Canvas, Placement, log_uniform
from harness.datasets.scenes.rendering import Mark, draw_ink, draw_plate
from harness.datasets.scenes.shapes import Coverage, GlyphStyle, arc, scramble_glyph, stroke, superellipse
from harness.datasets.scenes.sources import Sources

# Constants without another source are those of the prototype that the recipes were tuned on.
_HEIGHTS = (12, 84)  # px
_ROW_HEIGHTS = (12 * 1.2, 48)  # px; five digits of 48 px still fit the width
_ROW_LENGTHS = (2, 5)
_MIN_WIDTH_IN_ROW = 6  # px
_PLATE_FRACTION = 0.45
_PLATE_POWERS = (1.5, 2.0, 5.0, 20.0)
_ROW_PLATE_POWERS = (5.0, 20.0)
_DISTRACTORS = ("plate", "scrambled glyph", "stroke", "arc")
_ATTEMPTS = 8  # positions tried before an object is skipped


def place_digit(rng: np.random.Generator, sources: Sources, canvas: Canvas) -> None:
    """Place one digit, sometimes on a plate."""
    digit, glyph = sources.random_glyph(rng)
    coverage = GlyphStyle.random(rng, log_uniform(rng, *_HEIGHTS)).render(glyph)
    plate = _plate_around(rng, coverage, _PLATE_POWERS) if rng.random() < _PLATE_FRACTION else None
    _place_marks(rng, canvas, [Mark(Placement(coverage, 0, 0), digit)], coverage, plate)


def place_row(rng: np.random.Generator, sources: Sources, canvas: Canvas) -> None:
    """Place adjacent digits in one style and colour, as on a house number, sometimes on a plate."""
    marks, coverage = _random_row(rng, sources)
    if len(marks) < _ROW_LENGTHS[0]:
        return
    plate = _plate_around(rng, coverage, _ROW_PLATE_POWERS) if rng.random() < _PLATE_FRACTION else None
    _place_marks(rng, canvas, marks, coverage, plate)


def place_distractor(rng: np.random.Generator, sources: Sources, canvas: Canvas) -> None:
    """Place an object that is not a digit: an empty plate, a scrambled glyph, a stroke or an arc."""
    kind = _DISTRACTORS[rng.integers(len(_DISTRACTORS))]
    extent = log_uniform(rng, *_HEIGHTS)
    thickness = max(1.5, extent * rng.uniform(0.06, 0.2))
    if kind == "plate":
        coverage = superellipse(extent * rng.uniform(0.7, 1.4), extent, float(rng.choice(_PLATE_POWERS)))
    elif kind == "scrambled glyph":
        style = GlyphStyle.random(rng, extent)
        coverage = style.render(scramble_glyph(rng, sources.random_glyph(rng)[1]))
    elif kind == "stroke":
        tilt = rng.uniform(np.pi / 5, np.pi / 2) * rng.choice((-1, 1))  # an upright stroke would be a 1
        coverage = stroke(extent, thickness, np.pi / 2 + tilt)
    else:  # a closed arc would be a 0
        coverage = arc(extent, thickness, rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 1.1) * np.pi)
    for _ in range(_ATTEMPTS):
        left, top = (int(corner) for corner in rng.integers(-8, SIZE - 8, 2))
        placement = Placement(coverage, left, top)
        if canvas.can_cover(placement):
            if kind == "plate":
                draw_plate(rng, canvas, placement)
            else:
                draw_ink(rng, canvas, [Mark(placement, digit=None)])
            return


def _random_row(rng: np.random.Generator, sources: Sources) -> tuple[list[Mark], Coverage]:
    """Draw a row of the digits that fit, from left to right, and the coverage of all of them."""
    style = GlyphStyle.random(rng, log_uniform(rng, *_ROW_HEIGHTS))
    gap = int(rng.integers(0, 4))
    marks = []
    width = height = 0
    for _ in range(rng.integers(_ROW_LENGTHS[0], _ROW_LENGTHS[1] + 1)):
        digit, glyph = sources.random_glyph(rng)
        coverage = style.render(glyph)
        if coverage.shape[1] - 2 < _MIN_WIDTH_IN_ROW or width + coverage.shape[1] > SIZE:
            continue
        marks.append(Mark(Placement(coverage, width, 0), digit))
        width += coverage.shape[1] - 2 + gap
        height = max(height, coverage.shape[0])
    union = np.zeros((height, min(width + 2, SIZE)), dtype=np.float32)
    for placement in (mark.placement for mark in marks):
        part = union[: placement.coverage.shape[0], placement.left :][:, : placement.coverage.shape[1]]
        np.maximum(part, placement.coverage, out=part)
    return marks, union


def _place_marks(
    rng: np.random.Generator,
    canvas: Canvas,
    marks: Sequence[Mark],
    coverage: Coverage,
    plate: Coverage | None,
) -> None:
    """Draw marks of this coverage together at the first of several positions where they hide no digit."""
    height, width = coverage.shape
    if height == 0 or max(height, width) > SIZE + 2:
        return
    for _ in range(_ATTEMPTS):
        # The margin of one pixel around the ink may lie outside the image.
        left, top = int(rng.integers(-1, SIZE - width + 2)), int(rng.integers(-1, SIZE - height + 2))
        position = Placement(coverage, left, top)
        lowest = position if plate is None else position.centred(plate)
        if canvas.can_cover(lowest):
            if plate is not None:
                draw_plate(rng, canvas, lowest)
            draw_ink(rng, canvas, [Mark(mark.placement.shifted(left, top), mark.digit) for mark in marks])
            return


def _plate_around(rng: np.random.Generator, coverage: Coverage, powers: tuple[float, ...]) -> Coverage:
    """Return a plate at least as large as the superellipse through the corners of the bounding box."""
    power = float(rng.choice(powers))
    factor = 2 ** (1 / power) * rng.uniform(1.05, 1.35)
    height, width = coverage.shape
    return superellipse(max(width, 0.6 * height) * factor, height * factor, power)
