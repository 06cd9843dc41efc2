"""`voc-segmentation`: the development kit's folder, and the shipped suite with and without it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_suite import run_suite

from adapters.segmentation.fcn import Fcn8s, FcnOptions
from harness import checkpoint as checkpoints
from harness.adapter import Runtime
from harness.datasets.voc.annotations import CLASSES
from harness.datasets.voc.segmentation import VocSegmentation, VocSegmentationOptions
from harness.driver.run import exit_code
from harness.errors import UnavailableError, UsageError
from harness.stages.train import check
from harness.suite.loading import find_suite, load_suite
from harness.suite.plan import plan

# The devkit's VOClabelcolormap: a label's bits, lowest first, go to the channels' bits, highest first.
PALETTE = [
    sum(((label >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(8))
    for label in range(256)
    for channel in range(3)
]


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    """Create three images, of which 2007_000003 has no mask."""
    root = tmp_path / "VOCdevkit/VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for number in (1, 2, 3):
        Image.new("RGB", (4, 3)).save(root / f"JPEGImages/2007_00000{number}.jpg")
    for number in (1, 2):
        labels = np.zeros((3, 4), dtype=np.uint8)
        labels[1, :2], labels[2, 0] = (15, 20), 255
        mask = Image.fromarray(labels)
        mask.putpalette(PALETTE)
        mask.save(root / f"SegmentationClass/2007_00000{number}.png")
    lists = {"train": "2007_000001", "val": "2007_000002", "trainval": "2007_000001\n2007_000002"}
    for name, ids in lists.items():
        (root / f"ImageSets/Segmentation/{name}.txt").write_text(f"{ids}\n")
    return root


def opened(root: Path, split: str = "validation", **image_sets: str) -> VocSegmentation:
    return VocSegmentation(VocSegmentationOptions(root=root, image_sets=image_sets), split, "segmentation")


def test_the_lists_define_the_splits(devkit: Path) -> None:
    assert [sample.id for sample in opened(devkit, "train")] == ["2007_000001"]
    assert [sample.id for sample in opened(devkit)] == ["2007_000002"]
    both = opened(devkit, validation="trainval")
    assert [sample.id for sample in both] == ["2007_000001", "2007_000002"]


def test_classes_are_vocs_21_and_void_is_ignored(devkit: Path) -> None:
    dataset = opened(devkit)
    assert len(dataset.classes) == 21
    assert (dataset.classes[0], dataset.classes[15], dataset.classes[20]) == (
        "background",
        "person",
        "tvmonitor",
    )
    assert dataset.metric_options == {"ignore_index": 255}
    np.testing.assert_array_equal(dataset[0].target, [[0, 0, 0, 0], [15, 20, 0, 0], [255, 0, 0, 0]])


def test_missing_lists_masks_and_folders_are_named(devkit: Path) -> None:
    with pytest.raises(UsageError, match=r"Segmentation/test.txt: cannot be read: No such file"):
        opened(devkit, "test")
    with pytest.raises(UsageError, match=r"Segmentation/seg11valid.txt: cannot be read"):
        opened(devkit, validation="seg11valid")
    (devkit / "ImageSets/Segmentation/val.txt").write_text("2007_000003\n")
    with pytest.raises(
        UsageError, match=r"val.txt:1: '2007_000003': label file not found: .*Class/2007_000003.png"
    ):
        opened(devkit)
    with pytest.raises(UnavailableError, match="VOC2011: folder not found"):
        opened(devkit.parent / "VOC2011")


def test_an_undeclared_label_is_named(devkit: Path) -> None:
    Image.fromarray(np.full((3, 4), 21, dtype=np.uint8)).save(devkit / "SegmentationClass/2007_000002.png")
    with pytest.raises(UsageError, match=r"2007_000002.png: the pixel at x 0, y 0 has the label 21.* 255\)"):
        opened(devkit)[0]


def suite_of(devkit: Path, checkpoint: str) -> dict[str, Any]:
    return {
        "name": "voc",
        "datasets": {"voc": {"dataset": "voc-segmentation", "options": {"root": str(devkit)}}},
        "adapters": {"fcn": {"adapter": "fcn-8s", "checkpoint": checkpoint}},
        "benchmarks": {
            "b": {"dataset": "voc", "split": "validation", "adapters": ["fcn"], "metrics": ["iou"]}
        },
    }


def test_a_bad_mask_fails_its_shard_and_is_named(devkit: Path, tmp_path: Path) -> None:
    """The run continues and records the error. Nothing is scored."""
    Image.new("RGB", (4, 3), "red").save(devkit / "SegmentationClass/2007_000002.png")
    untrained = Fcn8s(FcnOptions(width=4), Runtime())
    untrained.build(opened(devkit))
    checkpoints.save(untrained.checkpoint(), tmp_path / "untrained.safetensors")
    results = run_suite(tmp_path, suite_of(devkit, "untrained.safetensors"))
    (trial,) = results.trials
    assert (trial.status, trial.metrics) == ("failed", {})
    assert "2007_000002.png: expected a palette or grey PNG" in trial.failures[0].error
    assert exit_code(results) == 2, "the input is wrong, not the infrastructure"


def test_a_model_with_other_classes_is_rejected_before_the_run_starts(devkit: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"the model lacks a class of the data set: unknown class 'aeroplane'"
    ):
        run_suite(tmp_path, suite_of(devkit, "fcn-8s-scenes"))
    assert not list(tmp_path.rglob("run.json"))


class TestShippedSuite:
    def test_without_data_and_weights_it_is_valid_and_all_benchmarks_are_skipped(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("HARNESS_DATA", "HARNESS_WEIGHTS"):
            monkeypatch.delenv(name, raising=False)
        planned = plan(load_suite(find_suite("voc-segmentation")))
        assert planned.trials == ()
        assert [skipped.benchmark for skipped in planned.skipped] == [
            "voc2011-strides",
            "coco-in-voc-classes",
            "voc2012",
        ]
        missing = ["HARNESS_DATA", "HARNESS_WEIGHTS", "HARNESS_WEIGHTS"]
        assert [re.findall(r"(\w+) is not set", skipped.reason) for skipped in planned.skipped] == [
            [name] for name in missing
        ]

    def test_it_runs_the_benchmarks_that_have_data_and_weights(
        self, devkit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        torch.save({"weight": torch.zeros(1)}, tmp_path / "fcn_resnet50_coco-1167a1af.pth")
        monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
        monkeypatch.setenv("HARNESS_WEIGHTS", str(tmp_path))
        planned = plan(load_suite(find_suite("voc-segmentation")))
        assert [trial.name for trial in planned.trials] == [
            "voc2012/fcn-resnet50",
            "voc2012/torchvision-fcn-resnet50",
        ]
        reasons = {skipped.benchmark: skipped.reason for skipped in planned.skipped}
        assert reasons["voc2011-strides"].endswith("VOC2011: folder not found (root of the data set)")
        assert reasons["coco-in-voc-classes"].endswith("coco: folder not found (root of the data set)")

    def test_its_recipes_train_with_equal_settings(
        self, devkit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        older = devkit.rename(devkit.with_name("VOC2011"))
        for name in ("sbd-train", "seg11valid"):
            shutil.copy(
                older / "ImageSets/Segmentation/train.txt", older / f"ImageSets/Segmentation/{name}.txt"
            )
        monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
        monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
        monkeypatch.chdir(tmp_path)
        planned = plan(load_suite(find_suite("voc-segmentation")), only="voc2011-strides/*")
        assert [reference.name for reference in planned.missing_checkpoints] == [
            f"{net}-vgg16-voc" for net in ("fcn-32s-bilinear", "fcn-32s", "fcn-16s", "fcn-8s")
        ]
        settings = []
        for reference in planned.missing_checkpoints:
            assert reference.recipe is not None
            check(reference.recipe)
            shared = {**reference.recipe.options, "upsampling": None}
            settings.append(reference.recipe.model_copy(update={"adapter": "", "options": shared}))
        assert all(setting == settings[0] for setting in settings)

    def test_coco_masks_have_vocs_classes(self) -> None:
        options = load_suite(find_suite("voc-segmentation")).suite.datasets["coco-in-voc-classes"].options
        assert options["classes"] == ["background", *CLASSES]
