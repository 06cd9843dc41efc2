"""A run writes the analysis of each trial once, pairs variants, and survives a failing analysis."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from fake_adapters import FakeTranslation
from scipy import stats
from small_suite import document, run_suite

import harness.driver.scoring as scoring
from harness.analysis.record import DetectionAnalysis, TranslationAnalysis, json_schema, read_analysis
from harness.errors import UsageError
from harness.metrics.iou import Iou
from harness.rundir.results import Results, read_results
from harness.stages.score import Observer
from harness.statistics.paired import difference
from harness.task import Alignment


def detection(size: int = 12) -> dict[str, Any]:
    return {
        "name": "small",
        "datasets": {"few": {"dataset": "scenes", "options": {"size": size}}},
        "adapters": {"ok": {"adapter": "fake-detection"}},
        "benchmarks": {
            "boxes": {"dataset": "few", "task": "detection", "adapters": ["ok"], "metrics": ["coco"]}
        },
    }


def trial_dir(folder: Path, results: Results, variant: str = "ok") -> Path:
    (trial,) = (trial for trial in results.trials if trial.variant == variant)
    return folder / "run" / "trials" / trial.id


def modification_times(folder: Path) -> dict[str, int]:
    """Return the modification times of the files of trials and of the pairs."""
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in [*(folder / "run" / "trials").rglob("*"), folder / "run" / "pairs.json"]
        if path.is_file()
    }


class TestFiles:
    def test_the_analysis_of_a_translation_trial_has_the_published_schema(self, tmp_path: Path) -> None:
        trial = trial_dir(tmp_path, run_suite(tmp_path, document()))
        raw = json.loads((trial / "analysis.json").read_text())
        jsonschema.Draft202012Validator(json_schema()).validate(raw)
        analysis = read_analysis(trial)
        assert isinstance(analysis, TranslationAnalysis)
        assert (analysis.n, len(analysis.samples), analysis.alignments) == (20, 8, [])
        assert analysis.rates["exact_match"].value == 0, "the fake adapter drops a word"

    def test_a_detection_trial_has_exactly_the_images_that_its_analysis_names(self, tmp_path: Path) -> None:
        trial = trial_dir(tmp_path, run_suite(tmp_path, detection()))
        (trial / "samples" / "stale.webp").write_bytes(b"of an earlier analysis")
        (trial / "analysis.json").unlink()
        run_suite(tmp_path, detection())
        analysis = read_analysis(trial)
        assert isinstance(analysis, DetectionAnalysis)
        images = {path.relative_to(trial).as_posix() for path in (trial / "samples").iterdir()}
        assert images == {sample.image for sample in analysis.samples}
        assert sum((trial / name).stat().st_size for name in images) < 8 * 10_000

    def test_a_finished_run_is_not_rewritten(self, tmp_path: Path) -> None:
        suite = document(ok={}, other={"options": {"drop": 6}})
        run_suite(tmp_path, suite)
        before = modification_times(tmp_path)
        run_suite(tmp_path, suite)
        assert modification_times(tmp_path) == before

    def test_samples_are_read_once_for_figures_and_analysis(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        passes: list[Observer | None] = []
        score = scoring.score

        def counting_score(*arguments: Any) -> Any:
            passes.append(arguments[-1])
            return score(*arguments)

        monkeypatch.setattr(scoring, "score", counting_score)
        run_suite(tmp_path, document())
        assert len(passes) == 1 and passes[0] is not None

    def test_a_partial_trial_has_no_analysis(self, tmp_path: Path) -> None:
        results = run_suite(tmp_path, document(ok={"options": {"raise_at": 3}}), shard_size=4)
        assert results.trials[0].status == "partial"
        assert read_analysis(trial_dir(tmp_path, results)) is None

    def test_a_file_with_another_schema_is_reported(self, tmp_path: Path) -> None:
        (tmp_path / "analysis.json").write_text('{"schema": "harness-analysis/0", "key": ""}')
        with pytest.raises(UsageError, match=r"analysis\.json: written by another version"):
            read_analysis(tmp_path)


class TestAlignments:
    @pytest.mark.usefixtures("forked")
    def test_alignments_come_from_the_adapter_for_short_samples(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def alignments(self: Any, samples: Any, predictions: Any) -> list[Alignment]:
            assert self.loaded
            return [
                Alignment((*sample.input.split(), "</s>"), ("x", "</s>"), np.full((2, 2), 1 / 3, np.float32))
                for sample in samples
            ]

        monkeypatch.setattr(FakeTranslation, "alignments", alignments)
        analysis = read_analysis(trial_dir(tmp_path, run_suite(tmp_path, document())))
        assert isinstance(analysis, TranslationAnalysis)
        shown = {sample.index: sample for sample in analysis.samples}
        assert len({shown[alignment.index].role for alignment in analysis.alignments}) == 3, "one per role"
        for alignment in analysis.alignments:
            assert alignment.source == [*shown[alignment.index].source.split(), "</s>"]
            assert alignment.weights == [[0.333] * 2] * 2

    @pytest.mark.usefixtures("forked")
    def test_lossy_inputs_become_a_rate_over_all_samples(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def lossy_inputs(self: Any, samples: Any) -> dict[str, list[bool]]:
            assert self.loaded
            return {"unknown_source": [number < 5 for number in range(len(samples))]}

        monkeypatch.setattr(FakeTranslation, "lossy_inputs", lossy_inputs)
        analysis = read_analysis(trial_dir(tmp_path, run_suite(tmp_path, document())))
        assert isinstance(analysis, TranslationAnalysis)
        rate = analysis.rates["unknown_source"]
        assert (rate.value, rate.n, rate.unit) == (5 / 20, 20, "fraction")
        assert rate.low is not None
        assert rate.high is not None
        assert rate.low < 0.25 < rate.high
        assert "exact_match" in analysis.rates

    def test_an_adapter_whose_alignments_fail_keeps_the_rest_of_the_analysis(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def alignments(self: Any, samples: Any, predictions: Any) -> list[Alignment]:
            raise RuntimeError("no weights")

        monkeypatch.setattr(FakeTranslation, "alignments", alignments)
        results = run_suite(tmp_path, document())
        analysis = read_analysis(trial_dir(tmp_path, results))
        assert isinstance(analysis, TranslationAnalysis)
        assert (results.trials[0].status, analysis.alignments, len(analysis.samples)) == ("complete", [], 8)


def test_figures_do_not_depend_on_whether_images_can_be_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(image: Any) -> bytes:
        raise ValueError("the image cannot be drawn")

    monkeypatch.setattr("harness.analysis.detection.image_file", broken)
    results = run_suite(tmp_path, detection(4))
    assert (results.trials[0].status, read_analysis(trial_dir(tmp_path, results))) == ("complete", None)


class TestPairs:
    SUITE = document(30, ok={}, same={"batch_size": 7}, other={"options": {"drop": 6}})

    def test_variants_with_different_predictions_are_paired_by_every_headline(self, tmp_path: Path) -> None:
        results = run_suite(tmp_path, self.SUITE)
        assert [(pair.first, pair.second, pair.metric) for pair in results.pairs] == [
            ("ok", "other", "bleu"),
            ("ok", "other", "chrf"),
        ]
        figures = {trial.variant: trial.metrics for trial in results.trials}
        for pair in results.pairs:
            first, second = (figures[name][pair.metric] for name in ("ok", "other"))
            assert pair.difference.value == pytest.approx(second.value - first.value)
            assert pair.difference.high is not None and pair.difference.high < 0, "it drops more words"
            assert pair.p == pair.p_adjusted < 0.05
        assert read_results(tmp_path / "run") == results

    def test_a_run_of_some_trials_keeps_all_pairs(self, tmp_path: Path) -> None:
        before = run_suite(tmp_path, self.SUITE)
        assert run_suite(tmp_path, self.SUITE, only="words/ok").pairs == before.pairs

    def test_p_of_a_mean_over_samples_equals_that_of_a_paired_t_test(self) -> None:
        """The pixel accuracy of equally large images is a mean."""
        generator = np.random.default_rng(5)
        metric = Iou(["a", "b"])
        target = np.zeros((10, 10), np.uint8)
        rows = []
        for share in (0.30, 0.31):
            wrong = [(generator.random((10, 10)) < share).astype(np.uint8) for _ in range(200)]
            rows.append([metric.statistics(target, mask) for mask in wrong])
        first, second = (metric.jackknife(side)["pixel_accuracy"] for side in rows)
        paired = difference([first], [second])
        accuracy = [[counts[0].sum() / 100 for counts in side] for side in rows]
        expected = stats.ttest_rel(accuracy[1], accuracy[0])
        assert paired.difference.value == pytest.approx(np.mean(accuracy[1]) - np.mean(accuracy[0]))
        assert paired.p == pytest.approx(expected.pvalue)
        assert 0.001 < expected.pvalue < 0.3, "neither 0 nor 1, so the comparison is meaningful"
        interval = expected.confidence_interval()
        assert (paired.difference.low, paired.difference.high) == pytest.approx(tuple(interval))

    def test_equal_models_differ_by_zero_and_undefined_figures_have_no_p(self) -> None:
        metric = Iou(["a", "b"])
        mask = np.zeros((4, 4), np.uint8)
        side = metric.jackknife([metric.statistics(mask, mask)] * 5)
        same = difference([side["miou"]], [side["miou"]])
        assert same.difference == replace(side["miou"].figure, value=0.0, low=0.0, high=0.0)
        assert same.p == 1.0
        undefined = difference([side["foreground_iou"]], [side["foreground_iou"]])
        assert (undefined.difference.value, undefined.p) == (None, None)
