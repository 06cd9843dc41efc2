"""Trainings of one model with several seeds are decided together, with the spread between them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats
from small_suite import document, planned, run_suite

from harness.compare.accuracy import judge_loss
from harness.compare.compare import compare
from harness.compare.outcome import Change, Comparison, TrialComparison
from harness.decisions.policy import GatePolicy
from harness.driver.pairs import _distinct_models, score_pairs
from harness.errors import UsageError
from harness.files import read_record
from harness.identity import same_weights, without_seed
from harness.rundir.collect import collect
from harness.rundir.records import PairsFile
from harness.rundir.store import RunDirectory
from harness.statistics.jackknife import JackknifedFigure, figure
from harness.statistics.paired import difference
from reports.comparison import comparison_to_markdown
from reports.page.comparison import comparison_to_html
from reports.page.html import to_html

BLANK = Change("accuracy", "score", decides=True)


def mean_of(values: np.ndarray) -> JackknifedFigure:
    n = len(values)
    replicates = (values.sum() - values) / (n - 1)
    return JackknifedFigure(figure(np.r_[values.mean(), replicates], n, "points", "s"), replicates)


def test_a_variant_without_its_seed_is_its_model() -> None:
    names = ("lstm", "lstm[seed=0]", "lstm[seed=0,beam=5]", "b/x[a=1,seed=12]", "x[reseed=1]")
    assert [without_seed(name) for name in names] == [
        "lstm",
        "lstm",
        "lstm[beam=5]",
        "b/x[a=1]",
        "x[reseed=1]",
    ]


def test_without_noise_of_samples_the_difference_is_welchs_test_of_the_trainings() -> None:
    generator = np.random.default_rng(0)
    samples = generator.normal(50, 5, 60)
    base, head = generator.normal(0, 1, 3), generator.normal(2, 3, 5)
    figures = [[mean_of(samples + offset) for offset in side] for side in (base, head)]
    paired = difference(*figures)
    expected = stats.ttest_ind(head, base, equal_var=False)
    assert paired.p == pytest.approx(expected.pvalue, rel=1e-6)
    interval = expected.confidence_interval()
    assert (paired.difference.low, paired.difference.high) == pytest.approx((interval.low, interval.high))


def test_the_same_weights_on_both_sides_are_paired() -> None:
    generator = np.random.default_rng(1)
    samples, spread = generator.normal(50, 5, 60), generator.normal(0, 10, 4)
    loss = generator.normal(-1, 0.2, 4)
    base = [mean_of(samples + offset) for offset in spread]
    head = [mean_of(samples + offset) for offset in spread + loss]
    paired = difference(base, head, same_weights=True)
    assert paired.p == pytest.approx(stats.ttest_1samp(loss, 0).pvalue, rel=1e-6)
    assert difference(base, head).p == pytest.approx(
        stats.ttest_ind(spread + loss, spread, equal_var=False).pvalue, rel=1e-6
    )
    assert same_weights(["a", "b"], ["a", "b"])
    assert not same_weights(["a", "b"], ["b", "a"]) and not same_weights([None], [None])


def test_of_equal_recipes_single_trainings_differ_too_often_and_models_rarely() -> None:
    """Samples and seeds have standard errors of the same size; both recipes are equal."""
    generator = np.random.default_rng(3)
    singles, together, repeats = 0, 0, 1000
    for _ in range(repeats):
        difficulty = generator.normal(50, 10, 100)
        sides = [
            [mean_of(difficulty + generator.normal(0, 1) + generator.normal(0, 5, 100)) for _ in range(3)]
            for _ in range(2)
        ]
        singles += judge_loss(BLANK, (sides[0][:1], sides[1][:1]), None).verdict != "inconclusive"
        together += judge_loss(BLANK, (sides[0], sides[1]), None).verdict != "inconclusive"
    assert singles > 0.2 * repeats
    assert 0.01 * repeats < together <= 0.05 * repeats


DROPS = {"plain": 2, "s0": 3, "s1": 4, "s2": 5}
"""Number of words of which one is dropped, by adapter."""


def rename(run: Path, names: dict[str, str]) -> Path:
    """Name trials of a run in results.json, and leave out the others."""
    content = json.loads((run / "results.json").read_text())
    content["trials"] = [
        entry | {"variant": names[entry["variant"]]}
        for entry in content["trials"]
        if entry["variant"] in names
    ]
    RunDirectory(run).digests.write(run / "results.json", json.dumps(content).encode())
    return run


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    return document(40, **{name: {"options": {"drop": drop}} for name, drop in DROPS.items()})


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]) -> Path:
    folder = tmp_path_factory.mktemp("trainings")
    run_suite(folder, content)
    return folder / "run"


@pytest.fixture
def runs(finished_run: Path, tmp_path: Path) -> list[Path]:
    """Return the directories of two equal runs."""
    return [Path(shutil.copytree(finished_run, tmp_path / name)) for name in ("base", "head")]


def trials_of(run: Path) -> list[dict[str, Any]]:
    return list(json.loads((run / "results.json").read_text())["trials"])


def named(comparison: Comparison) -> dict[str, TrialComparison]:
    return {trial.variant: trial for trial in comparison.trials}


TRAININGS = {f"s{seed}": f"m[seed={seed}]" for seed in range(3)}


class TestCompare:
    def test_a_model_is_one_test_and_its_trainings_are_shown(self, runs: list[Path]) -> None:
        base = rename(runs[0], {**TRAININGS, "plain": "plain"})
        after = [entry["metrics"]["bleu"]["value"] for entry in trials_of(runs[1])]
        head = rename(runs[1], {"s0": "m[seed=0]", "s1": "m[seed=1]", "plain": "m[seed=2]"})
        comparison = compare(head, base, GatePolicy.model_validate([{"trials": "*/m", "max_drop": 0}]))
        trials = named(comparison)
        assert list(trials) == ["m", "m[seed=2]", "m[seed=0]", "m[seed=1]", "plain"]
        model = trials["m"]
        assert (model.state, model.trainings) == ("compared", (3, 3))
        before = [entry["metrics"]["bleu"]["value"] for entry in trials_of(base)]
        bleu = model.changes[0]
        assert bleu.decides and bleu.difference is not None and bleu.base is not None
        assert bleu.base.value == pytest.approx(np.mean(before[1:]))
        assert bleu.difference.value == pytest.approx(np.mean(after[:3]) - np.mean(before[1:]))
        assert [change for change in comparison.decisive() if change.test] == [bleu]
        (single,) = (change for change in trials["m[seed=2]"].changes if change.name == "bleu")
        assert (single.verdict, single.decides) == ("not decided", False)
        for text in (comparison_to_markdown(comparison), comparison_to_html(comparison)):
            assert "3 + 3 trainings" in text

    @pytest.mark.parametrize(
        ("before", "after", "trainings", "missing"),
        [
            (TRAININGS, {"s0": "m[seed=0]"}, (3, 1), ["m[seed=1]", "m[seed=2]"]),
            ({"s0": "m"}, TRAININGS, (1, 3), []),
            ({"s0": "m[seed=7]"}, TRAININGS, (1, 3), []),
        ],
    )
    def test_other_seeds_may_stand_for_a_training_but_fewer_may_not(
        self,
        runs: list[Path],
        before: dict[str, str],
        after: dict[str, str],
        trainings: tuple[int, int],
        missing: list[str],
    ) -> None:
        comparison = compare(rename(runs[1], after), rename(runs[0], before), GatePolicy())
        assert named(comparison)["m"].trainings == trainings
        assert [trial.variant for trial in comparison.trials if trial.state == "missing"] == missing
        assert "other seeds may give another difference" in comparison_to_markdown(comparison)

    def test_an_incomplete_training_is_named(self, runs: list[Path]) -> None:
        base, head = (rename(run, TRAININGS) for run in runs)
        for damaged, state, reason in (
            (head, "incomplete", "m[seed=1]: poison"),
            (base, "incomparable", "m[seed=1]: partial in the baseline: poison"),
        ):
            before = (damaged / "results.json").read_bytes()
            content = json.loads(before)
            content["trials"][1].update(status="partial", reason="poison", metrics={})
            RunDirectory(damaged).digests.write(damaged / "results.json", json.dumps(content).encode())
            model = named(compare(head, base, GatePolicy()))["m"]
            assert (model.state, model.reason, model.trainings) == (state, reason, (3, 3))
            RunDirectory(damaged).digests.write(damaged / "results.json", before)

    def test_a_rule_that_names_a_seed_is_about_its_model(self, runs: list[Path]) -> None:
        base, head = (rename(run, TRAININGS) for run in runs)
        bleu = {}
        for seed in (1, 9):
            gate = GatePolicy.model_validate([{"trials": f"*/m[seed={seed}]", "floor": 1}])
            bleu[seed] = [change.name for change in named(compare(head, base, gate))["m"].changes]
        assert "bleu floor" in bleu[1] and "bleu floor" not in bleu[9]


def test_models_of_a_run_are_paired_over_all_trainings(tmp_path: Path, content: dict[str, Any]) -> None:
    results = run_suite(tmp_path, content)
    values = {trial.variant: trial.metrics["bleu"].value or 0.0 for trial in results.trials}
    plan = planned(tmp_path, content)
    trials = [replace(trial, variant=TRAININGS.get(trial.variant, trial.variant)) for trial in plan.trials]
    directory = RunDirectory(tmp_path / "run")
    score_pairs(directory, trials)
    pairs_file = read_record(directory.path / "pairs.json", PairsFile)
    assert pairs_file is not None
    pair = pairs_file.root["words"].pairs[0]
    assert (pair.metric, pair.first, pair.second, pair.trainings) == ("bleu", "plain", "m", (1, 3))
    shown = pair.difference
    assert shown.value == pytest.approx(np.mean([values[name] for name in TRAININGS]) - values["plain"])
    assert shown.low is not None and shown.high is not None
    spread = 2 * stats.t.ppf(0.975, 2) * stats.sem([values[name] for name in TRAININGS])
    assert shown.high - shown.low > 0.8 * spread

    run_file = directory.path / "run.json"
    record = json.loads(run_file.read_text())
    for entry, name in product(record["trials"], TRAININGS):
        entry["variant"] = TRAININGS[name] if entry["variant"] == name else entry["variant"]
    directory.digests.write(run_file, json.dumps(record).encode())
    collected = collect(directory.path)
    assert [(p.first, p.second, p.trainings) for p in collected.pairs if p.metric == "bleu"] == [
        ("plain", "m", (1, 3))
    ]
    assert "1 + 3 trainings; other seeds may give another difference" in to_html(collected)


def test_seeds_with_equal_predictions_count_and_models_with_equal_ones_are_dropped() -> None:
    prints = {"a0": "p", "a1": "p", "a2": "q", "b0": "p", "b1": "q", "b2": "p", "c0": "p", "d0": "p"}

    def trial_directory(trial_id: str) -> Any:
        return SimpleNamespace(predictions=SimpleNamespace(fingerprint=lambda: prints[trial_id]))

    directory: Any = SimpleNamespace(trial=trial_directory)
    trials: Any = [SimpleNamespace(id=name, variant=f"{name[0]}[seed={name[1]}]") for name in prints]
    models = _distinct_models(directory, trials)
    assert [[trial.id for trial in model] for model in models] == [["a0", "a1", "a2"], ["c0"]]


@pytest.mark.parametrize("other", [{"words": [{"first": "an id", "second": "another"}]}, [1], {"words": 1}])
def test_a_file_of_pairs_in_another_form_is_made_again(
    runs: list[Path], tmp_path: Path, content: dict[str, Any], other: Any
) -> None:
    trials, directory = planned(tmp_path, content).trials, RunDirectory(runs[0])
    path = directory.path / "pairs.json"
    before = path.read_bytes()
    directory.digests.write(path, json.dumps(other).encode())
    with pytest.raises(UsageError, match=r"pairs\.json"):
        collect(directory.path)
    score_pairs(directory, trials)
    assert path.read_bytes() == before
