"""Instance masks: AP against pycocotools, the forms of a `segmentation`, `harness score` and `compare`."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from typer.testing import CliRunner

from harness.cli.app import app
from harness.datasets.coco import segmentation
from harness.decisions.policy import GatePolicy
from harness.errors import UsageError
from harness.evaluation.detection import AnnotatedBoxes
from harness.evaluation.systems import System, compare_systems, read_system

RUNNER = CliRunner()
HEIGHT, WIDTH, CLASSES = 90, 140, 3


def compressed(mask: np.ndarray) -> dict[str, Any]:
    """Return a mask [height, width] as compressed run lengths."""
    encoded = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def as_numbers(mask: np.ndarray) -> dict[str, Any]:
    """Return a mask [height, width] as a list of run lengths."""
    pixels = np.concatenate([[0], mask.astype(int).ravel(order="F"), [2]])
    ends = np.flatnonzero(np.diff(pixels))
    runs = np.diff(ends, prepend=0)
    return {"size": [*mask.shape], "counts": [int(run) for run in runs]}


def polygons_of(generator: np.random.Generator) -> list[list[float]]:
    """Return one to three polygons, with corners beyond the image at times."""
    centre = generator.uniform([0, 0], [WIDTH, HEIGHT])
    return [
        (centre + generator.normal(0, generator.uniform(3, 50), (int(generator.integers(3, 8)), 2)))
        .round(2)
        .ravel()
        .tolist()
        for _ in range(generator.integers(1, 4))
    ]


def rasterised(polygons: list[list[float]]) -> np.ndarray:
    """Return the mask [height, width] of polygons."""
    mask: np.ndarray = rle.decode(rle.merge(rle.frPyObjects(polygons, HEIGHT, WIDTH))).astype(bool)
    return mask


def write_case(folder: Path, seed: int, images: int = 12) -> tuple[Path, Path]:
    """Write annotations and results of random shapes, with crowds, ties, empty masks and all forms."""
    generator = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    results = []
    for image in range(1, images + 1):
        for _ in range(generator.integers(0, 7)):
            polygons = polygons_of(generator)
            mask = rasterised(polygons)
            category = int(generator.integers(1, CLASSES + 1))
            crowd = bool(generator.random() < 0.15)
            shape = as_numbers(mask) if crowd else polygons if generator.random() < 0.6 else compressed(mask)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": category,
                    "segmentation": shape,
                    "area": float(mask.sum() * generator.choice([1, 1, 0.2, 5])),
                    "bbox": [0, 0, 5, 5],
                    "iscrowd": int(crowd),
                }
            )
            for _ in range(generator.integers(0, 5) if image > 1 else 0):
                shift = generator.integers(-4, 5, 2)
                shifted = np.roll(mask, shift, (0, 1)) & (generator.random() > 0.1)
                results.append(
                    {
                        "image_id": image,
                        "category_id": category
                        if generator.random() < 0.9
                        else int(generator.integers(1, CLASSES + 1)),
                        "segmentation": as_numbers(shifted)
                        if generator.random() < 0.3
                        else compressed(shifted),
                        "score": float(generator.integers(1, 9)) / 8,
                    }
                )
    document = {
        "images": [{"id": image, "height": HEIGHT, "width": WIDTH} for image in range(1, images + 1)],
        "categories": [{"id": label, "name": f"class {label}"} for label in range(1, CLASSES + 1)],
        "annotations": annotations,
    }
    return write(folder / "a.json", document), write(folder / "p.json", results)


def write(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document))
    return path


def oracle(annotations: Path, results: Path) -> list[float]:
    """Return pycocotools' twelve figures; it measures compressed run lengths only."""
    entries = json.loads(results.read_text())
    for entry in entries:
        shape = entry["segmentation"]
        entry["segmentation"] = (
            rle.frPyObjects(shape, HEIGHT, WIDTH) if isinstance(shape["counts"], list) else shape
        )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(annotations)
        evaluation = COCOeval(truth, truth.loadRes(entries), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    figures: list[float] = evaluation.stats.tolist()
    return figures


def system(annotations: Path, results: Path) -> tuple[AnnotatedBoxes, System]:
    files = AnnotatedBoxes(annotations, iou_type="segm")
    return files, read_system(files, results)


def harness(*arguments: object, exit_code: int = 0) -> dict[str, Any]:
    """Run the command line; return the JSON document that it prints."""
    result = RUNNER.invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == exit_code, result.output
    document: dict[str, Any] = json.loads(result.stdout.partition("\nreport:")[0])
    return document


@pytest.mark.parametrize("seed", range(12))
def test_the_twelve_figures_equal_pycocotools(tmp_path: Path, seed: int) -> None:
    files, scored = system(*write_case(tmp_path, seed))
    values = [-1 if figure.value is None else figure.value for figure in scored.metrics.values()]
    assert values == pytest.approx(oracle(tmp_path / "a.json", tmp_path / "p.json"), abs=1e-9)
    assert values[0] not in (-1, 0)
    assert any("masks are empty and match nothing" in note for note in files.notes)


def test_an_image_may_have_hundreds_of_masks(tmp_path: Path) -> None:
    annotations, results = write_case(tmp_path, 6, images=3)
    entries = [{**entry, "image_id": 2} for entry in json.loads(results.read_text())]
    _, scored = system(annotations, write(results, entries * (600 // len(entries))))
    values = [-1 if figure.value is None else figure.value for figure in scored.metrics.values()]
    assert values == pytest.approx(oracle(annotations, results), abs=1e-9)
    assert len(scored.statistics["coco"]["scores"]) > 255


def test_polygons_in_results_are_those_masks(tmp_path: Path) -> None:
    annotations, _ = write_case(tmp_path, 3)
    entries = json.loads(annotations.read_text())["annotations"]
    results = [
        {"score": 0.5, **{key: entry[key] for key in ("image_id", "category_id", "segmentation")}}
        for entry in entries
        if not entry["iscrowd"]
    ]
    _, scored = system(annotations, write(tmp_path / "q.json", results))
    assert scored.metrics["ap"].value == 1.0
    assert scored.metrics["ap"].signature.startswith("coco|iou_type:segm|iou:0.50:0.05:0.95|")


def test_the_area_of_a_detection_is_that_of_its_mask(tmp_path: Path) -> None:
    annotations, results = write_case(tmp_path, 1)
    entries = json.loads(results.read_text())
    for entry in entries:
        entry["bbox"] = [1, 1, 2, 2]
    write(tmp_path / "q.json", entries)
    _, without = system(annotations, results)
    files, scored = system(annotations, tmp_path / "q.json")
    assert scored.metrics == without.metrics
    assert any("'bbox' is not used" in note and "pycocotools" in note for note in files.notes)


def decode(text: str) -> list[int]:
    """Decode compressed run lengths, as COCO's maskApi.c does; ValueError if the text ends in a number."""
    runs: list[int] = []
    value = place = 0
    for character in text:
        code = ord(character) - 48
        value |= (code & 31) << 5 * place
        place += 1
        if code & 32:
            continue
        value -= (code >> 4 & 1) << 5 * place
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = place = 0
    if place:
        raise ValueError("ends in a number")
    return runs


def test_compressed_run_lengths_are_checked_against_a_decoder() -> None:
    generator = np.random.default_rng(0)
    texts = [compressed(generator.random((9, 11)) < share)["counts"] for share in (0, 1, *[0.1, 0.5] * 40)]
    texts += [text[: generator.integers(1, len(text) + 1)] for text in texts]
    texts += ["".join(map(chr, generator.integers(48, 112, generator.integers(1, 9)))) for _ in range(300)]
    texts += ["3S3", "S3", "3S3o"]
    sound = segmentation._are_sound([text.encode() for text in texts], np.full(len(texts), 99))
    for text, is_sound in zip(texts, sound, strict=True):
        try:
            runs = decode(text)
        except ValueError:
            runs = [-1]
        assert is_sound == (min(runs) >= 0 and sum(runs) == 99), text
    assert 82 <= sound.sum() < len(texts) / 2


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (None, r"p.json\[1\]: missing key 'segmentation'"),
        (
            {"size": [WIDTH, HEIGHT], "counts": [12600]},
            r"p.json\[1\]: .*size: expected \[90, 140\] as in",
        ),
        ({"size": [HEIGHT, WIDTH], "counts": "1"}, r"p.json\[1\]: .*run lengths with a sum of 12600"),
        ({"size": [HEIGHT, WIDTH], "counts": "oo"}, r"p.json\[1\]: .*run lengths with a sum of 12600"),
        ([[1, 2, 3, 4, 5, "6"]], r"p.json\[1\]: segmentation\[0\]: expected x, y"),
    ],
)
def test_a_mask_that_cannot_be_compared_is_named(tmp_path: Path, shape: object, message: str) -> None:
    annotations, results = write_case(tmp_path, 0, images=4)
    entries = json.loads(results.read_text())
    entries[1] |= {"segmentation": shape, "bbox": [1, 1, 5, 5]}
    write(results, entries)
    with pytest.raises(UsageError, match=message):
        system(annotations, results)


@pytest.mark.parametrize(
    ("section", "key", "message"),
    [
        ("annotations", "segmentation", r"a.json: annotations\[0\]: missing key 'segmentation'"),
        ("images", "height", r"a.json: images\[0\]: missing key 'height'"),
    ],
)
def test_annotations_without_masks_are_refused(tmp_path: Path, section: str, key: str, message: str) -> None:
    annotations, _ = write_case(tmp_path, 0, images=4)
    document = json.loads(annotations.read_text())
    del document[section][0][key]
    with pytest.raises(UsageError, match=message):
        AnnotatedBoxes(write(annotations, document), iou_type="segm")
    document = json.loads(annotations.read_text())
    AnnotatedBoxes(write(annotations, document))  # boxes need neither


@pytest.mark.parametrize("options", [{"protocol": "voc10"}, {"iou_type": "mask"}])
def test_masks_need_the_coco_protocol(tmp_path: Path, options: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="iou_type: expected bbox, or segm"):
        AnnotatedBoxes(write_case(tmp_path, 0, images=4)[0], **{"iou_type": "segm", **options})  # type: ignore[arg-type]


def test_an_annotation_without_a_whole_polygon_is_an_empty_mask(tmp_path: Path) -> None:
    annotations, results = write_case(tmp_path, 5)
    _, before = system(annotations, results)
    document = json.loads(annotations.read_text())
    entry = {"image_id": 1, "category_id": 1, "segmentation": [[1, 2, 3, 4]], "area": 9, "bbox": [1, 2, 3, 3]}
    document["annotations"].append({"id": 999, **entry})
    files, after = system(write(annotations, document), results)
    assert sum("polygons of fewer than 3 corners are left out, 1" in note for note in files.notes) == 1
    assert after.metrics["ar100"].value < before.metrics["ar100"].value  # type: ignore[operator]


def test_masks_flip_though_their_boxes_are_equal(tmp_path: Path) -> None:
    annotations, _ = write_case(tmp_path, 2)
    full = np.zeros((HEIGHT, WIDTH), dtype=bool)
    full[10:40, 20:70] = True
    ring = full.copy()
    ring[12:38, 22:68] = False
    for name, mask in (("old.json", full), ("new.json", ring)):
        entry = {"image_id": 2, "category_id": 1, "score": 0.5, "segmentation": compressed(mask)}
        write(tmp_path / name, [entry])
    files, old = system(annotations, tmp_path / "old.json")
    new = read_system(files, tmp_path / "new.json")
    (trial,) = compare_systems(files, new, old, GatePolicy()).trials
    assert trial.flipped_ids == ("2",)


def test_score_and_compare_from_the_command_line(tmp_path: Path) -> None:
    annotations, results = write_case(tmp_path, 4, images=40)
    worse = write(tmp_path / "worse.json", json.loads(results.read_text())[::3])
    common = ["--annotations", annotations, "--iou-type", "segm", "--json"]
    document = harness("score", "detection", *common, "--predictions", results, "--predictions", worse)
    figures = document["systems"][str(results)]["metrics"]
    assert [figures[name]["value"] for name in ("ap", "ap50", "ap75")] == pytest.approx(
        oracle(annotations, results)[:3], abs=1e-9
    )
    assert "iou_type:segm" in figures["ap"]["signature"]
    arguments = ["compare", worse, "--baseline", results, *common, "--out", tmp_path / "report"]
    change = harness(*arguments, exit_code=1)["trials"][0]["changes"][0]
    difference = document["differences"][str(worse)]["ap"]["difference"]
    assert change["difference"]["value"] == pytest.approx(difference["value"])
    assert difference["value"] < 0
    assert (tmp_path / "report/compare.html").exists()
