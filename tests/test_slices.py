"""Figures by slice equal those of the slice's samples alone, computed by other means."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from small_suite import planned, run_suite, write

from harness.analysis.slices import cut, read_table
from harness.datasets.scenes.scenes import Scenes, ScenesOptions
from harness.errors import UsageError
from harness.jobs.package import pack
from harness.rundir.results import Results, SliceRecord
from harness.stages.score import score
from harness.suite.loading import load_suite
from harness.task import Annotations, Detections
from reports.page.html import to_html

SIZE = 60


def slices_of(results: Results, column: str, metric: str = "bleu") -> dict[str, SliceRecord]:
    return {
        record.slice: record
        for record in results.slices
        if record.column == column and record.metric == metric
    }


class TestCut:
    def test_known_edges_are_ranges_and_an_empty_source_is_in_none(self) -> None:
        slices = list(cut("source words", np.array([0.0, 1, 2, 3, 5, 6, 500])))
        assert [(part.name, part.members.tolist()) for part in slices] == [
            ("1–2", [1, 2]),
            ("3–5", [3, 4]),
            ("6–10", [5]),
            ("≥ 101", [6]),
        ]

    def test_few_numbers_are_slices_and_many_are_quarters(self) -> None:
        few = list(cut("speaker", np.array([2.0, 1, np.nan, 2])))
        assert [(part.name, part.members.tolist()) for part in few] == [("1", [1]), ("2", [0, 3])]
        many = list(cut("brightness", np.arange(100.0)))
        assert [len(part.members) for part in many] == [24, 25, 25, 26]
        assert [part.name for part in many] == ["0 to 23", "24 to 48", "49 to 73", "74 to 99"]

    def test_of_text_the_most_frequent_values_are_slices(self) -> None:
        texts = np.array(["fog"] * 3 + [""] + ["sun"] * 5 + [f"rare {i}" for i in range(20)])
        slices = list(cut("weather", texts))
        assert [(part.name, len(part.members)) for part in slices[:2]] == [("sun", 5), ("fog", 3)]
        assert len(slices) == 12


class TestTable:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("name,x\n", "expected distinct columns with 'id'"),
            ("id\n1\n", "expected distinct columns with 'id'"),
            ("id,x\n1\n", "table.csv:2: 1 columns; expected 2"),
            ("id,x\n1,a\n1,b\n", "table.csv:3: the id '1' occurs twice"),
        ],
    )
    def test_a_malformed_table_is_named(self, tmp_path: Path, text: str, message: str) -> None:
        file = tmp_path / "table.csv"
        file.write_text(text)
        with pytest.raises(UsageError) as caught:
            read_table(file)
        assert message in str(caught.value)

    def test_the_suite_names_its_line(self, tmp_path: Path) -> None:
        content = document(tmp_path, {"a": "x"})
        content["benchmarks"]["words"]["slices"] = "nowhere.csv"
        with pytest.raises(UsageError, match=r"suite\.yaml:\d+: benchmarks\.words\.slices: .*nowhere\.csv"):
            planned(tmp_path, content)

    def test_it_is_sent_to_a_cluster_with_the_suite(self, tmp_path: Path) -> None:
        content = document(tmp_path, {"a": "x"})
        content["benchmarks"]["words"]["slices"] = "table.csv"
        (tmp_path / "table.csv").write_text("id,x\n1,a\n")
        package = pack(load_suite(write(tmp_path, content)))
        assert (tmp_path / "table.csv").resolve() in package.files.values()


def document(folder: Path, systems: dict[str, str]) -> dict[str, Any]:
    """Return a suite of translations, each of which replaces one word of the references."""
    for name, word in systems.items():
        (folder / f"{name}.txt").write_text(f"{word}\n" * SIZE)
    return {
        "name": "slices",
        "datasets": {"few": {"dataset": "phrases", "options": {"size": SIZE, "max_tokens": 30}}},
        "adapters": {
            name: {"adapter": "predictions", "options": {"file": f"{name}.txt"}} for name in systems
        },
        "benchmarks": {"words": {"dataset": "few", "adapters": list(systems), "metrics": ["bleu", "chrf"]}},
    }


def test_translation_by_length_and_by_a_column_of_the_users_table(tmp_path: Path) -> None:
    content = document(tmp_path, {"good": "x", "bad": "x"})
    data = planned(tmp_path, content).trials[0].dataset.open()
    samples = [data[index] for index in range(SIZE)]
    references = [sample.target[0] for sample in samples]  # type: ignore[index]
    good = [text if index % 3 else f"{text} noch" for index, text in enumerate(references)]
    bad = [" ".join(text.split()[:-1]) for text in good]
    for name, texts in (("good", good), ("bad", bad)):
        (tmp_path / f"{name}.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    with (tmp_path / "about.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "domain", "year"])
        writer.writerows([s.id, "<news>" if i % 2 else "law", 1990 + i] for i, s in enumerate(samples))
        writer.writerow(["of-another-split", "law", 1800])
    content["benchmarks"]["words"]["slices"] = "about.csv"
    results = run_suite(tmp_path, content)

    def bleu(texts: list[str], members: list[int]) -> float:
        chosen = [texts[index] for index in members], [[references[index] for index in members]]
        return BLEU().corpus_score(*chosen).score

    lengths = slices_of(results, "source words")
    words = [len(str(sample.input).split()) for sample in samples]
    members = [index for index, count in enumerate(words) if 6 <= count <= 10]
    assert lengths["6–10"].n == len(members)
    assert lengths["6–10"].figures["good"].value == pytest.approx(bleu(good, members))
    occurrences = Counter(word for sample in samples for word in str(sample.input).lower().split())
    rarest = [min(occurrences[word] for word in str(sample.input).lower().split()) for sample in samples]
    once = [index for index, count in enumerate(rarest) if count == 1]
    rare = slices_of(results, "rarest source word")["1"]
    assert rare.n == len(once) and 0 < len(once) < SIZE
    assert rare.figures["bad"].value == pytest.approx(bleu(bad, once))
    domains = slices_of(results, "domain")
    odd = list(range(1, SIZE, 2))
    assert domains["<news>"].figures["bad"].value == pytest.approx(bleu(bad, odd))
    difference = domains["<news>"].differences["bad"]
    assert difference.value == pytest.approx(bleu(bad, odd) - bleu(good, odd))
    assert difference.low is not None and difference.high is not None
    assert difference.low < difference.value < difference.high
    assert [record.n for record in slices_of(results, "year").values()] == [14, 15, 15, 16]
    assert slices_of(results, "domain", "chrf").keys() == domains.keys()
    page = to_html(results)
    assert "Figures by slice" in page
    assert "&lt;news&gt;" in page
    assert "<news>" not in page

    only = run_suite(tmp_path, content, only="words/good")  # keeps the slices of all variants
    assert only.slices == results.slices


def test_boxes_by_crowding_and_size_and_masks_by_class_count(tmp_path: Path) -> None:
    scenes = Scenes(ScenesOptions(size=40), "test", "detection")
    content: dict[str, Any] = {
        "name": "boxes",
        "datasets": {"data": {"dataset": "scenes", "options": {"size": 40}}},
        "adapters": {"tool": {"adapter": "predictions", "options": {"file": "submission"}}},
        "benchmarks": {
            "bench": {"dataset": "data", "task": "detection", "adapters": ["tool"], "metrics": ["coco"]}
        },
    }
    (tmp_path / "submission").mkdir()
    rng = np.random.default_rng(0)
    detections = []
    for index in range(40):
        sample = scenes[index]
        target = sample.target
        assert isinstance(target, Annotations)
        boxes, scores = target.boxes + rng.uniform(-3, 3, target.boxes.shape).round(2), []
        for (x1, y1, x2, y2), label in zip(boxes, target.labels, strict=True):
            scores.append(round(float(rng.uniform(0.1, 1)), 4))
            with (tmp_path / "submission" / f"{scenes.classes[label]}.txt").open("a") as file:
                file.write(f"{sample.id} {scores[-1]} {x1 + 1} {y1 + 1} {x2} {y2}\n")
        detections.append(Detections(boxes, np.array(scores), target.labels))  # type: ignore[arg-type]
    results = run_suite(tmp_path, content)
    crowding = slices_of(results, "objects", "ap")
    counts = np.array([len(scenes[index].target.labels) for index in range(40)])  # type: ignore[union-attr]
    members = np.flatnonzero((counts >= 2) & (counts <= 3))
    assert crowding["2–3"].n == len(members)

    class Part(Scenes):
        """Only the members of the slice."""

        def __len__(self) -> int:
            return len(members)

        def __getitem__(self, index: int) -> Any:
            return scenes[members[index]]

    part = Part(ScenesOptions(size=40), "test", "detection")
    rows = [(scenes[index].id, detections[index]) for index in members]
    alone = score(part, len(members), rows, ["coco"])["coco"].scores.metrics["ap"]
    assert crowding["2–3"].figures["tool"].value == pytest.approx(alone.value)
    assert crowding["2–3"].figures["tool"].low == pytest.approx(alone.low)
    (small,) = slices_of(results, "object size", "ap_small").values()
    assert small.figures["tool"] == results.trials[0].metrics["ap_small"]
