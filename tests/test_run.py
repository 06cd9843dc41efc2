"""Runs in this process, complete, resumed or partly failing, always give the same figures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import jsonschema
import pytest
import safetensors.torch
import sample_results
import torch
import yaml
from sample_run import run_file
from small_suite import document, figures, planned, run_suite

import harness.driver.scoring as scoring
from harness.checkpoint import Checkpoint, save
from harness.driver.run import exit_code
from harness.errors import InfrastructureError, UsageError
from harness.executors.inline import InlineExecutor
from harness.files import read_json, write_json, write_record
from harness.recipe import resolve_checkpoint
from harness.rundir.collect import collect
from harness.rundir.prediction_shards import ShardProvenance
from harness.rundir.results import Cost, Results, json_schema, read_results
from harness.rundir.store import RunDirectory
from harness.scenarios.settings import PROFILES, Profile
from harness.task import Translation

MISSING = object()
FIGURE_WITH_P = {"key": "k", "metrics": {"ter": {**sample_results.figure(0.5), "p": 0.1}}, "per_class": {}}


def shard_files(folder: Path, out: str = "run") -> dict[str, int]:
    """Return the modification time of every shard."""
    paths = (folder / out / "trials").glob("*/predictions/*.parquet")
    return {f"{path.parts[-3]}/{path.name}": path.stat().st_mtime_ns for path in paths}


def by_variant(results: Results) -> dict[str, Any]:
    return {trial.variant: trial for trial in results.trials}


class TestComplete:
    @pytest.fixture(scope="class")
    def complete(self, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
        folder = tmp_path_factory.mktemp("complete")
        return folder, run_suite(folder, document(), shard_size=7)

    def test_every_figure_has_value_interval_n_and_signature(self, complete: tuple[Path, Results]) -> None:
        (trial,) = complete[1].trials
        assert trial.status == "complete"
        assert list(trial.metrics) == ["bleu", "chrf"], "in the suite's order, the headline first"
        for figure in trial.metrics.values():
            assert figure.low is not None and figure.value is not None and figure.high is not None
            assert figure.low < figure.value < figure.high
            assert (figure.n, bool(figure.signature)) == (20, True)
        assert exit_code(complete[1]) == 0

    def test_results_json_matches_its_schema_and_is_read_back(self, complete: tuple[Path, Results]) -> None:
        folder, results = complete
        raw = json.loads((folder / "run" / "results.json").read_text())
        jsonschema.Draft202012Validator(json_schema()).validate(raw)
        assert read_results(folder / "run") == results == collect(folder / "run")

    def test_the_directory_contains_the_documented_files(self, complete: tuple[Path, Results]) -> None:
        run = complete[0] / "run"
        assert yaml.safe_load((run / "suite.yaml").read_text())["name"] == "small"
        (trial,) = (run / "trials").iterdir()
        assert (trial / "trial.json").exists() and (trial / "metrics.json").exists()
        assert not (trial / "error.json").exists()
        assert not [path for path in run.rglob(".*") if path.is_file()], "no temporary files"

    def test_the_recorded_suite_gives_the_same_trials(self, complete: tuple[Path, Results]) -> None:
        folder, results = complete
        recorded = yaml.safe_load((folder / "run" / "suite.yaml").read_text())
        assert [t.id for t in run_suite(folder, recorded, out="again").trials] == [
            t.id for t in results.trials
        ]


class TestSameFigures:
    def test_with_any_shard_size(self, tmp_path: Path) -> None:
        suite = document(70, ok={"batch_size": [1, 16]})
        small = run_suite(tmp_path, suite, out="small", shard_size=7)
        large = run_suite(tmp_path, suite, out="large", shard_size=64)
        assert len(shard_files(tmp_path, "small")) > len(shard_files(tmp_path, "large"))
        assert figures(small) == figures(large)

    @pytest.mark.parametrize("shard_size", [7, 64])
    def test_after_a_shard_is_lost_and_only_that_shard_is_predicted_again(
        self, tmp_path: Path, shard_size: int
    ) -> None:
        suite = document(30, ok={"batch_size": 4})
        undisturbed = run_suite(tmp_path, suite, shard_size=7)
        before = shard_files(tmp_path)
        lost = sorted(before)[1]
        (tmp_path / "run" / "trials" / lost.replace("/", "/predictions/")).unlink()
        resumed = run_suite(tmp_path, suite, shard_size=shard_size)
        after = shard_files(tmp_path)
        assert {name: time for name, time in after.items() if name != lost} == {
            name: time for name, time in before.items() if name != lost
        }
        assert after.keys() == before.keys()
        assert after[lost] > before[lost]
        assert figures(resumed) == figures(undisturbed)
        assert resumed.run.id == undisturbed.run.id

    def test_after_a_specification_is_lost(self, tmp_path: Path) -> None:
        undisturbed = run_suite(tmp_path, document())
        (spec_file,) = (tmp_path / "run" / "trials").glob("*/trial.json")
        content = spec_file.read_bytes()
        spec_file.unlink()
        assert run_suite(tmp_path, document()) == undisturbed
        assert spec_file.read_bytes() == content

    def test_a_complete_run_is_not_changed_and_starts_no_executor(self, tmp_path: Path) -> None:
        first = run_suite(tmp_path, document())
        before = shard_files(tmp_path)

        def refuse() -> Any:
            raise AssertionError("nothing is left to execute")

        again = run_suite(
            tmp_path, document(), executor=type("Refusing", (), {"__new__": lambda cls: refuse()})
        )
        assert (again, shard_files(tmp_path)) == (first, before)

    def test_after_the_driver_died_at_any_shard(self, tmp_path: Path) -> None:
        """The driver dies after k shards, and a resumed run continues from what is on disk."""

        class Dying(InlineExecutor):
            survives = 0

            def predict(self, work: Any) -> Any:
                for count, outcome in enumerate(super().predict(work)):
                    if count == self.survives:
                        raise KeyboardInterrupt
                    yield outcome

        suite = document(20, ok={"batch_size": 2})
        expected = figures(run_suite(tmp_path, suite, out="whole", shard_size=4))
        for survives in range(5):
            Dying.survives = survives
            with pytest.raises(KeyboardInterrupt):
                run_suite(tmp_path, suite, executor=Dying, out=f"run{survives}", shard_size=4)
            assert len(shard_files(tmp_path, f"run{survives}")) == survives
            resumed = run_suite(tmp_path, suite, out=f"run{survives}", shard_size=6)
            assert figures(resumed) == expected


class TestFailures:
    def test_a_bad_sample_is_identified_and_only_its_batch_fails(self, tmp_path: Path) -> None:
        suite = document(20, bad={"options": {"raise_at": 13}, "batch_size": 4}, ok={})
        results = run_suite(tmp_path, suite, shard_size=20)
        trials = by_variant(results)
        assert (trials["ok"].status, trials["bad"].status) == ("complete", "partial")
        assert trials["bad"].metrics == {}, "failure is a state, not a score"
        assert trials["bad"].per_class == {}
        assert (
            trials["bad"].reason == "4 of 20 predictions are missing; first error: RuntimeError: poison at 13"
        )
        (failure,) = read_json(tmp_path / "run" / "trials" / trials["bad"].id / "error.json")
        assert (failure["samples"], failure["indices"]) == (["test-0000013"], [13])
        assert (failure["first"], failure["last"], failure["attempts"]) == (12, 15, 1)
        assert exit_code(results) == 3

    def test_a_trial_without_any_prediction_has_failed(self, tmp_path: Path) -> None:
        (trial,) = run_suite(tmp_path, document(10, bad={"options": {"raise_at": 0}})).trials
        assert trial.status == "failed"

    @pytest.mark.usefixtures("forked")
    def test_the_same_command_predicts_failed_shards_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import fake_adapters

        suite = document(20, bad={"options": {"raise_at": 13}, "batch_size": 4})
        run_suite(tmp_path, suite, shard_size=4)
        before = shard_files(tmp_path)
        monkeypatch.setattr(fake_adapters.FakeTranslation, "_misbehave", lambda self, index: None)
        (trial,) = run_suite(tmp_path, suite, shard_size=4).trials
        assert (trial.status, trial.failures) == ("complete", [])
        assert before.items() <= shard_files(tmp_path).items()

    @pytest.mark.usefixtures("forked")
    def test_an_invalid_prediction_is_a_failure(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import fake_adapters

        monkeypatch.setattr(fake_adapters.FakeTranslation, "postprocess", lambda self, raw, batch: [])
        (trial,) = run_suite(tmp_path, document()).trials
        assert trial.failures[0].error == "ValueError: the adapter returned 0 predictions for 16 samples"

    def test_a_failed_timing_does_not_affect_other_results(self, tmp_path: Path) -> None:
        calls = []

        class Failing(InlineExecutor):
            def measure(self, *arguments: Any) -> Any:
                calls.append(arguments)
                raise InfrastructureError("timing words/ok: the process died")

        suite = document()
        suite["benchmarks"]["words"]["speed"] = ["offline"]
        results = run_suite(tmp_path, suite, executor=Failing)
        (trial,) = results.trials
        assert trial.status == "complete"
        scenario = trial.speed["offline"]
        assert (scenario.valid, scenario.queries, scenario.throughput) == (False, 0, None)
        assert scenario.reasons == ["timing words/ok: the process died"]
        assert exit_code(results) == 3
        jsonschema.validate(json.loads((tmp_path / "run" / "results.json").read_text()), json_schema())
        run_suite(tmp_path, suite, executor=Failing)
        assert len(calls) == 2, "the next run measures again"


class TestSpeed:
    def test_is_measured_in_fresh_processes_and_raw_timings_are_stored(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        three = replace(PROFILES["smoke"], processes=3)
        monkeypatch.setitem(cast(dict[str, Profile], PROFILES), "smoke", three)
        suite = document(ok={"batch_size": 4})
        suite["benchmarks"]["words"]["speed"] = ["offline", "single-stream"]
        suite["speed"] = {"samples": 8, "threads": 1}
        results = run_suite(tmp_path, suite)
        (trial,) = results.trials
        raw = read_json(tmp_path / "run" / "trials" / trial.id / "speed" / "single-stream.json")
        processes = [sorted(process["latencies_ns"]) for process in raw["processes"]]
        medians = [latencies[-(-len(latencies) // 2) - 1] / 1e9 for latencies in processes]
        stream = trial.speed["single-stream"]
        assert len(processes) == 3 and min(map(len, processes)) >= 11
        assert stream.queries == sum(map(len, processes))
        assert all(len(latencies) % 8 == 0 for latencies in processes)
        assert min(medians) <= stream.latency["p50"].value <= max(medians)
        assert trial.speed["offline"].throughput.value > 0
        assert set(trial.phases) == {"preprocess", "model", "postprocess"}
        assert exit_code(results) == 0
        assert run_suite(tmp_path, suite) == results, "not measured again"

        path = tmp_path / "run" / "trials" / trial.id / "speed" / "offline.json"
        write_json(path, read_json(path) | {"environment": "another"})
        again = run_suite(tmp_path, suite).trials[0].speed["offline"]
        assert again.environment == results.run.environment, "timings of another environment are not used"


def detection(**metrics: list[str]) -> dict[str, Any]:
    """Return a suite with one benchmark per keyword, all of the shipped detector on the same few scenes."""
    shared = {"dataset": "scenes", "task": "detection", "adapters": ["yolo"], "limit": 12}
    return {
        "name": "small",
        "adapters": {"yolo": {"adapter": "yolo", "checkpoint": "yolo-scenes"}},
        "benchmarks": {name: shared | {"metrics": names} for name, names in metrics.items()},
    }


class TestTwoBenchmarksOfOneTrial:
    def test_share_predictions_and_each_has_its_own_metrics(self, tmp_path: Path) -> None:
        suite = document()
        words = suite["benchmarks"]["words"]
        suite["benchmarks"] = {"a": words | {"metrics": ["bleu"]}, "b": words | {"metrics": ["chrf"]}}
        results = run_suite(tmp_path, suite)
        assert len(shard_files(tmp_path)) == 1
        assert [(t.benchmark, list(t.metrics)) for t in results.trials] == [("a", ["bleu"]), ("b", ["chrf"])]

    def test_a_metric_added_later_is_scored_from_existing_predictions(self, tmp_path: Path) -> None:
        suite = document()
        suite["benchmarks"]["words"]["metrics"] = ["chrf"]
        first = run_suite(tmp_path, suite)
        before = shard_files(tmp_path)
        both = run_suite(tmp_path, document())
        assert shard_files(tmp_path) == before
        assert both.trials[0].metrics["chrf"] == first.trials[0].metrics["chrf"]
        assert list(both.trials[0].metrics) == ["bleu", "chrf"]

    def test_figures_of_the_same_name_belong_to_their_own_metric(self, tmp_path: Path) -> None:
        """voc07 and voc10 both have a figure `map`, with different values."""
        results = run_suite(tmp_path, detection(a=["voc07"], b=["voc10"], c=["coco", "voc10"]))
        trials = {trial.benchmark: trial for trial in results.trials}
        assert len({trial.id for trial in results.trials}) == 1
        signatures = {name: trial.metrics["map"].signature for name, trial in trials.items()}
        assert [signatures[name][:5] for name in "abc"] == ["voc07", "voc10", "voc10"]
        assert trials["a"].metrics["map"].value != trials["b"].metrics["map"].value
        assert trials["b"].metrics["map"] == trials["c"].metrics["map"]
        assert run_suite(tmp_path, detection(a=["voc07"])).trials[0].metrics == trials["a"].metrics

    def test_parameters_are_known_without_a_timing_and_stay_known(self, tmp_path: Path) -> None:
        suite = detection(a=["voc07"])
        (trial,) = run_suite(tmp_path, suite, shard_size=4).trials
        weights = safetensors.torch.load_file(resolve_checkpoint("yolo-scenes", "yolo", None).weights)
        buffers = ("running_mean", "running_var", "num_batches_tracked")
        trained = [tensor.numel() for name, tensor in weights.items() if not name.endswith(buffers)]
        assert trial.cost == Cost(parameters=sum(trained), checkpoint_bytes=trial.cost.checkpoint_bytes)
        assert run_suite(tmp_path, suite).trials[0].cost == trial.cost, "read from the stored predictions"

    def test_class_figures_of_the_same_name_are_prefixed_with_their_metric(self, tmp_path: Path) -> None:
        results = run_suite(tmp_path, detection(b=["voc10"], c=["coco", "voc10"]))
        alone, both = (trial.per_class["0"] for trial in results.trials)
        assert list(alone) == ["ap"]
        assert list(both) == ["coco/ap", "ap50", "voc10/ap"]
        assert both["voc10/ap"] == alone["ap"] != both["coco/ap"]
        figure = alone["ap"]
        assert figure.value is not None and figure.low is not None and figure.high is not None
        assert figure.low <= figure.value <= figure.high
        dataset = planned(tmp_path, detection(b=["voc10"])).trials[0].dataset.open()
        targets = [dataset[index].target for index in range(results.trials[0].dataset.size)]
        assert figure.n == sum(0 in target.labels for target in targets) > 0  # type: ignore[union-attr]


class TestStaleScores:
    def test_changed_predictions_are_scored_again(self, tmp_path: Path) -> None:
        (before,) = run_suite(tmp_path, document()).trials
        trial_dir = RunDirectory(tmp_path / "run").trial(before.id)
        rows = list(trial_dir.predictions.read("translation"))
        worse = [Translation("nothing") for _ in rows]
        trial_dir.predictions.write(
            "translation", 0, [sample for sample, _ in rows], worse, ShardProvenance(environment="here")
        )
        (after,) = run_suite(tmp_path, document()).trials
        assert after.metrics["bleu"].value == 0 < before.metrics["bleu"].value

    def test_another_version_of_a_library_causes_a_new_score(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (trial,) = run_suite(tmp_path, document()).trials
        path = tmp_path / "run" / "trials" / trial.id / "metrics.json"
        keys = {name: scores["key"] for name, scores in read_json(path).items()}
        installed = scoring.version
        monkeypatch.setattr(
            scoring, "version", lambda name: "9.9" if name == "sacrebleu" else installed(name)
        )
        run_suite(tmp_path, document())
        assert all(scores["key"] != keys[name] for name, scores in read_json(path).items())


class TestNothingIsWritten:
    """Input errors are found before the run directory is touched."""

    def refused(self, tmp_path: Path, suite: dict[str, Any], **settings: Any) -> str:
        with pytest.raises(UsageError) as caught:
            run_suite(tmp_path, suite, **settings)
        assert not (tmp_path / "run").exists()
        return str(caught.value)

    def test_for_an_unknown_name(self, tmp_path: Path) -> None:
        assert "did you mean" in self.refused(tmp_path, document(ok={"adapter": "fake-translatio"}))

    def test_for_a_pattern_that_matches_nothing(self, tmp_path: Path) -> None:
        assert "--only" in self.refused(tmp_path, document(), only="nothing")

    def test_for_a_truncated_checkpoint(self, tmp_path: Path) -> None:
        save(Checkpoint({"w": torch.zeros(100)}, "fake-translation", {}), tmp_path / "w.safetensors")
        (tmp_path / "w.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:50])
        message = self.refused(tmp_path, document(ok={"checkpoint": "w.safetensors"}))
        assert "w.safetensors: truncated or not safetensors" in message

    def test_for_a_checkpoint_of_another_adapter(self, tmp_path: Path) -> None:
        save(Checkpoint({"w": torch.zeros(1)}, "fcn-8s", {}), tmp_path / "w.safetensors")
        suite = document() | {
            "adapters": {"ok": {"adapter": "yolo", "checkpoint": "w.safetensors"}},
            "benchmarks": {
                "digits": {"dataset": "scenes", "task": "detection", "adapters": ["ok"], "metrics": ["coco"]}
            },
        }
        message = self.refused(tmp_path, suite)
        assert "adapters.ok.checkpoint" in message and "w.safetensors" in message and "'fcn-8s'" in message

    def test_for_a_trainable_adapter_without_a_checkpoint(self, tmp_path: Path) -> None:
        suite = document() | {
            "adapters": {"ok": {"adapter": "yolo"}},
            "benchmarks": {
                "digits": {"dataset": "scenes", "task": "detection", "adapters": ["ok"], "metrics": ["coco"]}
            },
        }
        assert "digits/ok" in self.refused(tmp_path, suite)

    def test_into_another_suites_directory(self, tmp_path: Path) -> None:
        write_record(tmp_path / "run" / "run.json", run_file("other"))
        with pytest.raises(UsageError, match="contains a run of suite 'other', not of 'small'"):
            run_suite(tmp_path, document())
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]


def test_figures_of_lost_predictions_are_not_reported(tmp_path: Path) -> None:
    run_suite(tmp_path, document(ok={"batch_size": 4}), shard_size=4)
    (tmp_path / "run" / "trials" / min(shard_files(tmp_path)).replace("/", "/predictions/")).unlink()
    (trial,) = collect(tmp_path / "run").trials
    assert (trial.status, trial.metrics, trial.per_class) == ("pending", {}, {})
    assert trial.reason == "4 of 20 predictions are missing"


def test_collecting_needs_a_run_directory(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"not a run directory \(it has no run\.json\)"):
        collect(tmp_path)


class TestTheRecord:
    def test_only_restricts_the_work_but_not_the_record(self, tmp_path: Path) -> None:
        suite = document(a={}, b={"batch_size": 4})
        whole = run_suite(tmp_path, suite)
        part = run_suite(tmp_path, suite, only="words/a")
        assert part == whole

    def test_failures_of_a_trial_that_is_now_complete_are_removed(self, tmp_path: Path) -> None:
        (trial,) = run_suite(tmp_path, document()).trials
        failure = {
            "first": 0,
            "last": 0,
            "samples": [],
            "error": "the driver was killed before it removed this file",
            "attempts": 1,
        }
        write_json(tmp_path / "run" / "trials" / trial.id / "error.json", [failure])
        assert run_suite(tmp_path, document()).trials[0].failures == []

    def test_a_damaged_shard_is_predicted_again(self, tmp_path: Path) -> None:
        before = run_suite(tmp_path, document(20, ok={"batch_size": 4}), shard_size=8)
        shard = next((tmp_path / "run").rglob("00000008-00000016.parquet"))
        shard.write_bytes(shard.read_bytes()[:100])
        after = run_suite(tmp_path, document(20, ok={"batch_size": 4}), shard_size=8)
        assert figures(after) == figures(before)

    @pytest.mark.parametrize(
        ("file", "change", "problem"),
        [
            ("run.json", {"sweet": "a"}, "run.json: sweet: this key is unknown"),
            ("run.json", {"suite": MISSING}, "run.json: suite: this key is missing"),
            ("trials/ID/trial.json", {"size": MISSING}, "trial.json: size: this key is missing"),
            ("trials/ID/metrics.json", {"ter": {}}, "metrics.json: ter.key: this key is missing"),
            ("trials/ID/metrics.json", {"ter": FIGURE_WITH_P}, "ter.metrics.ter.p: this key is unknown"),
            ("trials/ID/error.json", [{"first": 0}], "error.json: 0.last: this key is missing"),
            ("pairs.json", {"words": {"third": 1}}, "pairs.json: words.key: this key is missing"),
            ("environments/KEY.json", {"gpu": "a"}, "KEY.json: gpu: this key is unknown"),
        ],
    )
    def test_a_file_that_does_not_match_its_model_is_an_error_with_file_and_key(
        self, tmp_path: Path, file: str, change: Any, problem: str
    ) -> None:
        results = run_suite(tmp_path, document(4))
        key = results.run.environment
        path = tmp_path / "run" / file.replace("ID", results.trials[0].id).replace("KEY", key)
        if isinstance(change, dict):
            changed = (read_json(path) or {}) | change
            change = {name: value for name, value in changed.items() if value is not MISSING}
        write_json(path, change)
        with pytest.raises(UsageError, match=problem.replace("KEY", key)):
            collect(tmp_path / "run")
