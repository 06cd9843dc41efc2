"""The page shows the samples on which models disagree most, once per model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sample_results import results
from small_suite import planned, run_suite

from harness.analysis.record import SideBySideFile
from harness.datasets.scenes.scenes import Scenes, ScenesOptions
from harness.driver.side_by_side import SHOWN
from harness.files import read_record, write_record
from harness.rundir.results import read_results
from harness.task import Annotations
from reports.page import html
from reports.page.details import read_details, read_side_by_side
from reports.page.templating import marked

SIZE = 12
WORST = 7  # the sample that one of the models gets completely wrong


def document(task: str, dataset: dict[str, Any], metric: str) -> dict[str, Any]:
    return {
        "name": "side",
        "datasets": {"data": dataset},
        "adapters": {
            name: {"adapter": "predictions", "options": {"file": name}} for name in ("good", "bad", "copy")
        },
        "benchmarks": {
            "bench": {
                "dataset": "data",
                "task": task,
                "adapters": ["good", "bad", "copy"],
                "metrics": [metric],
            }
        },
    }


def shown(folder: Path) -> tuple[SideBySideFile, str]:
    """Return the record of a run's benchmark, and the run's page."""
    run = folder / "run"
    record = read_record(run / "side-by-side" / "bench" / "samples.json", SideBySideFile)
    assert record is not None
    read = read_results(run)
    details, images = read_details(run, read)
    return record, html.to_html(read, details, images, read_side_by_side(run, read, images))


def section(page: str) -> str:
    """Return the section, without the rest of the page."""
    found = re.search(r"<summary>Models side by side.*?</details>", page, re.DOTALL)
    assert found
    return found[0]


def test_translations(tmp_path: Path) -> None:
    content = document(
        "translation", {"dataset": "phrases", "options": {"size": SIZE, "max_tokens": 12}}, "bleu"
    )
    for name in ("good", "bad", "copy"):
        (tmp_path / name).write_text("x\n" * SIZE)
    data = planned(tmp_path, content).trials[0].dataset.open()
    texts = [data[index].target[0] for index in range(SIZE)]  # type: ignore[index]
    wrong = [*texts[:WORST], "<b>&</b>", *texts[WORST + 1 :]]
    for name, lines in (("good", texts), ("bad", wrong), ("copy", texts)):
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    run_suite(tmp_path, content)
    record, page = shown(tmp_path)
    assert list(record.variants) == ["good", "bad"]  # `copy` has the predictions of `good`
    assert [sample.index for sample in record.samples] == [WORST]  # no other sample differs
    text = section(page)
    assert "&lt;b&gt;&amp;&lt;/b&gt;" in text
    assert text.count("<dt>Source</dt>") == 1
    assert "<mark>&lt;b&gt;&amp;&lt;/b&gt;</mark>" in text
    assert text.count("<mark>") == 1  # `good` equals the reference


@pytest.mark.parametrize(
    ("hypothesis", "references", "expected"),
    [
        ("a big cat sat", ["a cat sat"], "a<mark> big</mark> cat sat"),
        ("a cat sat", ["one dog ran", "a cat stood"], "a cat <mark>sat</mark>"),
        ("猫が走る", ["猫は走る"], "猫<mark>が</mark>走る"),
        ("<i>\u202e", ["<i>"], "&lt;i&gt;<mark>\\u202e</mark>"),
        ("Deaktätt", ["Entwickler"], "<mark>Deaktätt</mark>"),
        ("", ["a"], ""),
    ],
)
def test_words_that_the_closest_reference_lacks_are_marked(
    hypothesis: str, references: list[str], expected: str
) -> None:
    assert str(marked(hypothesis, references, 1000)) == expected


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_images(tmp_path: Path, task: str) -> None:
    data = Scenes(ScenesOptions(size=SIZE), "test", task)  # type: ignore[arg-type]
    for name in ("good", "bad", "copy"):
        (tmp_path / name).mkdir()
        for index in range(SIZE):
            sample = data[index]
            wrong = name == "bad" and index == WORST
            if isinstance(sample.target, Annotations):
                for (x1, y1, x2, y2), label in zip(sample.target.boxes, sample.target.labels, strict=True):
                    if not wrong:
                        with (tmp_path / name / f"{data.classes[label]}.txt").open("a") as file:
                            file.write(f"{sample.id} 0.9 {x1 + 1} {y1 + 1} {x2} {y2}\n")
            else:
                assert isinstance(sample.target, np.ndarray)
                mask = np.zeros_like(sample.target) if wrong else sample.target
                Image.fromarray(mask).save(tmp_path / name / f"{sample.id}.png")
    dataset = {"dataset": "scenes", "options": {"size": SIZE}}
    metric = "coco" if task == "detection" else "iou"
    run_suite(tmp_path, document(task, dataset, metric))
    record, page = shown(tmp_path)
    assert [sample.index for sample in record.samples] == [WORST]
    text = section(page)
    # One picture per model, and what is annotated: boxes on the image, or the image and its mask.
    assert text.count("<figure>") == 2 + (1 if task == "detection" else 2)
    for key in re.findall(r'href="#image-(\w+)"', text):
        assert f'<image id="image-{key}"' in page
    files = list((tmp_path / "run" / "side-by-side").rglob("*.*"))
    assert sum(file.stat().st_size for file in files) < SHOWN * 2 * 30_000


@pytest.mark.parametrize(
    ("scores", "columns", "spreads"),
    [
        ({"a": [0.9, 0.5], "b": [0.1, 0.5]}, ["a", "b"], [0.8]),
        ({"a": [0.9, 0.5], "a-16": [0.9001, 0.5], "b": [0.1, 0.501]}, ["a", "b"], [0.8]),
        ({"a": [0.9, 0.5], "a-16": [0.9001, 0.501]}, [], []),
    ],
)
def test_variants_whose_scores_print_alike_are_shown_once(
    tmp_path: Path, scores: dict[str, list[float]], columns: list[str], spreads: list[float]
) -> None:
    run = results()
    benchmark = run.trials[0].benchmark
    common = {"id": "s", "role": "disagreement", "source": "x", "references": [], "hypothesis": "y"}
    samples = []
    for index, column in enumerate(zip(*scores.values(), strict=True)):
        shown = {
            variant: {"index": index, "score": score, **common}
            for variant, score in zip(scores, column, strict=True)
        }
        samples.append({"index": index, "spread": max(column) - min(column), "shown": shown})
    record = SideBySideFile(key="", variants=dict.fromkeys(scores, "trial"), samples=samples)  # type: ignore[arg-type]
    write_record(tmp_path / "side-by-side" / benchmark / "samples.json", record)
    found = read_side_by_side(tmp_path, run, {})
    assert [list(sample.shown) for each in found for sample in each.samples] == [columns] * len(spreads)
    assert [sample.spread for each in found for sample in each.samples] == pytest.approx(spreads, abs=0.001)
