"""`scenes`: handwritten digits composed on images, for detection and segmentation.

A scene has 128×128 px and contains up to six scattered digits, sometimes a row of two to five digits as on a
house number, and plates and other distractors that are not digits. It is generated on access from the seed,
the split and its index alone, so every worker sees the same scene and nothing is stored.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from harness.datasets.generated import Generated, GeneratedOptions
from harness.datasets.scenes.canvas import Canvas
from harness.datasets.scenes.placement import place_digit, place_distractor, place_row
from harness.datasets.scenes.rendering import expose, random_background
from harness.datasets.scenes.sources import Sources, load_sources
from harness.identity import digest
from harness.task import BACKGROUND, Annotations, Image, Mask, Sample, Target

DIGITS = tuple(str(digit) for digit in range(10))

_GENERATOR_VERSION = "1"  # increase with every change of content
_SPLIT_NUMBER = {"train": 0, "validation": 1, "test": 2}
_FINGERPRINTED_SCENES = 4

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


class ScenesOptions(GeneratedOptions):
    """Options that select the scenes."""

    seed: int = Field(default=0, ge=0)
    """Seed of the generator. Each seed gives different scenes."""
    size: int | None = Field(default=None, ge=1, le=1_000_000)  # six digits in an id
    """Scenes in the split. The default is 20,000 for train, 500 for validation and 1,000 for test."""


class Scenes(Generated):
    """Digits 0–9 with boxes (`detection`) or a class per pixel (`segmentation`, class 0 is the background).

    Both tasks have the same images. A digit is annotated where it is on top: its mask contains the pixels of
    which its ink covers at least half, and its box is tight around them. At least 60% of its ink is visible.

    The area of an annotation is that of its box, not of its mask. A 1 has a third of the ink of an 8 of the
    same height, and the size classes small, medium and large are about size in the image, not about ink.
    """

    tasks = ("detection", "segmentation")
    default_size = {"train": 20_000, "validation": 500, "test": 1_000}  # noqa: RUF012
    Options = ScenesOptions
    options: ScenesOptions

    @property
    def fingerprint(self) -> str:
        """Hash the options, the source data and the first scenes.

        The scenes change if the image library draws differently.
        """
        return _fingerprint(self.options.seed, self.split, self.size, self.task)

    @property
    def classes(self) -> tuple[str, ...]:
        return DIGITS if self.task == "detection" else (BACKGROUND, *DIGITS)

    @property
    def metric_options(self) -> dict[str, object]:
        """Return size limits for images of 128 px; COCO's (32² and 96² px) are for images of 640 px."""
        if self.task == "segmentation":
            return {}
        return {"area_ranges": {"small": [0, 20**2], "medium": [20**2, 40**2], "large": [40**2, 1e10]}}

    def generate(self, index: int) -> Sample:
        scene = _compose_scene(self.options.seed, self.split, index)
        target: Target = scene.mask
        if self.task == "detection":
            target = Annotations.of_boxes(scene.boxes, scene.digits)
        return Sample(self.sample_id(index), scene.image, target)

    def sample_id(self, index: int) -> str:
        return f"{self.split}-{index:06d}"


def _compose_scene(seed: int, split: str, index: int) -> Scene:
    return compose(np.random.default_rng([seed, _SPLIT_NUMBER[split], index]), load_sources(split))


@lru_cache(maxsize=64)
def _fingerprint(seed: int, split: str, size: int, task: str) -> str:
    parts: list[str | bytes] = ["scenes", _GENERATOR_VERSION, str(seed), split, str(size), task]
    parts.append(load_sources(split).fingerprint)
    for index in range(_FINGERPRINTED_SCENES):
        scene = _compose_scene(seed, split, index)
        parts += [scene.image.tobytes(), scene.mask.tobytes(), scene.boxes.tobytes()]
    return digest(parts)
