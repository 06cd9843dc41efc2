"""The Python surface: cheap to import, typed errors, the figures of the command line, and its notebook."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import nbformat
import numpy as np
import pytest
import small_suite
from nbclient import NotebookClient
from sacrebleu.metrics.bleu import BLEU

import harness
from harness.datasets.phrases.phrases import Phrases, PhrasesOptions
from harness.datasets.scenes.scenes import Scenes, ScenesOptions
from harness.task import Annotations, Detections

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebooks" / "predictions.ipynb"
PHRASES = {"size": 20, "max_tokens": 12}


@pytest.fixture(scope="module")
def phrases() -> Phrases:
    return Phrases(PhrasesOptions(**PHRASES), "test", "translation")


def references(data: Phrases) -> dict[str, str]:
    """Return the first reference of every sample by id."""
    samples = [data[index] for index in range(len(data))]
    return {sample.id: str(cast("tuple[str, ...]", sample.target)[0]) for sample in samples}


def hypotheses(data: Phrases) -> list[str]:
    """Return every first reference without its last word."""
    return [text.rsplit(" ", 1)[0] for text in references(data).values()]


def test_import_costs_next_to_nothing_until_a_name_is_used() -> None:
    code = (
        "import sys, time; before = time.process_time()\n"
        "import harness; used = time.process_time() - before\n"
        "heavy = {'torch', 'ray', 'mlflow', 'pandas', 'numpy', 'pydantic', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert {'evaluate', 'run', 'Run'} <= set(dir(harness))\n"
        "assert used < 0.05, used\n"
        "harness.evaluate\n"
        "heavy = {'torch', 'ray', 'mlflow', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_wrong_name_or_suite_is_told() -> None:
    with pytest.raises(harness.UsageError, match="no such file"):
        harness.run("nowhere.yaml")
    with pytest.raises(AttributeError, match="has no attribute 'evaluat'"):
        harness.evaluat  # type: ignore[attr-defined]  # noqa: B018


class TestEvaluate:
    def test_texts_in_order_by_id_and_in_a_file_give_sacrebleus_score(
        self, phrases: Phrases, tmp_path: Path
    ) -> None:
        texts = hypotheses(phrases)
        truth = references(phrases)
        expected = BLEU().corpus_score(texts, [list(truth.values())]).score
        by_id = dict(zip(truth, texts, strict=True))
        file = tmp_path / "texts.txt"
        file.write_text("\n".join(texts) + "\n", encoding="utf-8")
        for predictions in (texts, by_id, file, str(file)):
            evaluation = harness.evaluate("phrases", predictions, options=PHRASES)
            assert evaluation.metrics["bleu"].value == pytest.approx(expected, abs=1e-9)
        assert list(evaluation.to_pandas().index) == ["bleu", "chrf"]
        assert evaluation.to_pandas().loc["bleu", "n"] == 20
        assert "<table" in evaluation._repr_html_()

    def test_detections_and_masks_in_memory(self) -> None:
        options = ScenesOptions(size=3)
        boxes = Scenes(options, "test", "detection")
        perfect = []
        for index in range(3):
            target = boxes[index].target
            assert isinstance(target, Annotations)
            ones = np.ones(len(target.labels), np.float32)
            perfect.append(Detections(target.boxes.astype(np.float32), ones, target.labels))
        evaluation = harness.evaluate(boxes, perfect)
        assert evaluation.metrics["ap50"].value == 1
        masks = Scenes(options, "test", "segmentation")
        evaluation = harness.evaluate(masks, [masks[index].target for index in range(3)])  # type: ignore[misc]
        assert evaluation.metrics["miou"].value == 1
        assert evaluation.per_class["background"]["iou"].value == 1

    def test_annotation_files_need_no_data_set(self, phrases: Phrases, tmp_path: Path) -> None:
        truth, texts = tmp_path / "truth.txt", tmp_path / "texts.txt"
        truth.write_text("\n".join(references(phrases).values()) + "\n", encoding="utf-8")
        texts.write_text("\n".join(hypotheses(phrases)) + "\n", encoding="utf-8")
        expected = harness.evaluate(phrases, hypotheses(phrases), metrics=["bleu"]).metrics
        evaluation = harness.evaluate(harness.ReferenceTexts([truth]), texts, metrics=["bleu"])
        assert evaluation.metrics == expected
        boxes, found = tmp_path / "truth.json", tmp_path / "found.json"
        box = {"image_id": 4, "category_id": 90, "bbox": [1, 2, 30, 40]}
        document = {
            "images": [{"id": 4}],
            "categories": [{"id": 18, "name": "dog"}, {"id": 90, "name": "brush"}],
            "annotations": [{"id": 1, "area": 1200, "iscrowd": 0, **box}],
        }
        boxes.write_text(json.dumps(document))
        found.write_text(json.dumps([{**box, "score": 0.5}]))
        evaluation = harness.evaluate(harness.AnnotatedBoxes(boxes), found)
        assert evaluation.metrics["ap"].value == 1
        assert evaluation.per_class["brush"]["ap"].value == 1

    def test_what_is_missing_or_unknown_is_an_error_of_the_harness(self, phrases: Phrases) -> None:
        texts = hypotheses(phrases)
        with pytest.raises(harness.UsageError, match="19 predictions for 20 samples"):
            harness.evaluate(phrases, texts[1:])
        with pytest.raises(harness.UsageError, match="19 of 20 predictions are missing"):
            harness.evaluate(phrases, {phrases[0].id: ""})
        with pytest.raises(harness.UsageError, match="unknown sample 'nobody'"):
            harness.evaluate(phrases, references(phrases) | {"nobody": ""})
        with pytest.raises(harness.UsageError, match=r"nowhere\.txt: no such file"):
            harness.evaluate(phrases, "nowhere.txt")
        with pytest.raises(harness.UsageError, match="did you mean 'phrases'"):
            harness.evaluate("phrase", texts)
        with pytest.raises(harness.UsageError, match="options of 'phrases': sizes"):
            harness.evaluate("phrases", texts, options={"sizes": 3})
        with pytest.raises(harness.UsageError, match="'scenes' supports detection and segmentation"):
            harness.evaluate("scenes", [])
        with pytest.raises(harness.UsageError, match="limit: expected at least 1, found 0"):
            harness.evaluate(phrases, texts, limit=0)


TEXTS = {"dataset": "phrases", "predictions": ["text"]}


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("evaluate", TEXTS | {"dataset": None}, "dataset: expected str or Dataset, found None"),
        (
            "evaluate",
            TEXTS | {"predictions": 3},
            "predictions: expected str or Path or Adapter or Collection or Mapping, found 3",
        ),
        ("evaluate", TEXTS | {"limit": "5"}, "limit: expected int or None, found '5'"),
        ("evaluate", TEXTS | {"batch_size": True}, "batch_size: expected int, found True"),
        ("evaluate", TEXTS | {"metrics": "bleu"}, "metrics: expected Sequence or None, found 'bleu'"),
        ("evaluate", TEXTS | {"options": 3}, "options: expected Mapping or None, found 3"),
        ("evaluate", TEXTS | {"predictions": [3] * 20, "options": PHRASES}, "samples .*: .*Translation"),
        ("run", {"suite": 3}, "suite: expected str or Path, found 3"),
        (
            "run",
            {"suite": "quickstart", "workers": 0},
            "workers: expected at least 1, found 0",
        ),
        ("run", {"suite": "quickstart", "overrides": ["a=b"]}, "overrides: expected Mapping or None"),
        ("Run", {"path": None}, "path: expected str or Path, found None"),
        ("ReferenceTexts", {"references": "a.txt"}, "references: expected Sequence, found 'a.txt'"),
        ("AnnotatedBoxes", {"annotations": "nowhere.json"}, "nowhere.json: no such file"),
        ("AnnotatedBoxes", {"annotations": 3}, "annotations: expected str or Path, found 3"),
        ("AnnotatedMasks", {"annotations": "masks", "classes": 2}, "classes: expected str, found 2"),
    ],
)
def test_an_argument_of_a_wrong_type_is_named(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(harness.UsageError, match=message):
        getattr(harness, name)(**arguments)


def test_a_run_from_python_is_that_of_the_command_line(
    tmp_path: Path, phrases: Phrases, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good.txt", tmp_path / "bad.txt"
    good.write_text("\n".join(hypotheses(phrases)) + "\n", encoding="utf-8")
    bad.write_text("<script>\n" * 20)
    suite = small_suite.document()
    suite["adapters"] = {"system": {"adapter": "predictions", "options": {"file": str(good)}}}
    suite["benchmarks"]["words"]["adapters"] = ["system"]
    file = small_suite.write(tmp_path, suite)
    before = harness.run(file, tmp_path / "before")
    assert "words/system: 20/20 samples" in capsys.readouterr().out
    after = harness.run(
        file, tmp_path / "after", overrides={"adapters.system.options.file": str(bad)}, progress=False
    )
    assert capsys.readouterr().out == ""
    assert before.ok
    frame = before.to_pandas()
    bleu = frame[frame["name"] == "bleu"]["value"].item()
    assert bleu == pytest.approx(before.results.trials[0].metrics["bleu"].value)
    comparison = after.compare(before)
    with pytest.raises(harness.UsageError, match="baseline: expected Run or str or Path, found 3"):
        after.compare(3)  # type: ignore[arg-type]
    assert comparison.exit_code(strict=False) == 1
    assert comparison == after.compare(tmp_path / "before")
    table = comparison._repr_html_()
    assert table.startswith("<p>regression; accuracy: 1 regression</p>") and "<td>words/system</td>" in table
    assert "<td>system</td>" in before._repr_html_()
    assert harness.Run(tmp_path / "before").results == before.results
    with pytest.raises(harness.UsageError, match="is it a run directory"):
        _ = harness.Run(tmp_path / "nowhere").results


def test_the_profile_and_the_baseline_are_those_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[Any] = []
    monkeypatch.setattr("harness.api.runs.run_loaded", lambda *arguments: received.append(arguments[:2]))
    file = small_suite.write(tmp_path, small_suite.document())
    for baseline in (tmp_path / "before", harness.Run(tmp_path / "before")):
        harness.run(file, tmp_path / "after", profile="ci", baseline=baseline, progress=False)
        loaded, settings = received.pop()
        assert loaded.suite.speed.profile == "ci"
        assert settings.baseline_run == tmp_path / "before"
        assert settings.overrides == ('speed.profile="ci"',)
    harness.run(file, tmp_path / "after", progress=False)
    assert received.pop()[1].baseline_run is None
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("profile", {"profile": "slow"}),
        ("profile", {"profile": ""}),  # an unset variable of a CI must not switch a gate off
        ("baseline: expected a run directory", {"baseline": ""}),
        ("limit: expected at least 1, found -1", {"limit": -1}),
    ]
    for message, arguments in wrong:
        with pytest.raises(harness.UsageError, match=message):
            harness.run(file, tmp_path / "after", **arguments)
    assert not (tmp_path / "after").exists()


def test_the_notebook_runs_and_still_shows_these_results(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    shown = [_results(cell) for cell in notebook.cells]
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=250, kernel_name="python3", resources=resources).execute(
        env=os.environ | {"HARNESS_CACHE": str(tmp_path / "cache")}
    )
    assert [_results(cell) for cell in notebook.cells] == shown


def _results(cell: nbformat.NotebookNode) -> list[str]:
    """Return the results of a cell to one decimal, without the progress that it printed."""
    outputs = cell.get("outputs", [])
    assert not any(output.output_type == "error" for output in outputs)
    texts = [output.data["text/plain"] for output in outputs if output.output_type == "execute_result"]
    return [re.sub(r"\d+\.\d+", lambda number: f"{float(number[0]):.1f}", text) for text in texts]
