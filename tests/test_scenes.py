"""The scenes data set: splits share no source, annotations match the image, all machines agree."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import combinations, pairwise

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_sample_images

from harness.datasets.dataset import DATASETS
from harness.datasets.scenes.canvas import SIZE
from harness.datasets.scenes.scenes import Scene, Scenes, ScenesOptions, compose
from harness.datasets.scenes.shapes import GlyphStyle, arc, scramble_glyph, stroke, superellipse
from harness.datasets.scenes.sources import load_sources
from harness.task import Annotations

SPLITS = ("train", "validation", "test")
COUNT = 200  # scenes per test; 3–4 ms each


@pytest.fixture(scope="module")
def detection() -> Scenes:
    return Scenes(ScenesOptions(size=COUNT), "test", "detection")


@pytest.fixture(scope="module")
def segmentation() -> Scenes:
    return Scenes(ScenesOptions(size=COUNT), "test", "segmentation")


@pytest.fixture(scope="module")
def composed() -> list[Scene]:
    return [compose(np.random.default_rng([7, index]), load_sources("train")) for index in range(COUNT)]


def test_no_glyph_is_in_two_splits_and_each_class_is_split_70_15_15():
    digits = load_digits()
    for digit in range(10):
        by_split = [{glyph.tobytes() for glyph in load_sources(split).glyphs[digit]} for split in SPLITS]
        assert all(glyphs.isdisjoint(others) for glyphs, others in combinations(by_split, 2))
        total = int((digits.target == digit).sum())
        assert sum(map(len, by_split)) == total  # no two of the 1,797 glyphs are equal
        assert [len(glyphs) / total for glyphs in by_split] == pytest.approx([0.7, 0.15, 0.15], abs=0.025)


def test_the_splits_divide_each_source_image_into_disjoint_strips():
    for index, image in enumerate(load_sample_images().images):
        strips = [load_sources(split).images[index] for split in ("test", "train", "validation")]
        np.testing.assert_array_equal(np.concatenate(strips, axis=1), image)


def test_a_scene_depends_on_seed_split_and_index_only(detection):
    backwards = Scenes(ScenesOptions(size=3), "test", "detection")
    for index in (2, 0, 1):
        np.testing.assert_array_equal(backwards[index].input, detection[index].input)
    others = [
        Scenes(ScenesOptions(seed=1), "test", "detection")[0],
        Scenes(ScenesOptions(), "train", "detection")[0],
        detection[1],
    ]
    assert all((other.input != detection[0].input).any() for other in others)


def test_both_tasks_have_the_same_images(detection, segmentation):
    for index in range(5):
        assert detection[index].id == segmentation[index].id
        np.testing.assert_array_equal(detection[index].input, segmentation[index].input)


def test_another_process_without_vector_instructions_generates_the_same_scenes(detection):
    program = (
        "from harness.datasets.scenes.scenes import Scenes, ScenesOptions;"
        f"print(Scenes(ScenesOptions(size={COUNT}), 'test', 'detection').fingerprint)"
    )
    vector_instructions = (
        "X86_V3 X86_V4 AVX512_ICL AVX2 FMA3 AVX512F AVX512_SKX"  # names of NumPy ≥ 2.4 and before
    )
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env={**os.environ, "PYTHONHASHSEED": "1", "NPY_DISABLE_CPU_FEATURES": vector_instructions},
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout.strip() == detection.fingerprint


def test_the_fingerprint_depends_on_options_split_and_task():
    def fingerprint(split: str = "test", task: str = "detection", **options: int) -> str:
        return Scenes(ScenesOptions(**options), split, task).fingerprint

    different = [
        fingerprint(),
        fingerprint(seed=1),
        fingerprint(size=999),
        fingerprint(split="train"),
        fingerprint(task="segmentation"),
    ]
    assert len(set(different)) == len(different)
    assert fingerprint(size=1000) == fingerprint()  # the default size


def test_boxes_and_masks_agree(detection, segmentation):
    """Each box is tight around pixels of its class, and each pixel of a class is in a box of that class."""
    for index in range(COUNT):
        target, mask = detection[index].target, segmentation[index].target
        assert isinstance(target, Annotations)
        outside_boxes = mask != 0
        for box, label in zip(target.boxes.astype(int), target.labels, strict=True):
            x1, y1, x2, y2 = box
            assert 0 <= x1 < x2 <= SIZE and 0 <= y1 < y2 <= SIZE
            inside = mask[y1:y2, x1:x2] == label + 1
            assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()
            outside_boxes[y1:y2, x1:x2] &= ~inside
        assert not outside_boxes.any()


def test_at_least_60_percent_of_each_digit_is_visible_and_some_digits_are_occluded(composed):
    visible = [
        (scene.instances == index + 1).sum() / area
        for scene in composed
        for index, area in enumerate(scene.unoccluded_areas)
    ]
    assert min(visible) >= 0.6
    assert max(visible) == 1.0
    assert 0.05 < np.mean(np.array(visible) < 1) < 0.6


def test_numbers_sizes_and_classes_of_digits_vary(composed):
    counts = np.array([len(scene.digits) for scene in composed])
    assert 3.3 < counts.mean() < 4.7 and counts.min() == 0 and counts.max() > 6
    sides = np.concatenate([scene.boxes[:, 2:] - scene.boxes[:, :2] for scene in composed])
    areas = sides.prod(1)
    for low, high in ((0, 20**2), (20**2, 40**2), (40**2, SIZE**2)):
        assert 0.1 < ((areas >= low) & (areas < high)).mean() < 0.6
    assert 8 <= np.median(sides[:, 1]) <= 40 and sides[:, 1].max() <= SIZE
    digits = np.bincount(np.concatenate([scene.digits for scene in composed]).astype(int), minlength=10)
    assert digits.min() > 0.5 * digits.mean()


def test_areas_are_those_of_boxes_and_size_limits_are_for_128_px(detection, segmentation):
    target = detection[1].target
    assert isinstance(target, Annotations) and len(target.boxes)
    sides = target.boxes[:, 2:] - target.boxes[:, :2]
    np.testing.assert_array_equal(target.areas, sides.prod(1))
    assert detection.metric_options["area_ranges"]["medium"] == [400, 1600]
    assert segmentation.metric_options == {}


def test_classes_ids_and_index_range(detection, segmentation):
    assert detection.classes == tuple("0123456789")
    assert segmentation.classes == ("background", *"0123456789")
    assert detection[12].id == "test-000012"
    ids = [detection[index].id for index in range(20)]
    assert all(first < second for first, second in pairwise(ids))
    for index in (-1, COUNT):
        with pytest.raises(IndexError):
            detection[index]
    assert len(Scenes(ScenesOptions(), "train", "detection")) == 20_000
    assert DATASETS.get("scenes") is Scenes


@pytest.mark.parametrize("height", [12, 30, 84])
@pytest.mark.parametrize("split", SPLITS)
def test_glyphs_are_enlarged_to_the_height_of_the_style(height, split):
    style = GlyphStyle(height, width_factor=1.0, angle=0.0, shear=0.0, weight=0.5)
    for glyphs in load_sources(split).glyphs:
        shapes = [style.render(glyph) for glyph in glyphs[:5]]
        heights = [shape.shape[0] - 2 for shape in shapes]  # without the margin of one pixel on both sides
        assert np.mean(heights) == pytest.approx(height, rel=0.12, abs=1.5)


def test_shapes_are_coverages_cropped_to_their_ink():
    glyph = load_sources("train").glyphs[8][0]
    for shape in (
        GlyphStyle(40, width_factor=1.2, angle=0.2, shear=-0.2, weight=0.0).render(glyph),
        stroke(30, 4, 0.5),
        arc(30, 4, 1.0, 2.0),
    ):
        assert shape.dtype == np.float32 and shape.min() >= 0 and shape.max() <= 1
        solid = shape >= 0.5
        assert solid[1].any() and solid[-2].any() and solid[:, 1].any() and solid[:, -2].any()
        assert not (solid[0].any() or solid[-1].any() or solid[:, 0].any() or solid[:, -1].any())


def test_a_stroke_and_a_superellipse_have_their_geometric_area():
    capsule = 40 * 6 + np.pi * 3**2  # a rectangle and two half-discs
    assert stroke(40, 6, 0.7).sum() == pytest.approx(capsule, rel=0.03)
    assert superellipse(40, 30, 2).sum() == pytest.approx(np.pi * 20 * 15, rel=0.03)
    assert superellipse(40, 30, 1).sum() == pytest.approx(40 * 30 / 2, rel=0.05)


def test_a_scrambled_glyph_keeps_its_ink_and_loses_its_shape():
    glyph = load_sources("test").glyphs[0][0]
    for seed in range(4):
        scrambled = scramble_glyph(np.random.default_rng(seed), glyph)
        assert scrambled.sum() == glyph.sum() and (scrambled != glyph).mean() > 0.2
