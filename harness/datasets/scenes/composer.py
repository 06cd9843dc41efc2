"""Composition of a scene: a background, then digits and distractors in random order, then the exposure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.datasets.scenes.background import random_background
from harness.datasets.scenes.canvas import Canvas
from harness.datasets.scenes.placement import place_digit, place_distractor, place_row
from harness.datasets.scenes.rendering import expose
from harness.datasets.scenes.sources import Sources
from harness.task import Image, Mask

# Constants of the prototype that the recipes were tuned on.
_MAX_SCATTERED = 6
_MAX_DISTRACTORS = 4
_ROW_FRACTION = 0.35


@dataclass(frozen=True, eq=False)
class Scene:
    """An image and its visible digits, in order of placement."""

    image: Image
    digits: tuple[int, ...]
    instances: NDArray[np.int16]  # [SIZE, SIZE], index in `digits` of the topmost digit plus 1, 0 for none
    unoccluded_areas: tuple[int, ...]  # px of each digit before later objects covered it

    @property
    def mask(self) -> Mask:
        """Return the class of each pixel [SIZE, SIZE]: 0 background, 1–10 the digits 0–9."""
        classes = np.array([0, *(digit + 1 for digit in self.digits)], dtype=np.uint8)
        return classes[self.instances]

    @property
    def boxes(self) -> NDArray[np.float64]:
        """Return corners [n, 4] in px, tight around the visible pixels of each digit, as in COCO."""
        boxes = np.zeros((len(self.digits), 4))
        for index in range(len(self.digits)):
            visible = self.instances == index + 1
            rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
            boxes[index] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        return boxes


def compose(rng: np.random.Generator, sources: Sources) -> Scene:
    """Compose the scene that the state of the generator determines."""
    canvas = Canvas(random_background(rng, sources.images))
    objects = [place_digit] * int(rng.integers(_MAX_SCATTERED + 1))
    objects += [place_distractor] * int(rng.integers(_MAX_DISTRACTORS + 1))
    objects += [place_row] * int(rng.random() < _ROW_FRACTION)
    for index in rng.permutation(len(objects)):
        objects[index](rng, sources, canvas)
    return Scene(
        expose(rng, canvas.pixels), tuple(canvas.digits), canvas.instances, tuple(canvas.unoccluded_areas)
    )
