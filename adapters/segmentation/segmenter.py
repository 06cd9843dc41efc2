"""The base class of the segmentation models: windows, augmentation and the pixel loss."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from adapters import images
from adapters.segmentation import augmentation
from adapters.segmentation.augmentation import CROP, Augmentation, TrainingBatch
from adapters.segmentation.receptive_field import receptive_field
from adapters.segmentation.windows import WindowGrid, class_map, window_grid
from adapters.torch_adapter import TorchAdapter
from adapters.vision.input_size import InputSizeOptions
from harness.adapter import Exportable
from harness.datasets.dataset import Dataset
from harness.errors import UsageError
from harness.registry import unknown
from harness.task import BACKGROUND, IGNORED, Image, Mask, Prediction, Sample

PIXELS_PER_CHUNK = 2**20  # at most, of an image with many windows: four windows of 512 px
OBJECT_WEIGHT = 2.0  # class weight of objects, as most pixels are background; prototype of the recipes


class SegmenterOptions(InputSizeOptions):
    """Options of all segmentation models."""

    window: int | None = Field(None, ge=32)
    """Side of sliding windows in px, for images too large to be segmented at once."""
    overlap: float = Field(1 / 3, ge=0, lt=1)
    """Minimum fraction of a side that neighbouring windows share; their scores are averaged there."""
    class_weights: Literal["median-frequency"] | dict[str, Annotated[float, Field(ge=0)]] | None = None
    """Weights of the pixel loss by class name, 1 for other classes, or `median-frequency` balancing (Eigen &
    Fergus 2015 §6.3.2); by default the model's own."""
    augmentation: Augmentation | None = None
    """Variation of training images, by default `digits` for the small networks and `crop` for the papers'."""
    crop: int = Field(CROP, ge=32)
    """Side in px of the crops of the augmentation `crop`."""

    @model_validator(mode="after")
    def _overlap_needs_windows(self) -> Self:
        if self.window is None and self.overlap != SegmenterOptions.model_fields["overlap"].default:
            raise ValueError("overlap: it applies to windows, so set `window` too")
        if self.input_size is not None and self.window is not None:
            raise ValueError("input_size: images are resized as a whole, so it excludes `window`")
        return self


@dataclass(frozen=True, eq=False)
class Group:
    """Images with the same grid of windows, which are segmented together, one chunk of windows at a time.

    The first chunk, which usually contains all windows, is prepared in advance. The others are prepared one
    at a time during inference, so that no more than one is on the device.
    """

    indices: list[int]  # of the images in the batch
    grid: WindowGrid
    images: list[Image]  # padded to the size that the grid covers
    chunks: list[list[tuple[slice, slice]]]  # rows and columns of windows
    first_chunk: Tensor  # uint8 [windows · n, H, W, 3], window by window, resized and padded


@dataclass(frozen=True, eq=False)
class Batch:
    """Images, grouped by size. The grid of an image does not depend on the other images of the batch."""

    groups: list[Group]
    sizes: list[tuple[int, int]]  # (height, width) of each image of the batch


class Segmenter(TorchAdapter[Batch, list[Tensor], TrainingBatch]):
    """An adapter around a module that maps [N, 3, H, W] to class scores [N, C, H, W]."""

    task = "segmentation"
    probes: ClassVar[Mapping[str, str]] = {"receptive_field": "px"}
    options: SegmenterOptions
    architecture_options: ClassVar[tuple[str, ...]] = ("input_size",)
    training_options = frozenset({"class_weights", "augmentation", "crop"})
    balanced_weights: Sequence[float] | None = None
    """Weights of the classes by median frequency balancing, if training uses them."""
    size_multiple: ClassVar[int]  # heights and widths are padded to multiples of this number of px

    def to_input(self, pixels: Tensor) -> Tensor:
        """Convert uint8 pixels [N, H, W, 3] to the input of the module, [N, 3, H, W]."""
        return images.centred(pixels)

    def scores(self, pixels: Tensor) -> Tensor:
        """Map inputs [N, 3, H, W] to class scores [N, C, H, W]."""
        scores: Tensor = self.module(pixels)
        return scores

    def probe(self, samples: Sequence[Sample]) -> dict[str, float]:  # noqa: ARG002
        return {"receptive_field": receptive_field(self.scores, self.runtime.device)}

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size in px to which an image or window is resized."""
        if self.options.input_size is None:
            return height, width
        return images.fitted_size((height, width), self.options.input_shape((height, width)))

    def preprocess(self, samples: Sequence[Sample]) -> Batch:
        originals = [images.of_sample(sample) for sample in samples]
        groups: dict[WindowGrid, list[int]] = defaultdict(list)
        for index, image in enumerate(originals):
            groups[self._grid(*image.shape[:2])].append(index)
        return Batch(
            [self._group(indices, originals, grid) for grid, indices in groups.items()],
            [(image.shape[0], image.shape[1]) for image in originals],
        )

    def infer(self, batch: Batch) -> list[Tensor]:
        """Return class maps [n, H, W], uint8, per group: far fewer bytes to copy to the host than scores."""
        return [class_map(group.grid, self._window_scores(group)) for group in batch.groups]

    def exportable(self) -> dict[str, Exportable]:
        example = torch.zeros(2, 3, 64, 96, device=self.runtime.device)
        return {"network": Exportable(self.module, "forward", (example,), ((0, 2, 3),))}

    def postprocess(self, raw: list[Tensor], batch: Batch) -> list[Prediction]:
        masks: dict[int, Mask] = {}
        for class_maps, group in zip(raw, batch.groups, strict=True):
            for index, mask in zip(group.indices, class_maps.cpu().numpy(), strict=True):
                height, width = batch.sizes[index]
                masks[index] = np.ascontiguousarray(mask[:height, :width])
        return [masks[index] for index in range(len(batch.sizes))]

    def _grid(self, height: int, width: int) -> WindowGrid:
        """Return the windows of an image; images with equal windows are segmented together.

        An image that is segmented at once and at its original size is one padded window.
        """
        side = self.options.window
        whole = side is None or max(height, width) <= side
        if whole and self.input_size(height, width) == (height, width):
            return window_grid(self._padded(height), self._padded(width), None, 0)
        return window_grid(height, width, side, self.options.overlap)

    def _group(self, indices: list[int], originals: Sequence[Image], grid: WindowGrid) -> Group:
        padded = [images.pad(originals[index], *grid.image_size) for index in indices]
        height, width = self.input_size(grid.height, grid.width)
        step = max(1, PIXELS_PER_CHUNK // (len(indices) * self._padded(height) * self._padded(width)))
        windows = list(grid)
        chunks = [windows[start : start + step] for start in range(0, len(grid), step)]
        return Group(indices, grid, padded, chunks, self._windows(padded, chunks[0]))

    def _windows(self, originals: Sequence[Image], chunk: Sequence[tuple[slice, slice]]) -> Tensor:
        """Resize and pad a chunk of windows of each image, and copy them to the device."""
        cut = [image[rows, columns] for rows, columns in chunk for image in originals]
        height, width = self.input_size(*cut[0].shape[:2])
        frame = self._padded(height), self._padded(width)
        resized = [images.pad(images.resize(window, height, width), *frame) for window in cut]
        return images.to_uint8_tensor(resized, self.runtime.device)

    def _window_scores(self, group: Group) -> Iterator[Tensor]:
        """Yield the scores [n, C, h, w] of each window at its own size."""
        size = group.grid.height, group.grid.width
        height, width = self.input_size(*size)
        others = (self._windows(group.images, chunk) for chunk in group.chunks[1:])
        for pixels in chain([group.first_chunk], others):
            scores = self.scores(self.to_input(pixels))[..., :height, :width]
            if (height, width) != size:
                scores = nn.functional.interpolate(scores, size, mode="bilinear")
            yield from scores.split(len(group.indices))

    def check(self, train: Dataset) -> None:
        """Check that weighted classes exist, and that a mask value is left for ignored pixels."""
        if len(train.classes) > IGNORED:
            raise UsageError(
                f"expected at most {IGNORED} classes to learn, found {len(train.classes)}: the mask value "
                f"{IGNORED} marks ignored pixels"
            )
        weights = self.options.class_weights or {}
        if isinstance(weights, str):
            return
        for name in weights:
            if name not in train.classes:
                raise UsageError(f"class_weights: {unknown('class', name, train.classes)}")
        if not any(weights.get(name, 1.0) for name in train.classes):
            raise UsageError("class_weights: every class has weight 0, so there is nothing to learn")

    def learn(self, train: Dataset) -> None:
        self.check(train)
        super().learn(train)
        if self.options.class_weights == "median-frequency":
            masks = [augmentation.image_and_mask(train[index])[1] for index in range(len(train))]
            self.balanced_weights = augmentation.frequency_weights(masks, len(train.classes))

    def training_batch(self, samples: Sequence[Sample], generator: np.random.Generator) -> TrainingBatch:
        """Augment images and masks alike, and pad them to the largest; the loss ignores the padding."""
        pairs = [self._augmented(*augmentation.image_and_mask(sample), generator) for sample in samples]
        height, width = (self._padded(max(mask.shape[axis] for _, mask in pairs)) for axis in (0, 1))
        pixels = [images.pad(image, height, width) for image, _ in pairs]
        masks = np.stack([augmentation.padded(mask, height, width) for _, mask in pairs])
        device = self.runtime.device
        inputs = self.to_input(images.to_uint8_tensor(pixels, device))
        return TrainingBatch(inputs, torch.from_numpy(masks).to(device).long())

    def default_augmentation(self) -> Augmentation:
        """Return the augmentation used without the option."""
        return "digits"

    def _augmented(self, image: Image, mask: Mask, generator: np.random.Generator) -> tuple[Image, Mask]:
        options = self.options
        if options.input_size is not None:
            image, mask = augmentation.resized(image, mask, *self.input_size(*mask.shape))
        kind = options.augmentation or self.default_augmentation()
        if kind == "digits":
            background = [label for label, name in enumerate(self.classes) if name == BACKGROUND]
            return augmentation.shifted(image, mask, generator, background)
        if kind == "crop":
            # Training without options is torchvision's.
            side = augmentation.SHORTER_SIDE if options.augmentation is None else None
            return augmentation.cropped(image, mask, generator, options.crop, side)
        return augmentation.flipped(image, mask, generator) if kind == "flip" else (image, mask)

    def loss(self, batch: TrainingBatch) -> dict[str, Tensor]:
        return {"pixels": pixel_loss(self.module(batch.pixels), batch.masks, self.class_weights())}

    def class_weights(self) -> Tensor:
        """Return the weight of each class in the pixel loss, [C]."""
        given = self.options.class_weights
        if self.balanced_weights is not None:
            weights = list(self.balanced_weights)
        elif not isinstance(given, dict):
            weights = self.default_class_weights()
        else:
            weights = [given.get(name, 1.0) for name in self.classes]
        return torch.tensor(weights, device=self.runtime.device)

    def default_class_weights(self) -> list[float]:
        """Return the weights used without the option: 1, or OBJECT_WEIGHT for objects beside a background."""
        object_weight = OBJECT_WEIGHT if BACKGROUND in self.classes else 1.0
        return [1.0 if name == BACKGROUND else object_weight for name in self.classes]

    def _padded(self, length: int) -> int:
        return -(-length // self.size_multiple) * self.size_multiple


def pixel_loss(scores: Tensor, masks: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean cross-entropy of the pixels that are not ignored, or 0 if all are.

    Args:
        scores: [N, C, H, W].
        masks: [N, H, W], int64; 255 is ignored.
        weights: [C], one per class.
    """
    total_weight = weights[masks[masks != IGNORED]].sum()
    if total_weight == 0:  # the mean is undefined
        return scores.sum() * 0.0
    return nn.functional.cross_entropy(scores.float(), masks, weights, ignore_index=IGNORED)
