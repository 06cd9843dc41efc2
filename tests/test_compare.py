"""A comparison reports regressions, nothing for equal runs, and trials that cannot be compared."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lxml import html
from markdown_it import MarkdownIt
from raw_timings import SETTINGS, offline_timings, single_stream_timings
from sacrebleu import corpus_bleu
from sample_results import ENVIRONMENT, HOSTILE, trial
from sample_results import speed as scenarios
from scipy import stats
from typer.testing import CliRunner

from harness.cli.app import app
from harness.cli.terminal import show_comparison
from harness.compare.accuracy import FigurePair, RunPair, RunSide, find_flips, judge_loss
from harness.compare.compare import compare
from harness.compare.correction import correct_verdicts
from harness.compare.cost import cost_changes
from harness.compare.frontier import FrontierChange
from harness.compare.outcome import Change, Comparison, TrialComparison, Verdict
from harness.compare.speed import slowdown, speed_changes
from harness.compare.speed_verdict import DRIFT, judge
from harness.decisions.margin import BoundTest
from harness.decisions.policy import GatePolicy
from harness.environment import Environment
from harness.errors import InfrastructureError
from harness.files import read_json, write_record
from harness.metrics.average_precision import Voc10
from harness.metrics.bleu import Bleu
from harness.metrics.iou import Iou
from harness.metrics.metric import AnyMetric
from harness.rundir.prediction_shards import ShardProvenance
from harness.rundir.results import TrialRecord
from harness.rundir.store import RunDirectory, TrialDirectory
from harness.scenarios.scenario import Scenario
from harness.statistics.holm import holm
from harness.statistics.jackknife import JackknifedFigure, figure
from harness.statistics.paired import PairedDifference, difference
from harness.task import Annotations, Detections, Figure, Translation
from harness.trial import DatasetUse
from reports.comparison import comparison_to_markdown
from reports.page.comparison import comparison_to_html
from reports.text import display

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


# The paired difference


def jackknifed(metric: AnyMetric, base: list[Any], head: list[Any]) -> dict[str, FigurePair]:
    """Return every figure of both sides."""
    before, after = metric.jackknife(base), metric.jackknife(head)
    return {name: ([before[name]], [after[name]]) for name in metric.names}


def paired(metric: AnyMetric, base: list[Any], head: list[Any]) -> dict[str, PairedDifference]:
    """Return the difference of every figure."""
    return {
        name: difference(before, after) for name, (before, after) in jackknifed(metric, base, head).items()
    }


def test_the_difference_equals_a_plain_loop_over_sentences_left_out() -> None:
    references = [
        *("the cat sat on the mat", "a dog ran far away today", "we all go home now please"),
        *("it is cold in the north", "two birds fly over the sea", "she reads a very long book"),
    ]
    base = [line.replace("the", "a", 1) for line in references]
    head = [" ".join(line.split()[:-1]) for line in references]
    metric = Bleu()
    sides = [
        [
            metric.statistics((target,), Translation(text))
            for target, text in zip(references, texts, strict=True)
        ]
        for texts in (base, head)
    ]
    change = paired(metric, *sides)["bleu"]

    def score(texts: list[str], kept: list[int]) -> float:
        return corpus_bleu([texts[i] for i in kept], [[references[i] for i in kept]]).score

    everything = list(range(6))
    value = score(head, everything) - score(base, everything)
    rests = [[i for i in everything if i != left_out] for left_out in everything]
    pseudo_values = [6 * value - 5 * (score(head, rest) - score(base, rest)) for rest in rests]
    error = stats.sem(pseudo_values)
    assert change.difference.value == pytest.approx(value)
    assert (change.difference.low, change.difference.high) == pytest.approx(
        stats.t.interval(0.95, 5, loc=value, scale=error)
    )
    assert change.p == pytest.approx(2 * stats.t.sf(abs(value) / error, 5))


def masks(generator: np.random.Generator, hit: np.ndarray) -> list[np.ndarray]:
    """Return statistics of images with 50 pixels of either class, each right with probability `hit`."""
    right = generator.binomial(50, hit[:, None], size=(len(hit), 2))
    predicted = right + (50 - right)[:, ::-1]
    zero = np.zeros_like(right)
    return list(np.stack([right, np.full_like(right, 50), predicted, zero, zero], axis=1))


def test_pairing_the_samples_makes_a_difference_clearer_than_two_intervals() -> None:
    generator = np.random.default_rng(1)
    difficulty = generator.uniform(0.3, 0.9, 80)  # of the samples, for both models
    metric = Iou(("a", "b"))
    base, head = masks(generator, difficulty), masks(generator, difficulty + 0.05)
    before, after = (metric.summarise(side).metrics["pixel_accuracy"] for side in (base, head))
    assert before.high > after.low  # the intervals overlap …
    figures = jackknifed(metric, base, head)["pixel_accuracy"]
    change = judge_loss(Change("accuracy", "pixel_accuracy"), figures, None)
    assert change.verdict == "improvement"  # … and yet the difference is clear


def test_models_of_equal_quality_are_rarely_called_worse() -> None:
    """Of 200 comparisons of equally good models 2.5% should be called regressions: 5 ± 2.2."""
    metric, generator = Iou(("a", "b")), np.random.default_rng(2)
    called = []
    for _ in range(200):
        difficulty = generator.uniform(0.4, 0.9, 40)
        base, head = (masks(generator, difficulty) for _ in range(2))
        figures = jackknifed(metric, base, head)["pixel_accuracy"]
        called.append(judge_loss(Change("accuracy", "pixel_accuracy"), figures, None).verdict)
    assert 1 <= called.count("regression") <= 10
    assert 1 <= called.count("improvement") <= 10


@pytest.mark.parametrize(
    ("task", "before", "after"),
    [
        ("translation", Translation("ja"), Translation("ja.")),
        (
            "detection",
            Detections(np.zeros((1, 4), np.float32), np.ones(1, np.float32), np.zeros(1, np.int64)),
            Detections(np.zeros((1, 4), np.float32), np.ones(1, np.float32), np.ones(1, np.int64)),
        ),
        ("segmentation", np.zeros((4, 4), np.uint8), np.eye(4, dtype=np.uint8)),
    ],
)
def test_flips_are_the_samples_whose_stored_prediction_differs(
    task: Any, before: Any, after: Any, tmp_path: Path
) -> None:
    sides = []
    for name, second in (("base", before), ("head", after)):
        directory = TrialDirectory(tmp_path / name)
        directory.predictions.write(
            task, 0, ["a", "b", "c"], [before, second, before], ShardProvenance(environment="here")
        )
        sides.append(RunSide(TrialRecord.model_validate(trial(task, "model")), directory))
    assert find_flips(*sides) == ("b",)


# Stored statistics


def test_stored_statistics_of_detections_equal_the_computed_ones(tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    metric = Voc10(["a", "b"])
    images = []
    for objects in (0, 1, 3):
        target = Annotations.of_boxes(
            generator.uniform(0, 50, (objects, 2))[:, [0, 1, 0, 1]] + [0, 0, 9, 9],
            generator.integers(0, 2, objects),
        )
        noisy = Detections(
            target.boxes.astype(np.float32), generator.random(objects).astype(np.float32), target.labels
        )
        images.append(metric.statistics(target, noisy))
    directory = TrialDirectory(tmp_path)
    directory.write_statistics("voc10", metric.pack(images))
    restored = metric.unpack(directory.read_statistics("voc10"))
    assert metric.summarise(restored) == metric.summarise(images)
    for before, after in zip(images, restored, strict=True):
        for part, array in vars(before).items():
            assert np.array_equal(array, getattr(after, part)) and array.dtype == getattr(after, part).dtype


def test_damaged_statistics_give_one_message(tmp_path: Path) -> None:
    directory = TrialDirectory(tmp_path)
    directory.write_statistics("bleu", {"rows": np.arange(1000)})
    file = directory.statistics_path("bleu")
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(InfrastructureError, match=r"bleu\.npz: damaged"):
        directory.read_statistics("bleu")


# Many comparisons


def trials_with_p_values(p_values: list[float]) -> list[TrialComparison]:
    figure = Figure(-1.0, -2.0, -0.5, 300, "points", "s")
    change = ("accuracy", "bleu", figure, figure, figure, "regression", "below 0")
    return [
        TrialComparison(
            "b",
            str(i),
            "translation",
            "compared",
            changes=(
                Change(*change, True, p, test=BoundTest(1 - p / 2, p / 2)),
                Change(*change, False, p, test=BoundTest(1 - p / 2, p / 2)),
            ),
        )
        for i, p in enumerate(p_values)
    ]


def test_a_doubtful_change_among_many_is_not_called_a_regression() -> None:
    verdicts_by_trial = [
        [change.verdict for change in trial_changes.changes]
        for trial_changes in correct_verdicts(trials_with_p_values([0.002, 0.04, 0.9]))
    ]
    assert verdicts_by_trial == [
        ["regression"] * 2,
        ["inconclusive", "regression"],
        ["inconclusive", "regression"],
    ]
    (alone,) = correct_verdicts(trials_with_p_values([0.04]))
    assert alone.changes[0].verdict == "regression"


def images(generator: np.random.Generator, count: int) -> np.ndarray:
    """Return the statistics of images for two models of equal quality: [count, 2, 5, 3 classes].

    The rarest class is in 4% of the images.
    """
    present = generator.random((count, 1, 3)) < [1, 0.5, 0.04]
    annotated = np.repeat(np.where(present, generator.integers(5, 60, (count, 1, 3)), 0), 2, axis=1)
    right = generator.binomial(annotated, generator.beta(4, 2, (count, 1, 1)))
    predicted = right + np.roll(annotated - right, 1, axis=2)
    zero = np.zeros_like(right)
    rows = np.stack([right, annotated, predicted, zero, zero], axis=2)
    return np.concatenate([rows, rows[:, ::-1]])  # both orders, so that the models are exactly equal


def test_of_a_suite_of_equal_models_5_percent_are_called_changed() -> None:
    """At most 6.5% of 1,000 suites of 12 equal models: 5% ± 0.7; a true 8% would exceed it."""
    metric, generator = Iou(("a", "b", "c")), np.random.default_rng(6)
    population = images(generator, 5000)
    called = 0
    for _ in range(1000):
        rows = population[generator.integers(0, len(population), (12, 300))]
        total = rows.sum(axis=1, keepdims=True)
        sums = np.concatenate([total, total - rows], axis=1)  # [12, 1 + 300, 2, 5, 3]
        values = metric.figures(sums.reshape(-1, 5, 3))["miou"].reshape(12, 301, 2)
        p_values = []
        for trial_values in values:
            base, head = (
                JackknifedFigure(figure(column, 300, "fraction", "s"), column[1:])
                for column in trial_values.T
            )
            p_values.append(difference([base], [head]).p or 1.0)
        called += min(holm(p_values)) <= 0.05
    assert 20 <= called <= 65


# Runs


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


# Speed


def raw(name: str, seconds: list[list[float]], **changes: Any) -> Scenario:
    """Return timings of processes, given as seconds per sample of their windows or queries."""
    if name == "offline":
        return offline_timings([[(8, 8 * s) for s in times] for times in seconds], **changes)
    return single_stream_timings(seconds, **changes)


ENVIRONMENTS = {
    "env1": Environment.model_validate(ENVIRONMENT),
    "updated": Environment.model_validate({**ENVIRONMENT, "packages": {"torch": "3.0.0"}}),
    "other": Environment.model_validate({**ENVIRONMENT, "cpu": "Another"}),
}


def timed(
    folder: Path, factor: float, profile: str = "ci", head: dict[str, Any] | None = None
) -> list[Change]:
    """Return the changes for a head that takes `factor` times as long; `head` updates its record."""
    noise = np.random.default_rng(3).normal(1, 0.002, (2, 6, 4))
    sides = []
    for number, (name, scale) in enumerate((("base", 1.0), ("head", factor))):
        directory = TrialDirectory(folder / name)
        for scenario in ("offline", "single-stream"):
            times = (0.01 * scale * noise[number]).tolist()
            write_record(directory.path / "speed" / f"{scenario}.json", raw(scenario, times))
        record = trial("detection", "model", speed=scenarios(100 / scale))
        for scenario in record["speed"].values():
            scenario.update({"profile": profile, **((head or {}) if name == "head" else {})})
        sides.append(RunSide(TrialRecord.model_validate(record), directory))
    return list(speed_changes(RunPair(*sides), ENVIRONMENTS, ENVIRONMENTS, GatePolicy()))


@pytest.mark.parametrize("name", ["offline", "single-stream"])
def test_a_slowdown_is_the_ratio_of_low_quantiles_and_shrugs_at_a_process_that_is_slow_for_life(
    name: str,
) -> None:
    """Two of 22 repetitions take longer because of other work; the low quantile ignores them."""
    processes = [1.0, 1.01, 1.02, 1.03, 1.04, 1.9]
    base = raw(name, [[scale] * 20 + [9.0] * 2 for scale in processes])
    head = raw(name, [[1.2 * scale] * 22 for scale in processes])
    difference = slowdown(base.seconds_by_process(), head.seconds_by_process())
    assert difference.value == pytest.approx(0.2)
    assert difference.low is not None and difference.high is not None
    assert 0.15 < difference.low < 0.2 < difference.high < 0.25
    assert (difference.n, difference.unit) == (12, "of the time per sample")


@pytest.mark.parametrize(
    ("low", "high", "expected", "detectable"),
    [
        (0.026, 0.046, "regression", 0.0415),
        (0.026, 0.4, "regression", 0.33355),
        (0.024, 0.09, "inconclusive", 0.07945),
        (0.02, 0.049, "pass", 0.048925),
        (-0.03, 0.03, "inconclusive", 0.0745),
        (-0.5, -0.4, "pass", 0.1075),
        (None, None, "inconclusive", None),
    ],
)
def test_a_slowdown_passes_only_if_five_percent_would_have_been_seen(
    low: float | None, high: float | None, expected: Verdict, detectable: float | None
) -> None:
    """Detectable is 2.5% and 1.65 half widths of the interval; at −3% to 3%, a slowdown of 5% is not."""
    judgement = judge(Figure(0.0, low, high, 12, "", ""))
    assert judgement.verdict == expected
    assert judgement.detectable == (None if detectable is None else pytest.approx(detectable))


@pytest.mark.parametrize(("factor", "expected"), [(1.0, "pass"), (1.1, "regression"), (0.8, "pass")])
def test_stored_measurements_decide(factor: float, expected: Verdict, tmp_path: Path) -> None:
    changes = timed(tmp_path, factor)
    assert [change.name for change in changes] == ["offline throughput", "single-stream latency p50"]
    for change in changes:
        assert (change.verdict, change.decides) == (expected, True)
        assert change.difference is not None
        assert change.difference.value == pytest.approx(factor - 1, abs=0.01)


@pytest.mark.parametrize(("factor", "least", "most"), [(1.0, 0.0, 0.01), (1.1, 0.97, 1.0)])
def test_without_drift_equal_speeds_pass_and_ten_percent_is_caught(
    factor: float, least: float, most: float
) -> None:
    """Compare six processes per side that differ by 2%, 200 times."""
    generator = np.random.default_rng(4)
    called = []
    for _ in range(200):
        base, head = generator.normal(1, 0.02, (2, 6)) * [[1.0], [factor]]
        called.append(judge(slowdown(base.tolist(), head.tolist())).verdict)
    assert least <= called.count("regression") / 200 <= most


def test_smoke_never_decides(tmp_path: Path) -> None:
    assert {(change.verdict, change.decides) for change in timed(tmp_path, 2.0, "smoke")} == {
        ("not decided", False)
    }


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"batch_size": 4}, "batch size differs: "),
        ({"threads": 2}, "threads differs: 1 → 2"),
        ({"profile": "release"}, "profile differs: ci → release"),
        ({"environment": "other"}, "cpu differs: Example CPU 3000 → Another"),
        ({"environment": "gone"}, "not described"),
        ({"valid": False, "reasons": ["disturbed"]}, "the run's measurement is not valid: disturbed"),
    ],
)
def test_timings_under_other_conditions_are_incomparable(
    change: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    for compared in timed(tmp_path, 1.1, head=change):
        assert compared.verdict == "incomparable"
        assert reason in compared.reason


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ({"settings": SETTINGS.model_copy(update={"device": "cuda"})}, "device differs: cpu → cuda"),
        ({"samples": ["a", "c"]}, "different samples were timed"),
        (None, "the raw measurements are not in the run directory"),
    ],
)
def test_timings_of_other_work_are_incomparable(
    part: dict[str, Any] | None, reason: str, tmp_path: Path
) -> None:
    record = trial("detection", "model", speed={"offline": scenarios(100)["offline"]})
    times = [[0.01, 0.01]] * 2
    sides = []
    for name, changes in (("base", {}), ("head", part)):
        directory = TrialDirectory(tmp_path / name)
        if changes is not None:
            write_record(directory.path / "speed" / "offline.json", raw("offline", times, **changes))
        sides.append(RunSide(TrialRecord.model_validate(record), directory))
    (change,) = speed_changes(RunPair(*sides), ENVIRONMENTS, ENVIRONMENTS, GatePolicy())
    assert (change.verdict, change.reason) == ("incomparable", reason)


def test_a_scenario_that_is_no_longer_measured_is_incomparable(baseline: Path, head: Path) -> None:
    old = json.loads((baseline / "results.json").read_text())
    old["trials"][0]["speed"] = {"offline": scenarios(100)["offline"]}
    write_results(head, old)
    outcome = compare(baseline, head)
    change = outcome.trials[0].changes[-1]
    assert (change.reason, change.base is None, change.head) == ("not measured in the run", False, None)
    assert outcome.exit_code(strict=True) == 4


def test_speed_is_always_shown_with_the_caveat_about_drift(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = tuple(timed(tmp_path, 1.1))
    compared = TrialComparison("b", "v", "detection", "compared", samples=1, flipped=0, changes=changes)
    slower = Comparison("tiny", "run-1", None, "run-0", None, (compared,), ())
    show_comparison(slower)
    shown = capsys.readouterr().out
    assert DRIFT in shown
    assert re.search(r"\t\+(9|10)\.\d% \[\+[\d.]+%, \+[\d.]+%\] time\t", shown)
    assert DRIFT in comparison_to_markdown(slower)
    assert DRIFT not in comparison_to_markdown(comparison(1))


def test_speed_is_compared_across_an_update_of_a_library(tmp_path: Path) -> None:
    changes = timed(tmp_path, 1.1, head={"environment": "updated"})
    assert {change.verdict for change in changes} == {"regression"}


def test_updated_libraries_are_listed(baseline: Path, head: Path) -> None:
    document = json.loads((head / "results.json").read_text())
    machine = document["environments"][document["run"]["environment"]]
    before = machine["packages"]["numpy"]
    machine["packages"]["numpy"] = "9.9"
    write_results(head, document)
    assert compare(head, baseline).software == (f"numpy {before} → 9.9",)


# Markdown


def comparison(trials: int, verdict: Verdict = "regression") -> Comparison:
    figure = Figure(0.5, 0.4, 0.6, 300, "fraction", "v1")
    change = Change("accuracy", "ap", figure, figure, figure, verdict, HOSTILE, True)
    compared = tuple(
        TrialComparison(
            f"b{i}", HOSTILE, "detection", "compared", "", 300, 2, (HOSTILE, "x"), (change, change)
        )
        for i in range(trials)
    )
    return Comparison("tiny", "run-1", "a" * 40, "run-0", None, compared, ("torch 2.6.0 → 2.7.0",))


def cells(text: str) -> list[list[str]]:
    """Return the cells of every table row, as a GFM parser reads it."""
    rows: list[list[str]] = []
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(text)
    for before, token in pairwise(tokens):
        if token.type == "tr_open":
            rows.append([])
        if before.type in ("th_open", "td_open"):
            rows[-1].append(token.content)
    return rows


def test_hostile_names_stay_in_their_cells() -> None:
    text = comparison_to_markdown(comparison(2))
    rows = cells(text)
    assert len(rows) == 2 * (1 + 2)  # the worst change of each of two trials, and the folded others
    assert {len(row) for row in rows} == {7}
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(text)
    html = {token.content.strip() for token in tokens if token.type == "html_block"}
    folded = ("Other figures (2)", "Samples with another prediction (2)")
    assert html == {*(f"<details><summary>{title}</summary>" for title in folded), "</details>"}


def test_the_page_is_complete_escaped_and_self_contained() -> None:
    frontier = (
        FrontierChange("b0", "ap", "cpu", ("x",), joined=(HOSTILE,), left=("old",)),
        FrontierChange("b1", "ap", "cpu", ("x",)),
        FrontierChange("b2", "ap", "cpu", reason="the run has no such metric"),
    )
    shown = comparison_to_html(replace(comparison(2), frontier=frontier))
    parsed = html.fromstring(shown)
    text = " ".join(parsed.text_content().split())
    assert parsed.xpath("//script | //img | //link | //*[@src] | //*[@onclick]") == []
    assert parsed.xpath("//meta[@http-equiv]/@content") == ["default-src 'none'; style-src 'unsafe-inline'"]
    assert "regression; accuracy: 4 regression" in text
    assert len(parsed.xpath("//section[@id='changed']//tbody/tr")) == 4
    assert "0.50 [0.40, 0.60] → 0.50 [0.40, 0.60]" in text
    assert display(HOSTILE).strip() in text
    assert "2 of 300" in text
    for expected in (
        "joined, old left",
        "frontier unchanged (x)",
        "cannot be compared: the run has no such metric",
    ):
        assert expected in text


def test_the_page_folds_unchanged_figures() -> None:
    parsed = html.fromstring(comparison_to_html(comparison(3, "unchanged")))
    assert parsed.xpath("//section[@id='changed']//tr") == []
    (folded,) = parsed.xpath("//details[not(@open)][starts-with(summary, 'Other figures')]")
    assert len(folded.xpath(".//tbody/tr")) == 6


@pytest.mark.parametrize(
    ("figure_kind", "base", "difference", "expected"),
    [
        ("accuracy", 30.0, -1.5, "−5.0%"),
        ("accuracy", 0.5, 0.01, "+2.0%"),
        ("accuracy", 0.0, 0.1, ""),
        ("accuracy", None, 0.1, ""),
        ("speed", 120.0, 0.034, "+3.4% time"),
    ],
)
def test_a_relative_difference_is_relative_to_the_baseline(
    figure_kind: Any, base: float | None, difference: float, expected: str
) -> None:
    before, change_figure = (Figure(value, None, None, 9, "u", "s") for value in (base, difference))
    change = Change(figure_kind, "x", before, before, change_figure, "regression", "", True)
    assert change.relative_text() == expected


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


def test_unchanged_figures_are_folded() -> None:
    text = comparison_to_markdown(comparison(3, "unchanged"))
    assert text.startswith("✅ **tiny**: pass; accuracy: 6 unchanged\n")
    assert text.index("<summary>Other figures (6)</summary>") < text.index("| Trial |")


def test_a_broken_model_is_one_line_and_its_other_figures_are_folded() -> None:
    figure = Figure(0.5, 0.4, 0.6, 300, "fraction", "v1")
    change = partial(Change, "accuracy", base=figure, head=figure, difference=figure)
    worse = change("bleu", verdict="regression", decides=True)
    others = tuple(change(f"figure-{n}", verdict="regression") for n in range(11))
    same = change("chrf", verdict="unchanged", decides=True)
    trials = tuple(
        TrialComparison("b", name, "translation", "compared", samples=9, flipped=0, changes=changes)
        for name, changes in (("broken", (*others, worse)), ("fine", (same,)))
    )
    text = comparison_to_markdown(Comparison("tiny", "run-1", None, "run-0", None, trials, ()))
    shown, _, folded = text.partition("<details><summary>Other figures (12)</summary>")
    assert [row[:2] for row in cells(shown)[1:]] == [["b/broken", "bleu"]]
    assert cells(shown)[1][-1].endswith("; 11 more changed, see below")
    assert [row[1] for row in cells(folded)[1:]] == [*(f"figure-{n}" for n in range(11)), "chrf"]


def test_a_large_comparison_fits_a_comment_and_names_what_was_omitted() -> None:
    text = comparison_to_markdown(comparison(2_000))
    assert len(text.encode()) <= 60_000
    assert "more rows are in `harness compare --json`" in text


# Floors and costs of the gate


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


def cost_verdicts(name: str, before: dict[str, Any], after: dict[str, Any], growth: float) -> list[str]:
    sides = []
    for changes in (before, after):
        record = trial("detection", "model", speed=scenarios(100))
        record["cost"] |= changes.get("cost", {})
        for key in ("energy", "valid", "reasons"):
            if key in changes:
                record["speed"]["offline"][key] = changes[key]
        sides.append(RunSide(TrialRecord.model_validate(record), TrialDirectory(Path("nowhere"))))
    gate = GatePolicy.model_validate([{"cost": name, "max_growth": growth}])
    changes = cost_changes(RunPair(*sides), ENVIRONMENTS, ENVIRONMENTS, gate)
    return [f"{change.verdict}: {change.reason}" for change in changes if change.decides]


def joules(value: float, half: float | None) -> dict[str, Any]:
    low, high = (None, None) if half is None else (value - half, value + half)
    return {"energy": vars(Figure(value, low, high, 3, "J", "energy"))}


@pytest.mark.parametrize(
    ("name", "before", "after", "growth", "verdict"),
    [
        ("memory", {}, {}, 0.0, "pass: within max_growth 0"),
        ("memory", {}, {"cost": {"peak_memory_bytes": 50_000_000}}, 0.05, "pass: within max_growth 0.05"),
        (
            "memory",
            {},
            {"cost": {"peak_memory_bytes": 51_000_000}},
            0.05,
            "regression: more than max_growth 0.05",
        ),
        ("memory", {}, {"cost": {"peak_memory_bytes": None}}, 0.05, "incomparable: not measured in the run"),
        (
            "memory",
            {},
            {"valid": False, "reasons": ["load"]},
            0.05,
            "incomparable: the run's measurement is not valid: load",
        ),
        ("energy", joules(2, 0.1), joules(2.05, 0.1), 0.2, "pass: within max_growth 0.2"),
        ("energy", joules(2, 0.1), joules(2.6, 0.05), 0.2, "regression: more than max_growth 0.2"),
        (
            "energy",
            joules(2, 0.1),
            joules(2.5, 0.1),
            0.2,
            "inconclusive: the intervals contain the limit (max_growth 0.2)",
        ),
        (
            "energy",
            joules(2, None),
            joules(2, 0.1),
            0.2,
            "inconclusive: it has no interval: too few processes",
        ),
        ("energy", {}, joules(2, 0.1), 0.2, "incomparable: not measured in the baseline"),
    ],
)
def test_memory_and_energy_are_held_against_their_growth(
    name: str, before: dict[str, Any], after: dict[str, Any], growth: float, verdict: str
) -> None:
    assert cost_verdicts(name, before, after, growth) == [verdict]


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
