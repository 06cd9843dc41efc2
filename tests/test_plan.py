"""From a suite to trials: the matrix, the ids of trials, and missing data or checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from small_suite import document, planned, run_suite

from harness.datasets.phrases.phrases import Phrases
from harness.errors import UnavailableError, UsageError
from harness.files import read_json
from harness.identity import code_version
from harness.rundir.records import TrialSpec


def with_benchmark(**changes: Any) -> dict[str, Any]:
    suite = document()
    suite["benchmarks"]["words"] |= changes
    return suite


def ids(tmp_path: Path, suite: dict[str, Any], **arguments: Any) -> list[str]:
    return [trial.id for trial in planned(tmp_path, suite, **arguments).trials]


def test_lists_of_values_multiply_into_variants(tmp_path: Path) -> None:
    suite = document(
        ok={"batch_size": [1, 8], "precision": ["fp32", "bf16"], "options": {"delay": [0.0, 0.1]}}
    )
    trials = planned(tmp_path, suite).trials
    assert len(trials) == len({trial.id for trial in trials}) == 8
    assert trials[0].variant == "ok[precision=fp32,batch_size=1,delay=0.0]"
    assert trials[-1].spec.options["delay"] == 0.1


def test_a_list_of_one_value_is_not_part_of_the_name(tmp_path: Path) -> None:
    assert planned(tmp_path, document(ok={"batch_size": [8]})).trials[0].variant == "ok"


def ratios(*values: Any) -> dict[str, Any]:
    entry = {"adapter": "ssd", "checkpoint": "ssd-scenes", "options": {"aspect_ratios": list(values)}}
    benchmark = {"dataset": "scenes", "task": "detection", "adapters": ["ssd"], "metrics": ["coco"]}
    return {"name": "ratios", "adapters": {"ssd": entry}, "benchmarks": {"b": benchmark}}


def test_an_option_whose_value_is_a_list_multiplies_only_by_lists_of_lists(tmp_path: Path) -> None:
    assert len(planned(tmp_path, ratios([1.0], [0.5, 1.0])).trials) == 2
    assert [trial.variant for trial in planned(tmp_path, ratios(0.5, 1.0)).trials] == ["ssd"]
    with pytest.raises(
        UsageError, match=r"options\.aspect_ratios.*: Input should be less than or equal to 10 \(got 50"
    ):
        planned(tmp_path, ratios(0.5, 50))


class TestIdentity:
    """Compare the ids of a suite with those of the suite after one change."""

    RELEVANT: ClassVar = {
        "batch size": document(ok={"batch_size": 8}),
        "precision": document(ok={"precision": "bf16"}),
        "device": document(ok={"device": "cpu"}),
        "an option": document(ok={"options": {"delay": 0.5}}),
        "the data": document(size=21),
        "the split": with_benchmark(split="validation"),
        "the limit": with_benchmark(limit=5),
    }
    IRRELEVANT: ClassVar = {
        "the suite's name": document() | {"name": "other", "description": "words"},
        "the benchmark's name": document() | {"benchmarks": {"b": document()["benchmarks"]["words"]}},
        "metrics and scenarios": with_benchmark(metrics=["chrf"], speed=["offline"]),
        "the speed profile": document() | {"speed": {"profile": "ci", "threads": 1}},
        "an explicit default": document(ok={"batch_size": 16, "options": {"delay": 0.0}}),
        "a limit beyond the data": with_benchmark(limit=500),
    }

    @pytest.mark.parametrize("change", RELEVANT)
    def test_a_change_that_can_affect_the_outcome_changes_the_id(self, tmp_path: Path, change: str) -> None:
        assert ids(tmp_path, self.RELEVANT[change]) != ids(tmp_path, document())

    def test_the_id_covers_the_adapters_code_and_the_split(self, tmp_path: Path) -> None:
        (trial,) = planned(tmp_path, self.RELEVANT["the split"]).trials
        assert (trial.spec.code, trial.spec.split) == (code_version("fake_adapters"), "validation")

    @pytest.mark.parametrize("change", IRRELEVANT)
    def test_a_change_that_cannot_affect_the_outcome_keeps_the_id(self, tmp_path: Path, change: str) -> None:
        assert ids(tmp_path, self.IRRELEVANT[change]) == ids(tmp_path, document())

    def test_names_of_adapters_do_not_affect_the_id(self, tmp_path: Path) -> None:
        first, second = ids(tmp_path, document(a={}, b={}))
        assert first == second

    def test_the_stored_specification_gives_the_same_id(self, tmp_path: Path) -> None:
        """Executor, workers, shard size and the output path are not part of the id."""
        for out, shard_size in (("a", 7), ("b", 64)):
            run_suite(tmp_path, document(), out=out, shard_size=shard_size)
            (trial_dir,) = (tmp_path / out / "trials").iterdir()
            assert TrialSpec.model_validate(read_json(trial_dir / "trial.json")).id == trial_dir.name
            assert [trial_dir.name] == ids(tmp_path, document())


class TestSelection:
    def test_only_is_a_pattern_of_benchmark_and_variant(self, tmp_path: Path) -> None:
        suite = document(one={}, two={"batch_size": [1, 8]})
        names = [trial.name for trial in planned(tmp_path, suite, only="words/two*").trials]
        assert names == ["words/two[batch_size=1]", "words/two[batch_size=8]"]

    def test_only_may_name_a_variant_exactly(self, tmp_path: Path) -> None:
        suite = document(two={"batch_size": [1, 8]})
        (trial,) = planned(tmp_path, suite, only="words/two[batch_size=8]").trials
        assert trial.spec.batch_size == 8

    def test_only_that_matches_nothing_lists_the_trials(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"--only x: matches no trial \(known: words/ok\)"):
            planned(tmp_path, document(), only="x")

    def test_limit_is_an_upper_bound(self, tmp_path: Path) -> None:
        assert planned(tmp_path, document(), limit=5).trials[0].spec.size == 5
        assert planned(tmp_path, document(), limit=500).trials[0].spec.size == 20


class TestUnavailable:
    @pytest.fixture
    def _absent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(self: Phrases, *arguments: Any) -> None:
            raise UnavailableError("no phrases on this machine")

        monkeypatch.setattr(Phrases, "__init__", refuse)

    @pytest.mark.usefixtures("_absent")
    def test_missing_data_fail_by_default(self, tmp_path: Path) -> None:
        with pytest.raises(UnavailableError, match="no phrases on this machine"):
            planned(tmp_path, document())

    @pytest.mark.usefixtures("_absent")
    def test_missing_data_are_skipped_and_reported_if_the_suite_allows_it(self, tmp_path: Path) -> None:
        suite = with_benchmark(when_unavailable="skip")
        plan = planned(tmp_path, suite)
        assert plan.trials == ()
        assert [(s.benchmark, s.reason) for s in plan.skipped] == [("words", "no phrases on this machine")]

    @pytest.mark.usefixtures("_absent")
    def test_only_that_matches_nothing_lists_the_skipped_benchmarks(self, tmp_path: Path) -> None:
        suite = with_benchmark(when_unavailable="skip")
        with pytest.raises(UsageError, match=r"matches no trial .*skipped words: no phrases on this machine"):
            planned(tmp_path, suite, only="words/*")

    @pytest.mark.usefixtures("_absent")
    def test_a_run_without_trials_is_refused_and_writes_nothing(self, tmp_path: Path) -> None:
        """A gate on such a run would always pass."""
        suite = with_benchmark(when_unavailable="skip")
        with pytest.raises(
            UsageError, match=r"nothing to run, .* skipped \(words: no phrases on this machine"
        ):
            run_suite(tmp_path, suite)
        assert not (tmp_path / "run").exists()

    @pytest.mark.usefixtures("_absent")
    def test_names_are_checked_in_skipped_benchmarks_too(self, tmp_path: Path) -> None:
        suite = document(ok={"adapter": "fake-translatio"})
        suite["benchmarks"]["words"]["when_unavailable"] = "skip"
        with pytest.raises(UsageError, match="did you mean 'fake-translation'"):
            planned(tmp_path, suite)


class TestMissingCheckpoints:
    def recipe(self, folder: Path, **options: Any) -> dict[str, Any]:
        recipe = {
            "adapter": "fake-translation",
            "task": "translation",
            "options": {"delay": 0.25} | options,
            "dataset": {"name": "phrases"},
            "steps": 10,
            "batch_size": 4,
            "learning_rate": 0.001,
            "metric": "bleu",
        }
        (folder / "made.yaml").write_text(yaml.safe_dump({"recipe": recipe}))
        return document(ok={"checkpoint": "made.yaml"}, again={"checkpoint": "made.yaml", "batch_size": 2})

    def test_a_missing_checkpoint_is_listed_once_for_all_its_trials(self, tmp_path: Path) -> None:
        plan = planned(tmp_path, self.recipe(tmp_path))
        assert [reference.name for reference in plan.missing_checkpoints] == ["made"]
        assert [trial.needs_training for trial in plan.trials] == [True, True]

    def test_every_seed_is_a_training_and_a_variant(self, tmp_path: Path) -> None:
        suite = self.recipe(tmp_path)
        suite["adapters"]["ok"]["seed"] = [0, 1, 2]
        plan = planned(tmp_path, suite)
        assert [t.variant for t in plan.trials] == ["ok[seed=0]", "ok[seed=1]", "ok[seed=2]", "again"]
        assert [reference.name for reference in plan.missing_checkpoints] == [
            "made",
            "made-seed-1",
            "made-seed-2",
        ]
        assert [r.recipe.seed for r in plan.missing_checkpoints if r.recipe] == [0, 1, 2]
        assert len({reference.weights for reference in plan.missing_checkpoints}) == 3

    def test_a_seed_requires_a_recipe(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"adapters\.ok\.seed: .* set 'checkpoint'"):
            planned(tmp_path, document(ok={"seed": 1}))
        with pytest.raises(UsageError, match="weights have a fixed seed"):
            planned(tmp_path, document(ok={"seed": 1, "checkpoint": "w.safetensors"}))

    def test_options_may_not_contradict_the_recipe(self, tmp_path: Path) -> None:
        suite = self.recipe(tmp_path)
        assert planned(tmp_path, suite).trials[0].spec.options["delay"] == 0.25
        suite["adapters"]["ok"]["options"] = {"delay": [0.25, 0.5]}
        with pytest.raises(
            UsageError,
            match=r"adapters\.ok\.options\.delay: the checkpoint 'made\.yaml' was made with delay=0\.25",
        ):
            planned(tmp_path, suite)

    def test_an_unknown_checkpoint_is_reported(self, tmp_path: Path) -> None:
        with pytest.raises(
            UsageError, match=r"suite\.yaml:11: adapters\.ok\.checkpoint: unknown checkpoint 'x'"
        ):
            planned(tmp_path, document(ok={"checkpoint": "x"}))
