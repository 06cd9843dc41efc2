"""A comparison reports regressions, nothing for equal runs, and trials that cannot be compared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sample_results import speed as scenarios
from typer.testing import CliRunner

from harness.cli.app import app
from harness.compare import accuracy
from harness.compare.compare import compare
from harness.compare.outcome import Comparison, Verdict
from harness.decisions.policy import GatePolicy
from harness.errors import InfrastructureError
from harness.files import read_json
from harness.metrics.metric import StoredArrays
from harness.rundir.prediction_shards import ShardProvenance
from harness.rundir.store import RunDirectory, TrialDirectory
from harness.task import Figure, Translation
from harness.trial import DatasetUse
from reports.page.comparison import comparison_to_html

SUITE = """
name: tiny
datasets:
  short: {dataset: phrases, options: {max_tokens: 8, size: 32}}
adapters:
  fake: {adapter: fake-translation, batch_size: 8}
  other: {adapter: fake-translation, batch_size: 4}
benchmarks:
  phrases: {dataset: short, adapters: [fake, other], metrics: [bleu, chrf]}
"""
RUNNER = CliRunner()


def harness(*arguments: object) -> tuple[int, str]:
    """Run a command; return its exit code and standard output."""
    result = RUNNER.invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout


def run(folder: Path, out: Path, *more: str) -> int:
    suite = folder / "tiny.yaml"
    suite.write_text(SUITE)
    return harness("run", suite, "--executor", "inline", "--no-sync", "--out", out, *more)[0]


Translate = Callable[[int, list[str]], list[str]]
"""(index, words of the reference) → words of the hypothesis."""


def answer(folder: Path, out: Path, translate: Translate) -> None:
    """Replace the first trial's predictions and score it again."""
    entry = read_json(out / "run.json")["trials"][0]
    directory = TrialDirectory(out / "trials" / entry["id"])
    data = entry["dataset"]
    dataset = DatasetUse(data["name"], data["options"], data["split"], "translation").open()
    samples = [dataset[index] for index in range(data["size"])]
    shutil.rmtree(directory.predictions.folder)
    texts = [
        Translation(" ".join(translate(i, sample.target[0].split()))) for i, sample in enumerate(samples)
    ]
    directory.predictions.write(
        "translation", 0, [sample.id for sample in samples], texts, ShardProvenance(environment="here")
    )
    (directory.path / "metrics.json").unlink()
    assert run(folder, out) == 0


def good(index: int, words: list[str]) -> list[str]:
    return words[: -1 - index % 2] or words


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    assert run(folder, folder / "base") == 0
    answer(folder, folder / "base", good)
    return folder / "base"


@pytest.fixture
def head(baseline: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(baseline, tmp_path / "head"))


def edit(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    edit_whole(run, lambda document: change(document["trials"][0]))


def edit_whole(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads((run / "results.json").read_text())
    change(document)
    write_results(run, document)


def write_results(run: Path, document: dict[str, Any]) -> None:
    RunDirectory(run).digests.write(run / "results.json", json.dumps(document).encode())


def verdicts(comparison: Comparison) -> dict[str, Verdict]:
    """Of the first trial."""
    return {change.name: change.verdict for change in comparison.trials[0].changes}


def test_identical_runs_are_unchanged(baseline: Path, head: Path) -> None:
    assert harness("compare", head, "--baseline", baseline, "--strict")[0] == 0
    comparison = compare(head, baseline)
    assert comparison.outcome == "pass"
    assert {change.verdict for compared in comparison.trials for change in compared.changes} == {"unchanged"}
    assert [compared.flipped for compared in comparison.trials] == [0, 0]


def test_a_crippled_model_is_a_regression(baseline: Path, head: Path, tmp_path: Path) -> None:
    answer(tmp_path, head, lambda index, words: words[::2])
    code, text = harness("compare", head, "--baseline", baseline)
    assert code == 1
    assert text.startswith("regression; accuracy: 1 regression, 1 unchanged\n")
    comparison = compare(head, baseline)
    crippled, untouched = comparison.trials
    assert verdicts(comparison) == {"bleu": "regression", "chrf": "regression"}
    assert [change.decides for change in crippled.changes] == [True, False]
    assert (crippled.flipped, len(crippled.flipped_ids), untouched.flipped) == (32, 10, 0)
    assert (head / "report" / "compare.md").read_text().startswith("❌ **tiny**: regression;")


def test_the_figures_compared_are_those_of_the_two_runs(baseline: Path, head: Path, tmp_path: Path) -> None:
    answer(tmp_path, head, lambda index, words: words[::2])
    change = compare(head, baseline).trials[0].changes[0]
    for compared, out in ((change.base, baseline), (change.head, head)):
        stored = json.loads((out / "results.json").read_text())["trials"][0]["metrics"]["bleu"]
        assert compared == Figure(**stored)


def test_a_better_model_is_an_improvement_and_passes(baseline: Path, head: Path, tmp_path: Path) -> None:
    answer(tmp_path, head, lambda index, words: words)
    assert verdicts(compare(head, baseline))["bleu"] == "improvement"
    assert harness("compare", head, "--baseline", baseline, "--strict")[0] == 0


def test_a_single_flip_is_inconclusive_and_fails_only_if_strict(
    baseline: Path, head: Path, tmp_path: Path
) -> None:
    answer(tmp_path, head, lambda index, words: ["nein"] if index == 7 else good(index, words))
    comparison = compare(head, baseline)
    assert verdicts(comparison)["bleu"] == "inconclusive"
    assert comparison.trials[0].flipped_ids == ("test-0000007",)
    assert harness("compare", head, "--baseline", baseline)[0] == 0
    assert harness("compare", head, "--baseline", baseline, "--strict")[0] == 4


def test_an_incomplete_trial_is_never_compared(baseline: Path, head: Path) -> None:
    edit(head, lambda entry: entry.update(status="partial", reason="poison", metrics={}))
    comparison = compare(head, baseline)
    assert (comparison.trials[0].state, comparison.trials[0].reason) == ("incomplete", "poison")
    assert harness("compare", head, "--baseline", baseline)[0] == 3
    assert compare(baseline, head).trials[0].state == "incomparable"
    assert harness("compare", baseline, "--baseline", head, "--strict")[0] == 4


def test_a_regression_takes_precedence_over_an_incomplete_trial(
    baseline: Path, head: Path, tmp_path: Path
) -> None:
    answer(tmp_path, head, lambda index, words: words[::2])
    document = json.loads((head / "results.json").read_text())
    document["trials"][1].update(status="failed", metrics={})
    write_results(head, document)
    assert harness("compare", head, "--baseline", baseline)[0] == 1


@pytest.mark.parametrize(("field", "value"), [("fingerprint", "f00d"), ("size", 31), ("split", "validation")])
def test_trials_on_other_samples_are_incomparable(
    field: str, value: object, baseline: Path, head: Path
) -> None:
    edit(head, lambda entry: entry["dataset"].update({field: value}))
    compared = compare(head, baseline).trials[0]
    assert compared.state == "incomparable"
    assert compared.reason.startswith(f"data set {field} differs: ")


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [("signature", "tok:none", "metric signature differs"), ("n", 5, "n differs")],
)
def test_figures_with_another_signature_or_n_are_incomparable(
    field: str, value: object, reason: str, baseline: Path, head: Path
) -> None:
    edit(head, lambda entry: entry["metrics"]["bleu"].update({field: value}))
    bleu, chrf = compare(head, baseline).trials[0].changes
    assert (bleu.verdict, chrf.verdict) == ("incomparable", "unchanged")
    assert reason in bleu.reason and str(value) in bleu.reason
    assert harness("compare", head, "--baseline", baseline, "--strict")[0] == 4


def test_a_change_of_a_metrics_code_under_the_same_signature_is_detected(baseline: Path, head: Path) -> None:
    edit(head, lambda entry: entry["metrics"]["bleu"].update(value=99.0))
    change = compare(head, baseline).trials[0].changes[0]
    assert (change.verdict, change.difference) == ("incomparable", None)


def test_a_headline_that_the_run_no_longer_scores_is_incomparable(baseline: Path, head: Path) -> None:
    edit(head, lambda entry: entry["metrics"].pop("bleu"))
    changes = {change.name: change for change in compare(head, baseline).trials[0].changes}
    assert (changes["bleu"].verdict, changes["bleu"].decides) == ("incomparable", True)
    assert harness("compare", head, "--baseline", baseline, "--strict")[0] == 4


def test_a_comparison_does_not_open_the_data_set(
    baseline: Path, head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A baseline from another machine can be compared without its data."""
    answer(tmp_path, head, lambda index, words: words[::2])
    monkeypatch.setattr(DatasetUse, "open", lambda self: pytest.fail("the data set was opened"))
    assert verdicts(compare(head, baseline))["bleu"] == "regression"


def test_figures_that_do_not_follow_from_the_stored_statistics_are_incomparable(
    baseline: Path, head: Path, tmp_path: Path
) -> None:
    answer(tmp_path, head, lambda index, words: words[::2])
    edit(head, lambda entry: entry["metrics"]["bleu"].update(value=99.0))
    change = compare(head, baseline).trials[0].changes[0]
    assert (change.verdict, change.difference) == ("incomparable", None)


def test_a_figure_that_only_one_version_of_a_metric_has_is_incomparable_and_the_others_are_compared(
    baseline: Path, head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(tmp_path, head, lambda index, words: words[::2])
    known, renamed = accuracy.restore, iter(("old_bleu", "bleu"))

    def restore(name: str, arrays: StoredArrays) -> Any:
        figures = known(name, arrays).figures()
        named = {next(renamed) if key == "bleu" else key: figure for key, figure in figures.items()}
        return SimpleNamespace(figures=lambda _: named)

    monkeypatch.setattr(accuracy, "restore", restore)
    bleu, chrf = compare(head, baseline).trials[0].changes
    assert (bleu.verdict, chrf.verdict) == ("incomparable", "regression")
    assert bleu.reason.endswith("the statistics of one of the runs do not have bleu")


def delete_a_shard(run: Path) -> None:
    """Delete a shard of the first trial as a run does, which results.json still calls complete."""
    first = RunDirectory(run).trial(read_json(run / "run.json")["trials"][0]["id"])
    first.digests.remove(next(first.predictions.folder.iterdir()))


def test_a_run_without_a_shard_is_incomplete_despite_its_results(baseline: Path, head: Path) -> None:
    delete_a_shard(head)
    compared = compare(head, baseline).trials[0]
    assert compared.state == "incomplete"
    assert compared.reason.startswith("incomplete run directory: 32 of 32 predictions are not in ")
    assert harness("compare", head, "--baseline", baseline)[0] == 3


def test_a_baseline_without_a_shard_is_incomparable(baseline: Path, head: Path) -> None:
    delete_a_shard(head)
    damaged, other = compare(baseline, head).trials
    assert (damaged.state, other.state) == ("incomparable", "compared")
    assert "baseline: incomplete run directory" in damaged.reason
    assert harness("compare", baseline, "--baseline", head, "--strict")[0] == 4


def test_missing_statistics_are_detected_and_recreated_by_a_run(
    baseline: Path, head: Path, tmp_path: Path
) -> None:
    answer(tmp_path, head, lambda index, words: words[::2])
    first = read_json(head / "run.json")["trials"][0]["id"]
    trial_dir = RunDirectory(head).trial(first)
    for path in (trial_dir.path / "statistics").iterdir():
        trial_dir.digests.remove(path)
    change = compare(head, baseline).trials[0].changes[0]
    assert change.verdict == "incomparable"
    assert "incomplete run directory" in change.reason
    assert run(tmp_path, head) == 0
    assert verdicts(compare(head, baseline))["bleu"] == "regression"


def test_a_file_that_was_changed_by_hand_is_not_compared(baseline: Path, head: Path) -> None:
    path = next(head.glob("trials/*/predictions/*.parquet"))
    content = path.read_bytes()
    path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    for left, right in ((head, baseline), (baseline, head)):
        with pytest.raises(InfrastructureError, match=f"{path} changed since it was written; the same `harn"):
            compare(left, right)
    assert harness("compare", head, "--baseline", baseline)[0] == 3


def test_trials_that_only_one_run_has_are_listed(baseline: Path, head: Path) -> None:
    edit(head, lambda entry: entry.update(variant="renamed"))
    comparison = compare(head, baseline)
    assert [(compared.name, compared.state) for compared in comparison.trials] == [
        ("phrases/renamed", "new"),
        ("phrases/other", "compared"),
        ("phrases/fake", "missing"),
    ]
    assert [comparison.exit_code(strict) for strict in (False, True)] == [0, 4]
    assert compare(baseline, head).trials[0].state == "new"


def test_wrong_input_gives_exit_code_2(baseline: Path, head: Path, tmp_path: Path) -> None:
    document = json.loads((head / "results.json").read_text())
    write_results(head, {**document, "trials": []})
    for other in (tmp_path / "nowhere", baseline / "results.json", head, tmp_path):
        assert harness("compare", baseline, "--baseline", other)[0] == 2


def test_json_contains_the_outcome_and_every_change(baseline: Path, head: Path, tmp_path: Path) -> None:
    answer(tmp_path, head, lambda index, words: words[::2])
    document = json.loads(harness("compare", head, "--baseline", baseline, "--json")[1])
    change = document["trials"][0]["changes"][0]
    assert (document["outcome"], change["name"], change["verdict"]) == ("regression", "bleu", "regression")
    assert change["difference"]["high"] < 0


def test_a_scenario_that_is_no_longer_measured_is_incomparable(baseline: Path, head: Path) -> None:
    old = json.loads((baseline / "results.json").read_text())
    old["trials"][0]["speed"] = {"offline": scenarios(100)["offline"]}
    write_results(head, old)
    outcome = compare(baseline, head)
    change = outcome.trials[0].changes[-1]
    assert (change.reason, change.base is None, change.head) == ("not measured in the run", False, None)
    assert outcome.exit_code(strict=True) == 4


def test_updated_libraries_are_listed(baseline: Path, head: Path) -> None:
    document = json.loads((head / "results.json").read_text())
    machine = document["environments"][document["run"]["environment"]]
    before = machine["packages"]["numpy"]
    machine["packages"]["numpy"] = "9.9"
    write_results(head, document)
    assert compare(head, baseline).software == (f"numpy {before} → 9.9",)


def test_a_changed_frontier_is_in_the_comment_the_terminal_and_the_data(baseline: Path, head: Path) -> None:
    def timed_at(*speeds: float) -> Callable[[dict[str, Any]], None]:
        def change(document: dict[str, Any]) -> None:
            for entry, bleu, speed in zip(document["trials"], (40.0, 30.0), speeds, strict=True):
                entry["metrics"]["bleu"]["value"] = bleu
                entry["speed"] = {"offline": scenarios(speed)["offline"]}

        return change

    base = Path(shutil.copytree(baseline, head.parent / "base"))
    edit_whole(base, timed_at(50, 100))
    edit_whole(head, timed_at(50, 10))
    changes = compare(head, base).frontier
    assert [(frontier.frontier, frontier.joined, frontier.left) for frontier in changes] == [
        (("fake",), (), ("other",))
    ]
    text = harness("compare", head, "--baseline", base)[1]
    description = changes[0].describe()
    assert description in text
    assert description in (head / "report" / "compare.md").read_text()
    assert read_json(head / "report" / "compare.json")["frontier"][0]["left"] == list(changes[0].left)


@pytest.mark.parametrize(("floor", "outcome"), [(99.0, "regression"), (0.01, "pass")])
def test_a_trial_that_the_baseline_lacks_is_held_against_its_floor(
    baseline: Path, head: Path, floor: float, outcome: str
) -> None:
    edit_whole(head, lambda document: document["trials"].pop())
    gate = GatePolicy.model_validate([{"trials": "*/other", "metric": "bleu", "floor": floor}])
    comparison = compare(baseline, head, gate)
    new = comparison.trials[1]
    assert (new.state, comparison.outcome) == ("new", outcome)
    (change,) = new.changes
    assert (change.name, change.decides, change.limit) == ("bleu floor", True, f"floor {floor:g}")
    assert "bleu floor" in comparison_to_html(comparison)
    assert compare(baseline, head, GatePolicy()).trials[1].changes == ()


def test_a_rule_may_be_about_a_part_of_the_samples(baseline: Path, head: Path, tmp_path: Path) -> None:
    """Long sentences become worse, short ones better, and the whole does not matter to the rules."""

    def worse_if_long(index: int, words: list[str]) -> list[str]:
        return ["x"] * len(words) if len(words) >= 5 else words

    answer(tmp_path, head, worse_if_long)
    name = "phrases/fake"
    rules: list[dict[str, Any]] = [
        {"trials": name, "metric": "chrf", "where": where, "max_drop": 1, "tier": tier}
        for where, tier in (
            ("source words >= 6", "blocking"),
            ("source words <= 4", "advisory"),
            ("domain = law", "advisory"),
        )
    ]
    comparison = compare(head, baseline, GatePolicy.model_validate(rules))
    changes = {change.name: change for change in comparison.trials[0].changes}
    long, short = changes["chrf where source words >= 6"], changes["chrf where source words <= 4"]
    assert (long.verdict, long.decides, long.limit) == ("regression", True, "max_drop 1")
    assert (short.verdict, short.decides) == ("pass", False)
    assert long.head and short.head and changes["chrf"].head
    assert long.head.n + short.head.n < changes["chrf"].head.n == 32
    reason = "the samples have no column 'domain' (known: source words, rarest source word)"
    assert changes["chrf where domain = law"].reason == reason
