"""Predictions from files stand in a suite beside models, with exactly the figures of a score of the file."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sacrebleu.metrics.bleu import BLEU
from small_suite import planned, run_suite

from harness.compare.compare import compare
from harness.compare.frontier import why_not_charted
from harness.driver.preflight import preflight
from harness.errors import UsageError
from harness.rundir.results import Results

REFERENCES = ["the cat sat on the mat", "a dog barks at night", "we eat bread and cheese", "it rains"]


def suite(task: str, dataset: dict[str, Any], metrics: list[str], files: dict[str, Path]) -> dict[str, Any]:
    """Return a suite whose adapters are these prediction files, with a speed scenario for good measure."""
    return {
        "name": "stored",
        "datasets": {"data": dataset},
        "adapters": {
            name: {"adapter": "predictions", "options": {"file": str(file)}} for name, file in files.items()
        },
        "benchmarks": {
            "bench": {
                "dataset": "data",
                "task": task,
                "adapters": list(files),
                "metrics": metrics,
                "speed": ["offline"],
            }
        },
    }


def check(folder: Path, content: dict[str, Any]) -> None:
    preflight(planned(folder, content).trials)


def value(results: Results, trial: int, metric: str) -> float:
    figure = results.trials[trial].metrics[metric].value
    assert figure is not None
    return figure


class TestTranslation:
    @pytest.fixture
    def dataset(self, tmp_path: Path) -> dict[str, Any]:
        (tmp_path / "test.en").write_text("".join(f"source {line}\n" for line in REFERENCES))
        (tmp_path / "test.de").write_text("".join(f"{line}\n" for line in REFERENCES))
        options = {"directory": str(tmp_path), "source": "{split}.en", "references": ["{split}.de"]}
        return {"dataset": "parallel-text", "options": options}

    def suite(self, dataset: dict[str, Any], **files: Path) -> dict[str, Any]:
        return suite("translation", dataset, ["bleu", "chrf"], files)

    def ids(self, tmp_path: Path, content: dict[str, Any]) -> list[str]:
        dataset = planned(tmp_path, content).trials[0].dataset.open()
        return [dataset[index].id for index in range(len(dataset))]

    def test_all_three_forms_give_sacrebleus_score_and_no_speed(
        self, tmp_path: Path, dataset: dict[str, Any]
    ) -> None:
        hypotheses = ["the cat sat on a mat", "a dog barks", "", "it rains now"]
        lines = tmp_path / "out.txt"
        lines.write_text("".join(f"{line}\n" for line in hypotheses))
        ids = self.ids(tmp_path, self.suite(dataset, lines=lines))
        rows = list(zip(ids, hypotheses, strict=True))[::-1]  # ids, so any order
        objects, table = tmp_path / "out.jsonl", tmp_path / "out.tsv"
        objects.write_text("".join(json.dumps({"id": id_, "text": text}) + "\n" for id_, text in rows))
        table.write_text("".join(f"{id_}\t{text}\n" for id_, text in rows))

        content = self.suite(dataset, lines=lines, objects=objects, table=table)
        results = run_suite(tmp_path, content)
        expected = BLEU().corpus_score(hypotheses, [REFERENCES]).score
        assert [value(results, trial, "bleu") for trial in range(3)] == pytest.approx([expected] * 3, 1e-12)
        assert [trial.status for trial in results.trials] == ["complete"] * 3
        assert [trial.speed for trial in results.trials] == [{}, {}, {}]
        assert why_not_charted(results.trials[0]) == "not timed"

    def test_the_content_of_the_file_is_the_identity(self, tmp_path: Path, dataset: dict[str, Any]) -> None:
        first, same, other = (tmp_path / name for name in ("1.txt", "2.txt", "3.txt"))
        first.write_text("a\nb\nc\nd\n")
        shutil.copy(first, same)
        other.write_text("a\nb\nc\ne\n")
        content = self.suite(dataset, first=first, same=same, other=other)
        ids = [trial.id for trial in planned(tmp_path, content).trials]
        assert ids[0] == ids[1] != ids[2]

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("a.txt", "one\ntwo\n", "has 2 lines, but the split 'test' has 4 samples"),
            ("a.jsonl", '{"id": "nobody", "text": "x"}\n', "a.jsonl:1: unknown sample 'nobody'"),
            ("a.jsonl", '{"id": "ID", "text": "x"}\n', "3 of 4 translations are missing"),
            ("a.jsonl", '{"id": "ID", "text": 5}\n', 'a.jsonl:1: expected {"id": …, "text": "…"}'),
            ("a.jsonl", '{"id"\n', "a.jsonl:1: malformed JSON"),
            ("a.tsv", "ID\tx\nID\ty\n", "a.tsv:2: the sample 'ID' occurs twice"),
            ("a.tsv", "ID\tx\ty\n", "a.tsv:1: expected an id, a tab and a text"),
            ("a.JSONL", '{"id": "nobody", "text": "x"}\n', "a.JSONL:1: unknown sample 'nobody'"),
            ("a.ndjson", '{"id": "nobody", "text": "x"}\n', "a.ndjson:1: unknown sample 'nobody'"),
            ("a.TSV", "nobody\tx\n", "a.TSV:1: unknown sample 'nobody'"),
            (
                "a.json",
                4 * '{"id": "ID", "text": "x"}\n',
                "every line is a JSON object or has a tab; name it",
            ),
            ("a.csv", 4 * "ID\tx\n", "every line is a JSON object or has a tab; name it"),
            ("a.jsonl", f'{{"id": {"9" * 5000}}}\n', "a.jsonl:1: malformed JSON: Exceeds the limit"),
            ("a.jsonl", "[" * 100_000 + "\n", "a.jsonl:1: malformed JSON"),
            ("a.jsonl", '{"id": "ID", "text": "\\ud83d"}\n', "a.jsonl:1: the text has half of a surrogate"),
        ],
    )
    def test_incomplete_or_malformed_files_are_named(
        self, tmp_path: Path, dataset: dict[str, Any], name: str, text: str, message: str
    ) -> None:
        complete = tmp_path / "ok.txt"
        complete.write_text("a\nb\nc\nd\n")
        sample_id = self.ids(tmp_path, self.suite(dataset, ok=complete))[0]
        file = tmp_path / name
        file.write_text(text.replace("ID", sample_id))
        with pytest.raises(UsageError) as caught:
            check(tmp_path, self.suite(dataset, bad=file))
        assert message.replace("ID", sample_id) in str(caught.value)

    def test_they_are_gated_and_paired_like_models(self, tmp_path: Path, dataset: dict[str, Any]) -> None:
        good, bad = tmp_path / "good.txt", tmp_path / "bad.txt"
        good.write_text("".join(f"{line}\n" for line in REFERENCES))
        bad.write_text("x\n" * len(REFERENCES))
        results = run_suite(tmp_path, self.suite(dataset, good=good, bad=bad))
        (pair,) = [pair for pair in results.pairs if pair.metric == "bleu"]
        assert pair.difference.value == pytest.approx(-100)
        run_suite(tmp_path, self.suite(dataset, system=good), out="base")
        run_suite(tmp_path, self.suite(dataset, system=bad), out="head")
        comparison = compare(tmp_path / "head", tmp_path / "base")
        assert comparison.trials[0].flipped == len(REFERENCES)
        assert next(comparison.decisive()).difference == pair.difference


class TestDetection:
    @pytest.fixture
    def files(self, tmp_path: Path) -> tuple[dict[str, Any], Path, Path]:
        """Return a COCO data set of six images with sparse category ids, its file, and detections."""
        rng = np.random.default_rng(0)
        images, annotations, detections = [], [], []
        (tmp_path / "test2017").mkdir()
        (tmp_path / "annotations").mkdir()
        for image_id in (7, 42, 139, 285, 632, 724):
            Image.new("RGB", (200, 150)).save(tmp_path / "test2017" / f"{image_id}.png")
            images.append({"id": image_id, "file_name": f"{image_id}.png", "width": 200, "height": 150})
            for category in (18, 90, 18):
                x, y, w, h = (round(float(v), 2) for v in rng.uniform((0, 0, 8, 8), (120, 90, 80, 60)))
                entry = {"image_id": image_id, "category_id": category}
                annotations.append(
                    {"id": len(annotations), **entry, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
                )
                if image_id != 724:  # an image without detections is valid
                    shift = round(float(rng.uniform(0, 12)), 2)
                    box, score = [x + shift, y, w, h], round(float(rng.uniform()), 3)
                    detections.append({**entry, "bbox": box, "score": score})
        categories = [{"id": 90, "name": "brush"}, {"id": 18, "name": "dog"}]
        document = {"images": images, "annotations": annotations, "categories": categories}
        annotation_file = tmp_path / "annotations" / "instances_test2017.json"
        annotation_file.write_text(json.dumps(document))
        results = tmp_path / "results.json"
        results.write_text(json.dumps(detections))
        return {"dataset": "coco", "options": {"root": str(tmp_path)}}, annotation_file, results

    def test_category_ids_are_the_annotations_and_figures_pycocotools(
        self, tmp_path: Path, files: tuple[dict[str, Any], Path, Path], caplog: pytest.LogCaptureFixture
    ) -> None:
        dataset, annotations, detections = files
        results = run_suite(tmp_path, suite("detection", dataset, ["coco"], {"tool": detections}))
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(str(detections)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        figures = list(results.trials[0].metrics.values())
        expected = [None if value < 0 else pytest.approx(value, abs=1e-12) for value in evaluation.stats]
        assert [figure.value for figure in figures] == expected
        assert "1 of 6 images" in caplog.text

    def test_an_unknown_category_is_named(
        self, tmp_path: Path, files: tuple[dict[str, Any], Path, Path]
    ) -> None:
        dataset, _, detections = files
        entry = {"image_id": "nowhere", "category_id": 18, "bbox": [0, 0, 5, 5], "score": 1}
        detections.write_text(json.dumps([entry]))
        with pytest.raises(UsageError, match=r"results\.json.*nowhere"):
            check(tmp_path, suite("detection", dataset, ["coco"], {"tool": detections}))

    def test_a_voc_submission_is_read_for_any_data_set(self, tmp_path: Path) -> None:
        dataset = {"dataset": "scenes", "options": {"size": 3}}
        scenes = planned(tmp_path, suite("detection", dataset, ["voc10"], {"x": tmp_path})).trials[0]
        folder = tmp_path / "submission"
        folder.mkdir()
        opened = scenes.dataset.open()
        for index in range(3):
            sample = opened[index]
            for (x1, y1, x2, y2), label in zip(sample.target.boxes, sample.target.labels, strict=True):
                with (folder / f"comp4_det_test_{opened.classes[label]}.txt").open("a") as file:
                    file.write(f"{sample.id} 0.9 {x1 + 1} {y1 + 1} {x2} {y2}\n")
        results = run_suite(tmp_path, suite("detection", dataset, ["voc10"], {"perfect": folder}))
        assert value(results, 0, "map") == 1


class TestSegmentation:
    @pytest.fixture
    def dataset(self, tmp_path: Path) -> dict[str, Any]:
        """Return a data set of two images whose classes have the labels 7 and 11."""
        for name, label in (("a", 7), ("b", 11)):
            for folder in ("images", "labels"):
                (tmp_path / folder).mkdir(exist_ok=True)
            Image.new("RGB", (8, 4)).save(tmp_path / "images" / f"{name}.png")
            Image.new("L", (8, 4), label).save(tmp_path / "labels" / f"{name}.png")
        options = {"root": str(tmp_path), "images": "images", "labels": "labels"}
        return {"dataset": "masks", "options": options | {"classes": {"road": 7, "car": 11}}}

    def masks(self, folder: Path, **sizes: tuple[int, int]) -> Path:
        """Write masks whose left half is road and whose right half is car."""
        folder.mkdir()
        for name, (width, height) in sizes.items():
            mask = np.full((height, width), 7, np.uint8)
            mask[:, width // 2 :] = 11
            Image.fromarray(mask).save(folder / f"{name}.png")
        return folder

    def test_a_folder_and_a_zip_file_have_the_labels_of_the_data_set(
        self, tmp_path: Path, dataset: dict[str, Any]
    ) -> None:
        folder = self.masks(tmp_path / "out", a=(8, 4), b=(8, 4))
        archive = tmp_path / "out.zip"
        with zipfile.ZipFile(archive, "w") as file:
            for mask in folder.iterdir():
                file.write(mask, f"../anything/{mask.name}")  # names of folders are not used
        content = suite("segmentation", dataset, ["iou"], {"folder": folder, "archive": archive})
        with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("a.png", bytes(1 << 27))
        with pytest.raises(UsageError, match=r"bomb.zip: unpacks to more than 67,108,864 bytes"):
            check(tmp_path, suite("segmentation", dataset, ["iou"], {"bomb": tmp_path / "bomb.zip"}))
        results = run_suite(tmp_path, content)
        for trial in range(2):  # per class 16 correct, 32 annotated, 32 predicted: IoU 16 / 48
            assert value(results, trial, "miou") == pytest.approx(1 / 3)
            assert value(results, trial, "pixel_accuracy") == 0.5

    def test_a_missing_mask_stops_the_run_and_a_wrong_size_is_invalid_input(
        self, tmp_path: Path, dataset: dict[str, Any]
    ) -> None:
        with pytest.raises(UsageError, match="1 of 2 masks are missing, the first for sample 'b'"):
            folder = self.masks(tmp_path / "incomplete", a=(8, 4))
            check(tmp_path, suite("segmentation", dataset, ["iou"], {"tool": folder}))
        folder = self.masks(tmp_path / "small", a=(8, 4), b=(4, 4))
        results = run_suite(tmp_path, suite("segmentation", dataset, ["iou"], {"tool": folder}))
        (failure,) = results.trials[0].failures
        assert failure.invalid_input
        assert "b.png: 4×4 pixels, but the image has 8×4" in failure.error
