"""Sliding windows cover the image, are averaged where they overlap, and need memory for one row."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.segmentation import segmenter
from adapters.segmentation.fcn import Fcn8s, FcnOptions
from adapters.segmentation.full_resolution import FullResolution, FullResolutionOptions
from adapters.segmentation.segmenter import Segmenter
from adapters.segmentation.windows import class_map, window_grid
from harness.adapter import Runtime
from harness.task import Sample

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
LiveBytes = runpy.run_path(str(BENCHMARKS / "live_bytes.py"))["LiveBytes"]
LENGTHS = st.integers(1, 300)
quick = settings(max_examples=40, deadline=None)


class Classes:
    classes = ("background", "a", "b", "c")


def image(height: int, width: int) -> Sample:
    return Sample("0", np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def pixelwise(**options: Any) -> FullResolution:
    """Make a network with random normalisation statistics, so that its classes differ from pixel to pixel."""
    torch.manual_seed(0)
    adapter = FullResolution(FullResolutionOptions(width=4, **options), Runtime())
    adapter.build(Classes())
    with torch.no_grad():
        adapter.module.train()
        adapter.module(torch.randn(2, 3, 64, 64))
    adapter.module.eval()
    return adapter


@quick
@given(LENGTHS, LENGTHS, st.integers(1, 120), st.floats(0, 0.9))
def test_windows_cover_the_image_and_overlap_enough(
    height: int, width: int, side: int, overlap: float
) -> None:
    grid = window_grid(height, width, side, overlap)
    covered = np.zeros((height, width), dtype=int)
    for rows, columns in grid:
        assert rows.stop <= height and columns.stop <= width
        assert rows.stop - rows.start == min(side, height)
        assert columns.stop - columns.start == min(side, width)
        covered[rows, columns] += 1
    assert covered.min() == 1
    for starts, size in ((grid.tops, grid.height), (grid.lefts, grid.width)):
        steps = np.diff(starts)
        assert (steps > 0).all() and (steps <= max(1, size * (1 - overlap))).all()
        needed = ((height if starts is grid.tops else width) - size) / max(1, int(size * (1 - overlap)))
        assert len(starts) == np.ceil(needed) + 1  # the fewest


@quick
@given(st.integers(8, 60), st.integers(8, 60), st.integers(8, 30), st.floats(0, 0.8), st.integers(0, 99))
def test_a_pixels_class_is_the_highest_of_its_mean_scores(
    height: int, width: int, side: int, overlap: float, seed: int
) -> None:
    grid = window_grid(height, width, side, overlap)
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(2, 3, grid.height, grid.width, generator=generator) for _ in grid]
    total, count = torch.zeros(2, 3, height, width), torch.zeros(height, width)
    for (rows, columns), part in zip(grid, parts, strict=True):
        total[:, :, rows, columns] += part
        count[rows, columns] += 1
    classes = class_map(grid, iter(parts))
    assert classes.dtype == torch.uint8
    assert torch.equal(classes.long(), (total / count).argmax(dim=1))


@pytest.mark.parametrize("size", [(96, 96), (40, 95), (96, 33)])
def test_a_window_as_large_as_the_image_changes_nothing(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    plain = Fcn8s(FcnOptions(width=8), Runtime())
    plain.build(Classes())
    windowed = Fcn8s(FcnOptions(width=8, window=96), Runtime())
    windowed.module = plain.module.eval()
    assert np.array_equal(plain.predict([image(*size)])[0], windowed.predict([image(*size)])[0])


def test_far_from_their_borders_windows_give_the_classes_of_the_whole_image() -> None:
    """The receptive field is 33 px to each side; a window that contains it has the whole image's scores."""
    whole, windowed = pixelwise(), pixelwise(window=160, overlap=0.0)
    expected, actual = (adapter.predict([image(160, 320)])[0] for adapter in (whole, windowed))
    assert len(np.unique(expected)) > 1
    inner = np.r_[0:127, 193:320]
    assert np.array_equal(expected[:, inner], actual[:, inner])
    assert not np.array_equal(expected, actual)  # next to the seam both windows see padding


def peak(adapter: Segmenter, sample: Sample) -> int:
    with torch.no_grad(), LiveBytes() as watched:
        adapter.infer(adapter.preprocess([sample]))
    return watched.peak


def test_only_the_class_map_grows_with_the_height_of_the_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(segmenter, "PIXELS_PER_CHUNK", 2 * 32 * 32)  # two windows together
    windowed = pixelwise(window=32)
    low, high = (peak(windowed, image(height, 64)) for height in (128, 1024))
    assert high - low == (1024 - 128) * 64  # one byte per pixel: the class map
    whole = pixelwise()
    assert peak(whole, image(1024, 64)) > 8 * (high - 1024 * 64)


def test_four_windows_of_512_px_are_a_chunk() -> None:
    (group,) = pixelwise(window=512).preprocess([image(1100, 1100)]).groups
    assert [len(chunk) for chunk in group.chunks] == [4, 4, 1]


def test_an_overlap_without_windows_is_refused() -> None:
    with pytest.raises(ValueError, match="overlap: it applies to windows, so set `window` too"):
        FullResolutionOptions(overlap=0.5)
    assert FullResolutionOptions(window=64, overlap=0.5).overlap == 0.5


def test_a_chunk_has_as_many_windows_as_its_pixels_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [image(100, 200), image(100, 200)]
    expected = pixelwise(window=32).predict(samples)
    seen: list[int] = []
    for together in (1, 3, 100):
        monkeypatch.setattr(segmenter, "PIXELS_PER_CHUNK", together * 2 * 32 * 32)
        adapter = pixelwise(window=32)
        adapter.module.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0]) // 2))
        masks = adapter.predict(samples)
        assert all(np.mean(a == b) > 0.999 for a, b in zip(expected, masks, strict=True))  # rounding
    windows = len(window_grid(100, 200, 32, 1 / 3))
    assert windows == 45 and seen == [1] * 45 + [3] * 15 + [45]
