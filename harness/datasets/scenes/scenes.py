"""`scenes`: handwritten digits composed on photographs, for detection and for segmentation.

A scene is 128×128 and holds up to six scattered digits, sometimes a row of two to five as on a house
number, badges and other things that are no digits. It is made when it is asked for, from the seed, the
split and its index alone, so that every worker sees the same one and nothing is stored.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from pydantic import Field

from harness.datasets.dataset import Dataset, DatasetOptions
from harness.datasets.scenes.composer import Scene, compose
from harness.datasets.scenes.sources import sources
from harness.identity import digest
from harness.task import Annotations, Sample, Target, TaskName

DIGITS = tuple(str(digit) for digit in range(10))

_GENERATOR = "1"  # raise it with any change of content
_SPLIT_NUMBER = {"train": 0, "validation": 1, "test": 2}
_DEFAULT_SIZE = {"train": 20_000, "validation": 500, "test": 1_000}
_PROBES = 4  # scenes whose content enters the fingerprint
_LIMIT = 1_000_000  # six digits in an id


class ScenesOptions(DatasetOptions):
    """Which scenes, and how many; the first n are the same whatever the size."""

    seed: int = Field(default=0, ge=0)
    size: int | None = Field(default=None, ge=1, le=_LIMIT)
    """Scenes in the split; by default 20,000 for training, 500 for validation and 1,000 for testing."""


class Scenes(Dataset):
    """Digits 0–9 with boxes (`detection`) or a class per pixel (`segmentation`: 0 is the background).

    The two tasks see the same pictures. A digit is annotated where it is on top: its mask holds the pixels
    that its ink covers by half or more, its box is tight around these. At least 60% of its ink is visible.
    The area of an annotation is its box's, not its mask's: a 1 has a third of the ink of an 8 of the same
    height, and small, medium and large are to mean size in the picture, not boldness.
    """

    tasks = ("detection", "segmentation")
    Options = ScenesOptions

    def __init__(self, options: DatasetOptions, split: str, task: TaskName) -> None:
        super().__init__(options, split, task)
        self._size: int = self.options.size or _DEFAULT_SIZE[split]

    @property
    def fingerprint(self) -> str:
        """Of the options, the source data and some scenes, so that a library that draws otherwise shows."""
        return _fingerprint(self.options.seed, self.split, self._size, self.task)

    @property
    def classes(self) -> tuple[str, ...]:
        return DIGITS if self.task == "detection" else ("background", *DIGITS)

    @property
    def metric_options(self) -> dict[str, Any]:
        """COCO's limits (32² and 96² px) suit pictures of 640 px; these suit 128 px."""
        if self.task == "segmentation":
            return {}
        return {"area_ranges": {"small": [0, 20**2], "medium": [20**2, 40**2], "large": [40**2, 1e10]}}

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self._size:
            raise IndexError(f"scene {index} of {self._size}")
        scene = _scene(self.options.seed, self.split, index)
        target: Target = scene.mask
        if self.task == "detection":
            target = Annotations.of_boxes(scene.boxes, scene.digits)
        return Sample(f"{self.split}-{index:06d}", scene.image, target)


def coco_annotations(dataset: Dataset, count: int | None = None) -> dict[str, Any]:
    """The first `count` samples of a detection data set (all by default) as a COCO instances document.

    Images, annotations and categories are numbered from 1; `file_name` is the sample's id with `.png`.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(1, min(count or len(dataset), len(dataset)) + 1):
        sample = dataset[number - 1]
        assert isinstance(sample.input, np.ndarray) and isinstance(sample.target, Annotations)
        height, width = sample.input.shape[:2]
        images.append({"id": number, "file_name": f"{sample.id}.png", "width": width, "height": height})
        target = sample.target
        for box, label, area, crowd in zip(
            target.boxes.tolist(),
            target.labels.tolist(),
            target.areas.tolist(),
            target.crowd.tolist(),
            strict=True,
        ):
            x1, y1, x2, y2 = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": label + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": area,
                    "iscrowd": int(crowd),
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(dataset.classes, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _scene(seed: int, split: str, index: int) -> Scene:
    return compose(np.random.default_rng([seed, _SPLIT_NUMBER[split], index]), sources(split))


@lru_cache(maxsize=64)
def _fingerprint(seed: int, split: str, size: int, task: str) -> str:
    parts: list[str | bytes] = ["scenes", _GENERATOR, str(seed), split, str(size), task]
    parts.append(sources(split).fingerprint)
    for index in range(_PROBES):
        scene = _scene(seed, split, index)
        parts += [scene.image.tobytes(), scene.mask.tobytes(), scene.boxes.tobytes()]
    return digest(parts)
