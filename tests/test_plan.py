"""Suite → trials: the matrix, what a trial's id depends on, and what is missing here."""

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
from harness.rundir.trial_files import TrialSpec


def with_benchmark(**changes: Any) -> dict[str, Any]:
    suite = document()
    suite["benchmarks"]["words"] |= changes
    return suite


def ids(tmp_path: Path, suite: dict[str, Any], **arguments: Any) -> list[str]:
    return [trial.id for trial in planned(tmp_path, suite, **arguments).trials]


def test_lists_multiply(tmp_path: Path) -> None:
    suite = document(
        ok={"batch_size": [1, 8], "precision": ["fp32", "bf16"], "options": {"delay": [0.0, 0.1]}}
    )
    trials = planned(tmp_path, suite).trials
    assert len(trials) == len({trial.id for trial in trials}) == 8
    assert trials[0].variant == "ok[precision=fp32,batch_size=1,delay=0.0]"
    assert trials[-1].spec.options["delay"] == 0.1


def test_a_list_of_one_value_does_not_lengthen_the_name(tmp_path: Path) -> None:
    assert planned(tmp_path, document(ok={"batch_size": [8]})).trials[0].variant == "ok"


def scales(*values: Any) -> dict[str, Any]:
    entry = {"adapter": "fcn-8s", "checkpoint": "fcn-8s-scenes", "options": {"scales": list(values)}}
    benchmark = {"dataset": "scenes", "task": "segmentation", "adapters": ["fcn"], "metrics": ["iou"]}
    return {"name": "scales", "adapters": {"fcn": entry}, "benchmarks": {"b": benchmark}}


def test_an_option_that_is_a_list_multiplies_by_lists_of_lists_alone(tmp_path: Path) -> None:
    assert len(planned(tmp_path, scales([1.0], [0.5, 1.0])).trials) == 2
    assert [trial.variant for trial in planned(tmp_path, scales(0.5, 1.0)).trials] == ["fcn"]
    with pytest.raises(
        UsageError, match=r"options\.scales.*: Input should be less than or equal to 4 \(got 5"
    ):
        planned(tmp_path, scales(0.5, 5))


class TestIdentity:
    """Each change is made to the same suite, and ids are compared."""

    CHANGING: ClassVar = {
        "batch size": document(ok={"batch_size": 8}),
        "precision": document(ok={"precision": "bf16"}),
        "device": document(ok={"device": "cpu"}),
        "an option": document(ok={"options": {"delay": 0.5}}),
        "the data": document(size=21),
        "the split": with_benchmark(split="validation"),
        "the limit": with_benchmark(limit=5),
    }
    KEEPING: ClassVar = {
        "the suite's name": document() | {"name": "other", "description": "words"},
        "the benchmark's name": document() | {"benchmarks": {"b": document()["benchmarks"]["words"]}},
        "metrics and scenarios": with_benchmark(metrics=["chrf"], speed=["offline"]),
        "the speed profile": document() | {"speed": {"profile": "ci", "threads": 1}},
        "a default spelt out": document(ok={"batch_size": 16, "options": {"delay": 0.0}}),
        "a limit beyond the data": with_benchmark(limit=500),
    }

    @pytest.mark.parametrize("change", CHANGING)
    def test_what_can_change_the_outcome_changes_the_id(self, tmp_path: Path, change: str) -> None:
        assert ids(tmp_path, self.CHANGING[change]) != ids(tmp_path, document())

    def test_the_adapters_code_and_the_split_are_part_of_it(self, tmp_path: Path) -> None:
        (trial,) = planned(tmp_path, self.CHANGING["the split"]).trials
        assert (trial.spec.code, trial.spec.split) == (code_version("fake_adapters"), "validation")

    @pytest.mark.parametrize("change", KEEPING)
    def test_what_cannot_change_it_keeps_the_id(self, tmp_path: Path, change: str) -> None:
        assert ids(tmp_path, self.KEEPING[change]) == ids(tmp_path, document())

    def test_labels_are_only_labels(self, tmp_path: Path) -> None:
        first, second = ids(tmp_path, document(one={}, two={}))
        assert first == second

    def test_the_specification_on_disk_gives_the_same_id(self, tmp_path: Path) -> None:
        """Executor, workers, shard size and the output path are no part of it."""
        for out, shard_size in (("a", 7), ("b", 64)):
            run_suite(tmp_path, document(), out=out, shard_size=shard_size)
            (place,) = (tmp_path / out / "trials").iterdir()
            assert TrialSpec.model_validate(read_json(place / "trial.json")).id == place.name
            assert [place.name] == ids(tmp_path, document())


class TestChoice:
    def test_only_takes_a_glob_of_benchmark_and_variant(self, tmp_path: Path) -> None:
        suite = document(one={}, two={"batch_size": [1, 8]})
        names = [trial.name for trial in planned(tmp_path, suite, only="words/two*").trials]
        assert names == ["words/two[batch_size=1]", "words/two[batch_size=8]"]

    def test_only_may_name_a_variant_exactly(self, tmp_path: Path) -> None:
        suite = document(two={"batch_size": [1, 8]})
        (trial,) = planned(tmp_path, suite, only="words/two[batch_size=8]").trials
        assert trial.spec.batch_size == 8

    def test_only_that_matches_nothing_lists_what_there_is(self, tmp_path: Path) -> None:
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
    def test_fails_by_default(self, tmp_path: Path) -> None:
        with pytest.raises(UnavailableError, match="no phrases on this machine"):
            planned(tmp_path, document())

    @pytest.mark.usefixtures("_absent")
    def test_is_skipped_and_said_where_the_suite_allows_it(self, tmp_path: Path) -> None:
        suite = with_benchmark(when_unavailable="skip")
        found = planned(tmp_path, suite)
        assert found.trials == ()
        assert [(s.benchmark, s.reason) for s in found.skipped] == [("words", "no phrases on this machine")]

    @pytest.mark.usefixtures("_absent")
    def test_only_tells_what_is_skipped(self, tmp_path: Path) -> None:
        suite = with_benchmark(when_unavailable="skip")
        with pytest.raises(UsageError, match=r"matches no trial .*skipped words: no phrases on this machine"):
            planned(tmp_path, suite, only="words/*")

    @pytest.mark.usefixtures("_absent")
    def test_a_run_of_nothing_is_wrong_input_and_writes_nothing(self, tmp_path: Path) -> None:
        """A gate on it would be green for ever."""
        suite = with_benchmark(when_unavailable="skip")
        with pytest.raises(
            UsageError, match=r"nothing to run, .* skipped \(words: no phrases on this machine"
        ):
            run_suite(tmp_path, suite)
        assert not (tmp_path / "run").exists()

    @pytest.mark.usefixtures("_absent")
    def test_names_are_still_checked(self, tmp_path: Path) -> None:
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

    def test_are_listed_once_and_make_no_final_id(self, tmp_path: Path) -> None:
        found = planned(tmp_path, self.recipe(tmp_path))
        assert [reference.name for reference in found.missing_checkpoints] == ["made"]
        assert [trial.needs_training for trial in found.trials] == [True, True]

    def test_each_seed_is_a_training_and_a_variant(self, tmp_path: Path) -> None:
        suite = self.recipe(tmp_path)
        suite["adapters"]["ok"]["seed"] = [0, 1, 2]
        found = planned(tmp_path, suite)
        assert [t.variant for t in found.trials] == ["ok[seed=0]", "ok[seed=1]", "ok[seed=2]", "again"]
        assert [reference.name for reference in found.missing_checkpoints] == [
            "made",
            "made-seed-1",
            "made-seed-2",
        ]
        assert [r.recipe.seed for r in found.missing_checkpoints if r.recipe] == [0, 1, 2]
        assert len({reference.weights for reference in found.missing_checkpoints}) == 3

    def test_a_seed_needs_a_recipe(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"adapters\.ok\.seed: .* set 'checkpoint'"):
            planned(tmp_path, document(ok={"seed": 1}))
        with pytest.raises(UsageError, match="weights have a fixed seed"):
            planned(tmp_path, document(ok={"seed": 1, "checkpoint": "w.safetensors"}))

    def test_options_of_the_recipe_hold(self, tmp_path: Path) -> None:
        suite = self.recipe(tmp_path)
        assert planned(tmp_path, suite).trials[0].spec.options["delay"] == 0.25
        suite["adapters"]["ok"]["options"] = {"delay": [0.25, 0.5]}
        with pytest.raises(
            UsageError,
            match=r"adapters\.ok\.options\.delay: the checkpoint 'made\.yaml' was made with delay=0\.25",
        ):
            planned(tmp_path, suite)

    def test_an_unknown_checkpoint_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(
            UsageError, match=r"suite\.yaml:11: adapters\.ok\.checkpoint: unknown checkpoint 'x'"
        ):
            planned(tmp_path, document(ok={"checkpoint": "x"}))
