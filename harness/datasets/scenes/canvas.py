"""The canvas of a scene: its pixels, and the digit that is visible at each of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from harness.datasets.scenes.shapes import Coverage

SIZE = 128  # px, height and width of a scene
SOLID = 0.5  # coverage from which a pixel belongs to a shape
LUMA = np.array([0.299, 0.587, 0.114])  # weights of R, G, B, ITU-R BT.601 §2.5.1
MIN_VISIBLE = 0.6  # fraction of a digit's pixels; prototype of the data set

Pixels: TypeAlias = NDArray[np.float32]
"""[height, width, 3], RGB, 0–255."""
Colour: TypeAlias = NDArray[np.float32]
"""[3], RGB, 0–255, or [height, width, 3] for a colour per pixel of a shape."""


@dataclass(frozen=True, eq=False)
class Placement:
    """A shape at a position on the canvas; it may extend beyond the canvas."""

    coverage: Coverage
    left: int
    top: int

    def shifted(self, right: int, down: int) -> Placement:
        """Return the same shape at another position."""
        return Placement(self.coverage, self.left + right, self.top + down)

    def centred(self, coverage: Coverage) -> Placement:
        """Return a placement of another shape around the centre of this one."""
        height, width = self.coverage.shape
        other_height, other_width = coverage.shape
        return Placement(
            coverage, self.left + (width - other_width) // 2, self.top + (height - other_height) // 2
        )

    @property
    def canvas_slices(self) -> tuple[slice, slice]:
        """Rows and columns of the canvas that the shape overlaps."""
        height, width = self.coverage.shape
        return _clipped(self.top, height), _clipped(self.left, width)

    @property
    def shape_slices(self) -> tuple[slice, slice]:
        """Rows and columns of the shape that overlap the canvas."""
        rows, columns = self.canvas_slices
        return (
            slice(rows.start - self.top, rows.stop - self.top),
            slice(columns.start - self.left, columns.stop - self.left),
        )


@dataclass
class Canvas:
    """Pixels of a scene under construction and the buffer of visible digits."""

    pixels: Pixels  # [SIZE, SIZE, 3]
    instances: NDArray[np.int16] = field(default_factory=lambda: np.zeros((SIZE, SIZE), dtype=np.int16))
    """[SIZE, SIZE]: index in `digits` of the topmost digit, plus 1; 0 for none."""
    digits: list[int] = field(default_factory=list)
    unoccluded_areas: list[int] = field(default_factory=list)  # px of each digit when it was drawn

    def can_cover(self, placement: Placement) -> bool:
        """Return whether each digit keeps at least MIN_VISIBLE of its pixels under an opaque shape."""
        remaining = self.instances.copy()
        remaining[placement.canvas_slices][placement.coverage[placement.shape_slices] >= SOLID] = 0
        visible = np.bincount(remaining.ravel(), minlength=len(self.digits) + 1)[1:]
        return bool((visible >= MIN_VISIBLE * np.array(self.unoccluded_areas)).all())

    def blend(self, placement: Placement, colour: Colour, opacity: float = 1.0) -> None:
        """Blend a colour into the pixels, weighted by coverage times opacity (0–1)."""
        part = placement.shape_slices
        alpha = placement.coverage[part][..., None] * np.float32(opacity)
        below = self.pixels[placement.canvas_slices]
        below += alpha * ((colour[part] if colour.ndim == 3 else colour) - below)

    def add_digit(self, placement: Placement, digit: int) -> None:
        """Annotate the shape's solid pixels as a new digit on top of all others."""
        solid = placement.coverage[placement.shape_slices] >= SOLID
        self.digits.append(digit)
        self.unoccluded_areas.append(int(solid.sum()))
        self.instances[placement.canvas_slices][solid] = len(self.digits)

    def occlude(self, placement: Placement) -> None:
        """Remove the digits under the shape's solid pixels from the annotation."""
        solid = placement.coverage[placement.shape_slices] >= SOLID
        self.instances[placement.canvas_slices][solid] = 0

    def luma_under(self, placement: Placement) -> float:
        """Return the mean luma (0–255) of the pixels under the shape, weighted by coverage."""
        weight = placement.coverage[placement.shape_slices][..., None]
        total = (self.pixels[placement.canvas_slices] * weight).sum((0, 1), dtype=np.float64)
        return float(total @ LUMA / max(weight.sum(dtype=np.float64), 1e-6))


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw a number between low and high whose logarithm is uniform."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _clipped(start: int, length: int) -> slice:
    return slice(min(max(start, 0), SIZE), min(max(start + length, 0), SIZE))
