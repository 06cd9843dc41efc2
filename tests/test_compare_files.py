"""`harness compare` on prediction files: the rules, reports and exit codes of a comparison of runs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lxml import etree, html
from PIL import Image
from typer.testing import CliRunner

from harness.cli.app import app

RUNNER = CliRunner()
IMAGES = 40


def harness(*arguments: object) -> Any:
    result = RUNNER.invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture
def boxes(tmp_path: Path) -> Callable[[str, float], Path]:
    """Write 80 annotated boxes; return a function that writes detections with normal errors in px."""
    generator = np.random.default_rng(0)
    corners = generator.uniform(0, 60, (IMAGES, 2, 2)).round()
    annotations = [
        {"id": 2 * image + k + 1, "image_id": image, "category_id": 1, "bbox": [*corners[image, k], 30, 30]}
        | {"area": 900, "iscrowd": 0}
        for image in range(IMAGES)
        for k in range(2)
    ]
    images = [{"id": image} for image in range(IMAGES)]
    document = {
        "images": images,
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": annotations,
    }
    write(tmp_path / "gt.json", document)

    def detect(name: str, error: float) -> Path:
        errors = np.random.default_rng(1).normal(0, error, (len(annotations), 2))
        results = [
            {"image_id": entry["image_id"], "category_id": 1, "score": 0.9 - 0.001 * row}
            | {"bbox": [entry["bbox"][0] + errors[row, 0], entry["bbox"][1] + errors[row, 1], 30, 30]}
            for row, entry in enumerate(annotations)
        ]
        return write(tmp_path / name, results)

    return detect


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    return


def test_worse_boxes_are_a_regression_in_every_report(boxes: Callable[[str, float], Path]) -> None:
    old, new = boxes("old.json", 1), boxes("new.json", 6)
    result = harness("compare", new, "--baseline", old, "--annotations", "gt.json", "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert document == json.loads(Path("report/compare.json").read_text())
    assert (document["outcome"], document["run"], document["baseline"]) == ("regression", str(new), str(old))
    (trial,) = document["trials"]
    assert (trial["benchmark"], trial["variant"], trial["samples"]) == ("gt", "new", IMAGES)
    headline = trial["changes"][0]
    assert (headline["name"], headline["verdict"], headline["decides"]) == ("ap", "regression", True)
    for side, path in (("base", old), ("head", new)):
        scored = harness("score", "detection", "--annotations", "gt.json", "--predictions", path, "--json")
        assert headline[side] == json.loads(scored.stdout)["metrics"]["ap"]
    page = html.parse("report/compare.html")
    assert "regression; accuracy: 1 regression" in page.findtext(".//title")
    assert "gt/new" in Path("report/compare.md").read_text()
    suite = etree.parse("report/compare-junit.xml").getroot()
    assert suite.get("failures") == "1"
    (failed,) = suite.xpath(".//testcase[failure]")
    assert "ap" in failed.get("name")


def test_equal_boxes_pass_and_better_ones_too(boxes: Callable[[str, float], Path]) -> None:
    old, same, better = boxes("old.json", 6), boxes("same.json", 6), boxes("better.json", 1)
    for new, verdict in ((same, "1 unchanged"), (better, "1 improvement"), (old, "1 unchanged")):
        result = harness(
            "compare", new, "--baseline", old, "--annotations", "gt.json", "--strict", "--out", "page"
        )
        assert (result.exit_code, verdict in result.stdout) == (0, True)
    assert Path("page/compare.html").is_file() and not Path("report").exists()


def test_what_cannot_be_decided_has_exit_code_4_only_if_strict(boxes: Callable[[str, float], Path]) -> None:
    old = boxes("old.json", 5)
    detections = json.loads(old.read_text())
    generator = np.random.default_rng(2)
    for entry in detections:  # as good, but otherwise
        entry["bbox"][0] += generator.normal(0, 0.5)
    arguments = ["compare", write(old.with_name("new.json"), detections), "--baseline", old]
    arguments += ["--annotations", "gt.json"]
    assert harness(*arguments).exit_code == 0
    assert harness(*arguments, "--strict").exit_code == 4


def test_notes_about_files_are_in_every_report(boxes: Callable[[str, float], Path]) -> None:
    old = boxes("old.json", 2)
    fewer = [entry for entry in json.loads(old.read_text()) if entry["image_id"] >= 4]
    new = write(old.with_name("new.json"), fewer)
    result = harness("compare", new, "--baseline", old, "--annotations", "gt.json", "--json")
    (note,) = json.loads(result.stdout)["notes"]
    assert "4 of 40 images" in note
    assert "4 of 40 images" in result.stderr.replace("\n", " ")
    for name in ("compare.html", "compare.md"):
        assert "4 of 40 images" in Path("report", name).read_text()


def test_voc_files_are_compared_within_an_image_set(tmp_path: Path) -> None:
    """In the first image of two, which alone is in the set, both submissions are equal."""
    (tmp_path / "xml").mkdir()
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    for stem in "ab":
        text = f"<annotation><object><name>dog</name>{box}</object></annotation>"
        write(tmp_path / "xml" / f"{stem}.xml", text)
    old = write(tmp_path / "dog.txt", "a 0.9 1 1 9 9\nb 0.8 1 1 9 9\n")
    new = write(tmp_path / "comp4_det_test_dog.txt", "a 0.9 1 1 9 9\n")
    arguments = ["compare", new, "--baseline", old, "--annotations", tmp_path / "xml"]
    document = json.loads(harness(*arguments, "--json").stdout)
    assert document["trials"][0]["flipped_ids"] == ["b"]
    image_set = write(tmp_path / "test.txt", "a\n")
    restricted = json.loads(harness(*arguments, "--image-set", image_set, "--json").stdout)
    assert (restricted["outcome"], restricted["trials"][0]["samples"]) == ("pass", 1)


def test_hypotheses_are_compared_and_a_lower_ter_is_better(tmp_path: Path) -> None:
    lines = [f"the {word} sat on a mat near the old {word} door" for word in "abcdefghijklmnopqrstuvwxyz"]
    references = write(tmp_path / "ref", "\n".join(lines))
    old = write(tmp_path / "old", "\n".join(line.replace("sat", "sits") for line in lines))
    new = write(
        tmp_path / "new",
        "\n".join(line.replace("near", "at") if index % 3 else line for index, line in enumerate(lines)),
    )
    result = harness("compare", new, "--baseline", old, "--references", references, "--json")
    changes = {change["name"]: change for change in json.loads(result.stdout)["trials"][0]["changes"]}
    assert result.exit_code == 0
    assert list(changes) == ["bleu", "chrf", "ter"]
    assert changes["bleu"]["verdict"] == changes["ter"]["verdict"] == "improvement"
    assert changes["ter"]["difference"]["high"] < 0


def test_folders_of_masks_are_compared(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for name in ("gt", "old", "new"):
        (tmp_path / name).mkdir()
    for index in range(12):
        mask = generator.integers(0, 2, (8, 8), dtype=np.uint8)
        for name, wrong in (("gt", 0.0), ("old", 0.1), ("new", 0.4)):
            flipped = np.where(generator.random(mask.shape) < wrong, 1 - mask, mask)
            Image.fromarray(flipped).save(tmp_path / name / f"{index}.png")
    arguments = ["compare", "new", "--baseline", "old", "--annotations", "gt"]
    result = harness(*arguments, "--classes", "background,object", "--json")
    assert result.exit_code == 1
    names = [change["name"] for change in json.loads(result.stdout)["trials"][0]["changes"]]
    assert (names[0], "foreground_iou" in names) == ("miou", True)


def test_mixed_forms_and_options_without_effect_are_refused(boxes: Callable[[str, float], Path]) -> None:
    old, new = boxes("old.json", 1), boxes("new.json", 1)
    Path("run").mkdir()
    write(Path("run/run.json"), {})
    Path("masks").mkdir()
    Path("masks/a.png").touch()
    with_annotations = ["--annotations", "gt.json"]
    for arguments, message in (
        ([new, "--baseline", old], "new.json: is a file, not a run directory; .* --annotations or --ref"),
        (["run", "--baseline", old], "old.json: is a file"),
        (["run", "--baseline", old, *with_annotations], "run: is a run; compare it with another run"),
        ([new, "--baseline", "run", *with_annotations], "run: is a run; compare it with another run"),
        ([new, "--baseline", "mlflow:latest@main", *with_annotations], "mlflow:latest@main: is a run"),
        (
            [new, "--baseline", old, *with_annotations, "--tokenize", "zh"],
            "--tokenize: does not apply to .* boxes",
        ),
        (["run", "--baseline", "run", "--iou", "0.6"], "--iou: does not apply to a comparison of two runs"),
        ([new, "--baseline", old, *with_annotations, "--references", "gt.json"], "does not apply"),
        ([new, "--baseline", "none.json", *with_annotations], "none.json: no such file"),
        (
            [new, "--baseline", old, "--annotations", "masks"],
            "masks: expected VOC annotations, .* PNG masks need --classes",
        ),
    ):
        result = harness("compare", *arguments)
        assert result.exit_code == 2
        assert re.search(message, result.stderr.replace("\n", " ")), result.stderr
