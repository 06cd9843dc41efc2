"""What segmentation models share: windows and scales, grouping by size, augmentation and the pixel loss."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from adapters import augmentation, images
from adapters.segmentation.windows import Grid, class_map, lay
from adapters.torch_adapter import TorchAdapter
from harness.adapter import AdapterOptions
from harness.datasets.dataset import Dataset
from harness.errors import UsageError
from harness.registry import unknown
from harness.task import BACKGROUND, IGNORED, Image, Mask, Prediction, Sample

PIXELS = 2**20  # looked at together where an image has many windows: four of 512 px
OBJECT_WEIGHT = 2.0  # of classes but the background, which most pixels are; the recipes' prototype


class SegmenterOptions(AdapterOptions):
    """How an image is looked at and learnt from; none of it shapes the weights."""

    window: int | None = Field(None, ge=32)
    """Side of sliding windows, px of the image, for images too large to be looked at as a whole."""
    overlap: float = Field(1 / 3, ge=0, lt=1)
    """The least fraction of a side that neighbouring windows share; their scores are averaged there."""
    scales: tuple[Annotated[float, Field(gt=0, le=4)], ...] = Field((1.0,), min_length=1)
    """Sizes at which each window is looked at, 1 being its own; their scores are averaged."""
    class_weights: dict[str, Annotated[float, Field(ge=0)]] | None = None
    """Of the pixel loss, by class name, 1 for a class that is not named; without it, the network's own."""

    @model_validator(mode="after")
    def _windows(self) -> SegmenterOptions:
        if self.window is None and self.overlap != SegmenterOptions.model_fields["overlap"].default:
            raise ValueError("overlap: it is of windows; set `window` too")
        return self


@dataclass(frozen=True, eq=False)
class View:
    """Some windows of a group's images at one scale."""

    pixels: Tensor  # [windows · n, H, W, 3], uint8, window by window
    height: int  # without the padding to the right and below
    width: int


@dataclass(frozen=True, eq=False)
class Group:
    """Images that are looked at together, a stretch of windows at a time.

    The first stretch, which for most images is all, is made ready in advance; a later one when it is its
    turn, so that no more than one lies on the device.
    """

    members: list[int]  # places in the batch
    grid: Grid
    pictures: list[Image]  # as large as the grid
    stretches: list[range]  # of windows
    first: list[View]  # of the first stretch, one a scale


@dataclass(frozen=True, eq=False)
class Batch:
    """Images by the size at which they are looked at, which is decided by each image alone."""

    groups: list[Group]
    sizes: list[tuple[int, int]]  # (height, width) of each image of the batch


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """Images of one size and their classes."""

    pixels: Tensor  # [N, 3, H, W]
    masks: Tensor  # [N, H, W], int64


class Segmenter(TorchAdapter):
    """A module that turns [N, 3, H, W] into class scores [N, C, H, W]."""

    task = "segmentation"
    options: SegmenterOptions
    training_options = frozenset({"class_weights"})
    multiple: ClassVar[int]
    """Heights and widths are padded to multiples of it, px."""

    def to_input(self, pixels: Tensor) -> Tensor:
        """[N, H, W, 3], uint8 → what the module takes, [N, 3, H, W]."""
        return images.centred(pixels)

    def scores(self, pixels: Tensor) -> Tensor:
        """[N, 3, H, W] → class scores [N, C, H, W]."""
        found: Tensor = self.module(pixels)
        return found

    def view_size(self, height: int, width: int) -> tuple[int, int]:
        """The size at which scale 1 looks at an image or window of a size, px."""
        return height, width

    def preprocess(self, samples: Sequence[Sample]) -> Batch:
        originals = [images.of_sample(sample) for sample in samples]
        groups: dict[Grid, list[int]] = defaultdict(list)
        for place, image in enumerate(originals):
            groups[self._grid(*image.shape[:2])].append(place)
        return Batch(
            [self._group(members, originals, grid) for grid, members in groups.items()],
            [(image.shape[0], image.shape[1]) for image in originals],
        )

    def infer(self, batch: Batch) -> list[Tensor]:
        """Per group the classes of highest score, [n, H, W], uint8: far less to copy than scores."""
        return [class_map(group.grid, self._scores(group)) for group in batch.groups]

    def postprocess(self, raw: list[Tensor], batch: Batch) -> list[Prediction]:
        masks: dict[int, Mask] = {}
        for found, group in zip(raw, batch.groups, strict=True):
            for place, mask in zip(group.members, found.cpu().numpy(), strict=True):
                height, width = batch.sizes[place]
                masks[place] = np.ascontiguousarray(mask[:height, :width])
        return [masks[place] for place in range(len(batch.sizes))]

    def _grid(self, height: int, width: int) -> Grid:
        """The windows of an image; images of the same windows are looked at together.

        An image that is looked at as it is becomes one padded window, which it may share with others.
        """
        side = self.options.window
        whole = side is None or max(height, width) <= side
        if whole and self.options.scales == (1.0,) and self.view_size(height, width) == (height, width):
            return lay(self._padded(height), self._padded(width), None, 0)
        return lay(height, width, side, self.options.overlap)

    def _group(self, members: list[int], originals: Sequence[Image], grid: Grid) -> Group:
        pictures = [images.pad(originals[place], *grid.covered) for place in members]
        height, width = self._seen_at(max(self.options.scales), grid)
        pixels = len(members) * self._padded(height) * self._padded(width)
        step = max(1, PIXELS // pixels)
        stretches = [range(k, min(k + step, len(grid))) for k in range(0, len(grid), step)]
        return Group(members, grid, pictures, stretches, self._views(pictures, grid, stretches[0]))

    def _views(self, pictures: Sequence[Image], grid: Grid, windows: range) -> list[View]:
        """The windows at every scale, on the device."""
        places = islice(grid, windows.start, windows.stop)
        parts = [picture[rows, columns] for rows, columns in places for picture in pictures]
        views = []
        for scale in self.options.scales:
            height, width = self._seen_at(scale, grid)
            padded = self._padded(height), self._padded(width)
            seen = [images.pad(images.resize(part, height, width), *padded) for part in parts]
            views.append(View(images.to_uint8_tensor(seen, self.runtime.device), height, width))
        return views

    def _seen_at(self, scale: float, grid: Grid) -> tuple[int, int]:
        """Height and width at which a scale looks at a window, px."""
        height, width = self.view_size(grid.height, grid.width)
        return max(1, round(scale * height)), max(1, round(scale * width))

    def _scores(self, group: Group) -> Iterator[Tensor]:
        """Of one window after another the sum of its scores over its scales, [n, C, h, w]."""
        yield from self._summed(group.first, group.grid).split(len(group.members))
        for windows in group.stretches[1:]:
            views = self._views(group.pictures, group.grid, windows)
            yield from self._summed(views, group.grid).split(len(group.members))

    def _summed(self, views: Sequence[View], grid: Grid) -> Tensor:
        """Sum over the scales of scores at the windows' size, [windows · n, C, h, w]."""
        size = grid.height, grid.width
        total: Tensor | None = None
        for view in views:
            scores = self.scores(self.to_input(view.pixels))[..., : view.height, : view.width]
            if (view.height, view.width) != size:
                scores = nn.functional.interpolate(scores, size, mode="bilinear")
            total = scores if total is None else total + scores
        assert total is not None
        return total

    def check(self, train: Dataset) -> None:
        """The weighted classes are the data set's, and one mask value is left for what is not learnt."""
        if len(train.classes) > IGNORED:
            raise UsageError(
                f"expected at most {IGNORED} classes to learn, found {len(train.classes)}: the value "
                f"{IGNORED} is that of pixels that are not learnt from"
            )
        weights: dict[str, float] = self.options.class_weights or {}
        for name in weights:
            if name not in train.classes:
                raise UsageError(f"class_weights: {unknown('class', name, train.classes)}")
        if not any(weights.get(name, 1.0) for name in train.classes):
            raise UsageError("class_weights: every class weighs 0, so that there is nothing to learn")

    def learn(self, train: Dataset) -> None:
        self.check(train)
        super().learn(train)

    def training_batch(self, samples: Sequence[Sample], generator: np.random.Generator) -> TrainingBatch:
        """Images and masks shifted alike and recoloured; objects uncut, where a class is the background.

        Images of several sizes are padded to the largest; what is padded is not learnt from.
        """
        no_object = [place for place, name in enumerate(self.classes) if name == BACKGROUND]
        pictures, masks = [], []
        for sample in samples:
            image, mask = images.of_sample(sample), sample.target
            assert isinstance(mask, np.ndarray)
            objects = ~np.isin(mask, [*no_object, IGNORED]) if no_object else np.zeros(mask.shape, bool)
            down, right = (
                augmentation.draw_shift(
                    generator, places.min(initial=length), places.max(initial=-1) + 1, length
                )
                for places, length in zip(np.nonzero(objects), mask.shape, strict=True)
            )
            pictures.append(augmentation.recoloured(generator, augmentation.shifted(image, down, right)))
            masks.append(augmentation.shifted(mask, down, right, fill=IGNORED))
        height, width = (self._padded(max(mask.shape[axis] for mask in masks)) for axis in (0, 1))
        padded = np.full((len(masks), height, width), IGNORED, dtype=np.int64)
        for place, mask in zip(padded, masks, strict=True):
            place[: mask.shape[0], : mask.shape[1]] = mask
        pixels = [images.pad(picture, height, width) for picture in pictures]
        device = self.runtime.device
        return TrainingBatch(images.to_tensor(pixels, device), torch.from_numpy(padded).to(device))

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        return {"pixels": pixel_loss(self.module(batch.pixels), batch.masks, self.loss_weights())}

    def loss_weights(self) -> Tensor:
        """Of each class in the pixel loss, [C]."""
        named: dict[str, float] | None = self.options.class_weights
        weights = self.own_weights() if named is None else [named.get(name, 1.0) for name in self.classes]
        return torch.tensor(weights, device=self.runtime.device)

    def own_weights(self) -> list[float]:
        """Of each class in the pixel loss where `class_weights` says nothing: all 1 without a background."""
        object_weight = OBJECT_WEIGHT if BACKGROUND in self.classes else 1.0
        return [1.0 if name == BACKGROUND else object_weight for name in self.classes]

    def _padded(self, length: int) -> int:
        return -(-length // self.multiple) * self.multiple


def pixel_loss(scores: Tensor, masks: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean cross-entropy of the pixels that are not ignored, 0 where all are.

    Args:
        scores: [N, C, H, W].
        masks: [N, H, W], int64; 255 is ignored.
        weights: [C], of each class.
    """
    weighed = weights[masks[masks != IGNORED]].sum()
    if weighed == 0:  # a mean of nothing
        return scores.sum() * 0.0
    return nn.functional.cross_entropy(scores.float(), masks, weights, ignore_index=IGNORED)
