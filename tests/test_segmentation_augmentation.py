"""Random scale, flip and crop of training photographs, with every random number given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms import functional

from adapters.segmentation.augmentation import cropped
from adapters.segmentation.fcn import Fcn8s, Fcn32s, FcnOptions
from adapters.segmentation.fcn_resnet import FcnResNet50, FcnResNetOptions
from adapters.segmentation.segmenter import Segmenter
from harness.adapter import Runtime
from harness.task import Sample

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # means and deviations, torchvision's presets
UNSCALED = 1 / 3  # of the way from half to twice the size


class Draws:
    """A generator of given numbers: fraction of the scale range, flip draw, first or last crop position."""

    def __init__(self, scale: float = UNSCALED, flip: float = 0.99, last: bool = False) -> None:
        self.scale, self.flip, self.last = scale, flip, last

    def uniform(self, low: float, high: float) -> float:
        return low + self.scale * (high - low)

    def random(self) -> float:
        return self.flip

    def integers(self, low: int, high: int) -> int:
        return high - 1 if self.last else low


def noise(height: int, width: int) -> tuple[Any, Any]:
    """Return a random image and a random mask of the classes 0 and 2."""
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return image, 2 * generator.integers(0, 2, (height, width), dtype=np.uint8)


@pytest.mark.parametrize(("scale", "height", "width"), [(0, 260, 520), (1, 1040, 2080)])
def test_the_shorter_side_is_between_half_and_twice_520_px(scale: float, height: int, width: int) -> None:
    _, target = cropped(*noise(52, 104), Draws(scale), crop=2100)  # type: ignore[arg-type]
    seen = target != 255
    assert (seen.any(axis=1).sum(), seen.any(axis=0).sum()) == (height, width)
    assert set(np.unique(target)) == {0, 2, 255}, "classes are not interpolated"


def test_half_of_the_images_are_flipped() -> None:
    image, mask = noise(520, 540)
    for draw, direction in ((0.49, -1), (0.51, 1)):
        crop, target = cropped(image, mask, Draws(flip=draw), crop=600)  # type: ignore[arg-type]
        np.testing.assert_array_equal(crop[:520, :540], image[:, ::direction])
        np.testing.assert_array_equal(target[:520, :540], mask[:, ::direction])


@pytest.mark.parametrize("last", [False, True])
def test_crops_of_480_px_reach_every_corner(last: bool) -> None:
    image, mask = noise(520, 540)
    crop, target = cropped(image, mask, Draws(last=last))  # type: ignore[arg-type]
    part = (slice(-480, None),) * 2 if last else (slice(480),) * 2
    np.testing.assert_array_equal(crop, image[part])
    np.testing.assert_array_equal(target, mask[part])


def test_image_and_mask_are_scaled_flipped_and_cropped_alike() -> None:
    """The image shows its own mask, class k as grey level 60·k, so both can be compared pixel by pixel."""
    mask = np.kron(np.random.default_rng(0).integers(0, 3, (4, 5), np.uint8), np.ones((130, 140), np.uint8))
    image = np.repeat(60 * mask[..., None], 3, axis=2)
    scaled = 0
    for seed in range(12):
        crop, target = cropped(image, mask, np.random.default_rng(seed), crop=480)
        assert crop.shape == (480, 480, 3) and target.shape == (480, 480)
        seen = target != 255
        agree = np.abs(crop[..., 0].astype(int) - 60 * target.astype(int))[seen] <= 1
        assert agree.mean() > 0.97  # edges between classes are blurred in the image
        scaled += not seen.all()  # a small image leaves part of the crop empty
        assert (crop[~seen] == 127).all()
    assert scaled


def adapters() -> list[Segmenter]:
    made: list[Segmenter] = [
        Fcn8s(FcnOptions(backbone="vgg16"), Runtime()),
        FcnResNet50(FcnResNetOptions(), Runtime()),
    ]
    for adapter in made:
        adapter.classes = ("background", "thing", "other")
    return made


@pytest.mark.parametrize("adapter", adapters(), ids=lambda adapter: str(adapter.name))
def test_training_and_prediction_standardise_pixels_alike(adapter: Segmenter) -> None:
    image, mask = noise(520, 540)
    batch = adapter.training_batch([Sample("0", image, mask)], Draws())  # type: ignore[arg-type]
    part = np.ascontiguousarray(image[:480, :480])
    expected = functional.normalize(functional.to_tensor(part), *map(list, IMAGENET))
    torch.testing.assert_close(batch.pixels[0], expected)
    torch.testing.assert_close(adapter.to_input(torch.from_numpy(part[None]))[0], expected)
    np.testing.assert_array_equal(batch.masks[0], mask[:480, :480])


@pytest.mark.parametrize("adapter", adapters(), ids=lambda adapter: str(adapter.name))
def test_objects_weigh_no_more_than_the_background_in_photographs(adapter: Segmenter) -> None:
    assert adapter.class_weights().tolist() == [1, 1, 1]
    small = Fcn32s(FcnOptions(), Runtime())
    small.classes = adapter.classes
    assert small.class_weights().tolist() == [1, 2, 2]
