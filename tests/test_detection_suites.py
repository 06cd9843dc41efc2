"""The shipped suites `coco` and `voc` are valid anywhere; trials with data and weights are planned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from harness import checkpoint as checkpoints
from harness.errors import UsageError
from harness.suite.loading import find_suite, load_suite
from harness.suite.plan import plan


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write one image in the layouts of COCO 2017 and of VOC2007's test set."""
    for folder in (
        "coco/annotations",
        "coco/val2017",
        *(f"VOCdevkit/VOC2007/{f}" for f in ("JPEGImages", "Annotations", "ImageSets/Main")),
    ):
        (tmp_path / folder).mkdir(parents=True)
    voc = tmp_path / "VOCdevkit/VOC2007"
    for path in (tmp_path / "coco/val2017/000000000139.jpg", voc / "JPEGImages/000001.jpg"):
        Image.new("RGB", (20, 15)).save(path)
    document = {
        "images": [{"id": 139, "file_name": "000000000139.jpg", "width": 20, "height": 15}],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [],
    }
    (tmp_path / "coco/annotations/instances_val2017.json").write_text(json.dumps(document))
    (voc / "Annotations/000001.xml").write_text("<annotation></annotation>")
    (voc / "ImageSets/Main/test.txt").write_text("000001\n")
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    monkeypatch.setenv("HARNESS_WEIGHTS", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("suite", "benchmarks"),
    [("coco", ["faster-rcnn", "ssd300"]), ("voc", ["rcnn", "fast-rcnn", "faster-rcnn", "yolo", "ssd300"])],
)
def test_without_data_and_weights_a_suite_is_valid_and_everything_is_skipped(
    suite: str, benchmarks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HARNESS_DATA", "HARNESS_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)
    planned = plan(load_suite(find_suite(suite)))
    assert planned.trials == ()
    assert [skipped.benchmark for skipped in planned.skipped] == benchmarks
    assert all("HARNESS_WEIGHTS is not set" in skipped.reason for skipped in planned.skipped)


def test_coco_runs_own_and_torchvisions_models_on_the_same_weights(data: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, data / "ssd300_vgg16_coco-b556d3b4.pth")
    planned = plan(load_suite(find_suite("coco")))
    assert [trial.name for trial in planned.trials] == ["ssd300/ssd300", "ssd300/torchvision-ssd300"]
    own, peer = (trial.spec for trial in planned.trials)
    assert (own.checkpoint, own.dataset, own.size) == (peer.checkpoint, peer.dataset, 1)
    (skipped,) = planned.skipped
    assert skipped.reason.endswith("fasterrcnn_resnet50_fpn_coco-258fb6c6.pth: no such file")


def test_voc_runs_the_models_with_weights(data: Path) -> None:
    options = {"backbone": "yolov1", "grid": 7, "boxes": 2, "width": 16}
    weights = checkpoints.Checkpoint({"weight": torch.zeros(1)}, "yolo", options)
    checkpoints.save(weights, data / "yolo-yolov1-voc.safetensors")
    planned = plan(load_suite(find_suite("voc")))
    assert [(trial.name, trial.metrics) for trial in planned.trials] == [("yolo/yolo", ("voc07",))]
    assert len(planned.skipped) == 4
    (data / "VOCdevkit").rename(data / "elsewhere")
    reasons = {skipped.benchmark: skipped.reason for skipped in plan(load_suite(find_suite("voc"))).skipped}
    assert reasons["yolo"].endswith("VOC2007: folder not found (root of the data set)")


def test_weights_of_another_adapter_are_rejected_before_their_options_are_used(tmp_path: Path) -> None:
    weights = checkpoints.Checkpoint({"weight": torch.zeros(1)}, "yolo", {"grid": 7})
    checkpoints.save(weights, tmp_path / "yolo.safetensors")
    suite = tmp_path / "suite.yaml"
    suite.write_text(
        "name: s\nadapters: {m: {adapter: ssd, checkpoint: yolo.safetensors}}\n"
        "benchmarks: {b: {dataset: scenes, task: detection, adapters: [m], metrics: [coco]}}\n"
    )
    with pytest.raises(
        UsageError, match=r"yaml:2: adapters.m.checkpoint: .* made by adapter 'yolo', not 'ssd'"
    ):
        plan(load_suite(suite))


@pytest.mark.parametrize("adapter", ["yolo", "ssd", "faster-rcnn", "fast-rcnn", "rcnn"])
def test_a_suite_sets_precision_and_backend(adapter: str, tmp_path: Path) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text(
        f"name: s\nadapters: {{m: {{adapter: {adapter}, checkpoint: {adapter}-scenes, "
        "precision: [fp32, bf16, fp16], backend: [eager, compile]}}\n"
        "benchmarks: {b: {dataset: scenes, task: detection, adapters: [m], metrics: [coco]}}\n"
    )
    specs = [trial.spec for trial in plan(load_suite(suite)).trials]
    assert [spec.precision for spec in specs] == ["fp32", "bf16", "fp16"] * 2
    assert [spec.backend for spec in specs] == ["eager"] * 3 + ["compile"] * 3
