"""The scenes data set: nothing leaks between splits, annotations agree with the picture, same everywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import combinations, pairwise

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sklearn.datasets import load_digits, load_sample_images

from harness.datasets.dataset import DATASETS
from harness.datasets.scenes.composer import SIZE, compose
from harness.datasets.scenes.parts import arc, badge, glyph_shape, scrambled, stroke
from harness.datasets.scenes.scenes import Scenes, ScenesOptions, coco_annotations
from harness.datasets.scenes.sources import sources
from harness.task import Annotations

SPLITS = ("train", "validation", "test")
COUNT = 200  # scenes looked at; 3–4 ms each


@pytest.fixture(scope="module")
def detection() -> Scenes:
    return Scenes(ScenesOptions(size=COUNT), "test", "detection")


@pytest.fixture(scope="module")
def segmentation() -> Scenes:
    return Scenes(ScenesOptions(size=COUNT), "test", "segmentation")


@pytest.fixture(scope="module")
def composed() -> list:
    return [compose(np.random.default_rng([7, index]), sources("train")) for index in range(COUNT)]


def test_no_glyph_serves_two_splits_and_each_class_is_split_70_15_15():
    digits = load_digits()
    for digit in range(10):
        shares = [{glyph.tobytes() for glyph in sources(split).glyphs[digit]} for split in SPLITS]
        assert all(one.isdisjoint(other) for one, other in combinations(shares, 2))
        total = int((digits.target == digit).sum())
        assert sum(map(len, shares)) == total  # no two of the 1,797 glyphs are equal
        assert [len(share) / total for share in shares] == pytest.approx([0.7, 0.15, 0.15], abs=0.025)


def test_the_strips_of_a_photograph_are_disjoint_and_make_it_up():
    for index, photograph in enumerate(load_sample_images().images):
        strips = [sources(split).photographs[index] for split in ("test", "train", "validation")]
        np.testing.assert_array_equal(np.concatenate(strips, axis=1), photograph)


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


def test_both_tasks_see_the_same_pictures(detection, segmentation):
    for index in range(5):
        assert detection[index].id == segmentation[index].id
        np.testing.assert_array_equal(detection[index].input, segmentation[index].input)


def test_another_process_without_vector_instructions_makes_the_same_scenes(detection):
    program = (
        "from harness.datasets.scenes.scenes import Scenes, ScenesOptions;"
        f"print(Scenes(ScenesOptions(size={COUNT}), 'test', 'detection').fingerprint)"
    )
    plain = "X86_V3 X86_V4 AVX512_ICL AVX2 FMA3 AVX512F AVX512_SKX"  # names of NumPy ≥ 2.4 and before
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env={**os.environ, "PYTHONHASHSEED": "1", "NPY_DISABLE_CPU_FEATURES": plain},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == detection.fingerprint


def test_the_fingerprint_tells_apart_what_differs():
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
    assert fingerprint(size=1000) == fingerprint()  # what the default is


def test_boxes_and_mask_agree(detection, segmentation):
    """Every box ends at pixels of its class, and every pixel of a class lies in a box of it."""
    for index in range(COUNT):
        target, mask = detection[index].target, segmentation[index].target
        assert isinstance(target, Annotations)
        unclaimed = mask != 0
        for box, label in zip(target.boxes.astype(int), target.labels, strict=True):
            x1, y1, x2, y2 = box
            assert 0 <= x1 < x2 <= SIZE and 0 <= y1 < y2 <= SIZE
            inside = mask[y1:y2, x1:x2] == label + 1
            assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()
            unclaimed[y1:y2, x1:x2] &= ~inside
        assert not unclaimed.any()


def test_digits_remain_visible_and_their_pixels_are_counted_once(composed):
    shares = [
        (scene.owner == index + 1).sum() / drawn
        for scene in composed
        for index, drawn in enumerate(scene.drawn)
    ]
    assert min(shares) >= 0.6
    assert max(shares) == 1.0
    assert 0.05 < np.mean(np.array(shares) < 1) < 0.6  # occlusion happens, and not always


def test_the_mix_of_scenes(composed):
    counts = np.array([len(scene.digits) for scene in composed])
    assert 3.3 < counts.mean() < 4.7 and counts.min() == 0 and counts.max() > 6
    sides = np.concatenate([scene.boxes[:, 2:] - scene.boxes[:, :2] for scene in composed])
    areas = sides.prod(1)
    for low, high in ((0, 20**2), (20**2, 40**2), (40**2, SIZE**2)):
        assert 0.1 < ((areas >= low) & (areas < high)).mean() < 0.6
    assert 8 <= np.median(sides[:, 1]) <= 40 and sides[:, 1].max() <= SIZE
    digits = np.bincount(np.concatenate([scene.digits for scene in composed]).astype(int), minlength=10)
    assert digits.min() > 0.5 * digits.mean()


def test_areas_are_those_of_boxes_and_limits_suit_the_size(detection, segmentation):
    target = detection[1].target
    assert isinstance(target, Annotations) and len(target.boxes)
    sides = target.boxes[:, 2:] - target.boxes[:, :2]
    np.testing.assert_array_equal(target.areas, sides.prod(1))
    assert detection.metric_options["area_ranges"]["medium"] == [400, 1600]
    assert segmentation.metric_options == {}


def test_classes_ids_and_range(detection, segmentation):
    assert detection.classes == tuple("0123456789")
    assert segmentation.classes == ("background", *"0123456789")
    assert detection[12].id == "test-000012"
    ids = [detection[index].id for index in range(20)]
    assert all(one < other for one, other in pairwise(ids))
    for index in (-1, COUNT):
        with pytest.raises(IndexError):
            detection[index]
    assert len(Scenes(ScenesOptions(), "train", "detection")) == 20_000
    assert DATASETS.get("scenes") is Scenes


@pytest.mark.parametrize("height", [12, 30, 84])
@pytest.mark.parametrize("split", SPLITS)
def test_glyphs_are_enlarged_to_the_height_asked_for(height, split):
    for glyphs in sources(split).glyphs:
        shapes = [glyph_shape(glyph, height, 1.0, 0.0, 0.0, 0.5) for glyph in glyphs[:5]]
        inked = [shape.shape[0] - 2 for shape in shapes]  # a margin of one pixel on both sides
        assert np.mean(inked) == pytest.approx(height, rel=0.12, abs=1.5)


def test_shapes_are_opacities_cut_to_their_ink():
    glyph = sources("train").glyphs[8][0]
    for shape in (
        glyph_shape(glyph, 40, 1.2, 0.2, -0.2, 0.0),
        stroke(30, 4, 0.5),
        arc(30, 4, 1.0, 2.0),
    ):
        assert shape.dtype == np.float32 and shape.min() >= 0 and shape.max() <= 1
        solid = shape >= 0.5
        assert solid[1].any() and solid[-2].any() and solid[:, 1].any() and solid[:, -2].any()
        assert not (solid[0].any() or solid[-1].any() or solid[:, 0].any() or solid[:, -1].any())


def test_a_stroke_and_a_badge_have_the_area_of_geometry():
    capsule = 40 * 6 + np.pi * 3**2  # a rectangle and two half discs
    assert stroke(40, 6, 0.7).sum() == pytest.approx(capsule, rel=0.03)
    assert badge(40, 30, 2).sum() == pytest.approx(np.pi * 20 * 15, rel=0.03)
    assert badge(40, 30, 1).sum() == pytest.approx(40 * 30 / 2, rel=0.05)


def test_a_scrambled_glyph_keeps_its_ink_and_loses_its_form():
    glyph = sources("test").glyphs[0][0]
    for seed in range(4):
        mixed = scrambled(np.random.default_rng(seed), glyph)
        assert mixed.sum() == glyph.sum() and (mixed != glyph).mean() > 0.2


def test_the_coco_document_is_read_by_pycocotools_and_truth_scores_1(detection):
    document = coco_annotations(detection, 30)
    assert [image["id"] for image in document["images"]] == list(range(1, 31))
    assert document["images"][4]["file_name"] == "test-000004.png"
    reference = COCO()
    reference.dataset = document
    reference.createIndex()
    results = reference.loadRes(
        [
            {key: annotation[key] for key in ("image_id", "category_id", "bbox")} | {"score": 1.0}
            for annotation in document["annotations"]
        ]
    )
    evaluation = COCOeval(reference, results, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)
    first = next(index for index in range(30) if len(detection[index].target.boxes))
    annotation = document["annotations"][0]
    assert annotation["id"] == 1 and annotation["image_id"] == first + 1
    x, y, width, height = annotation["bbox"]
    np.testing.assert_array_equal(detection[first].target.boxes[0], [x, y, x + width, y + height])
    assert document["categories"][annotation["category_id"] - 1]["name"] == str(
        detection[first].target.labels[0]
    )
