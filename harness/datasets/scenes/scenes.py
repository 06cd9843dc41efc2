"""`scenes`: handwritten digits composed on images, for detection and segmentation.

A scene has 128×128 px and contains up to six scattered digits, sometimes a row of two to five digits as on a
house number, and plates and other distractors that are not digits. It is generated on access from the seed,
the split and its index alone, so every worker sees the same scene and nothing is stored.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from pydantic import Field

from harness.datasets.dataset import Dataset, DatasetOptions
from harness.datasets.scenes.composer import Scene, compose
from harness.datasets.scenes.sources import load_sources
from harness.identity import digest
from harness.task import BACKGROUND, Annotations, Sample, Target, TaskName

DIGITS = tuple(str(digit) for digit in range(10))

_GENERATOR_VERSION = "1"  # increase with every change of content
_SPLIT_NUMBER = {"train": 0, "validation": 1, "test": 2}
_DEFAULT_SIZE = {"train": 20_000, "validation": 500, "test": 1_000}
_FINGERPRINTED_SCENES = 4
_MAX_SIZE = 1_000_000  # six digits in an id


class ScenesOptions(DatasetOptions):
    """Options that select the scenes. The first n scenes do not depend on the size."""

    seed: int = Field(default=0, ge=0)
    """Seed of the generator. Each seed gives different scenes."""
    size: int | None = Field(default=None, ge=1, le=_MAX_SIZE)
    """Scenes in the split. The default is 20,000 for train, 500 for validation and 1,000 for test."""


class Scenes(Dataset):
    """Digits 0–9 with boxes (`detection`) or a class per pixel (`segmentation`, class 0 is the background).

    Both tasks have the same images. A digit is annotated where it is on top: its mask contains the pixels of
    which its ink covers at least half, and its box is tight around them. At least 60% of its ink is visible.

    The area of an annotation is that of its box, not of its mask. A 1 has a third of the ink of an 8 of the
    same height, and the size classes small, medium and large are about size in the image, not about ink.
    """

    tasks = ("detection", "segmentation")
    Options = ScenesOptions
    options: ScenesOptions

    def __init__(self, options: DatasetOptions, split: str, task: TaskName) -> None:
        super().__init__(options, split, task)
        self._size = self.options.size or _DEFAULT_SIZE[split]

    @property
    def fingerprint(self) -> str:
        """Hash the options, the source data and the first scenes.

        The scenes change if the image library draws differently.
        """
        return _fingerprint(self.options.seed, self.split, self._size, self.task)

    @property
    def classes(self) -> tuple[str, ...]:
        return DIGITS if self.task == "detection" else (BACKGROUND, *DIGITS)

    @property
    def metric_options(self) -> dict[str, object]:
        """Return size limits for images of 128 px; COCO's (32² and 96² px) are for images of 640 px."""
        if self.task == "segmentation":
            return {}
        return {"area_ranges": {"small": [0, 20**2], "medium": [20**2, 40**2], "large": [40**2, 1e10]}}

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self._size:
            raise IndexError(f"index {index} is out of range: {self._size} scenes")
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
