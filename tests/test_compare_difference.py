"""A difference on the same samples is as clear as it should be, alone and among many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sacrebleu import corpus_bleu
from sample_results import trial
from scipy import stats

from harness.compare.accuracy import FigurePair, RunSide, find_flips, judge_loss
from harness.compare.correction import correct_verdicts
from harness.compare.outcome import Change, TrialComparison
from harness.decisions.margin import BoundTest
from harness.errors import InfrastructureError
from harness.metrics.average_precision import Voc10
from harness.metrics.bleu import Bleu
from harness.metrics.iou import Iou
from harness.metrics.metric import AnyMetric
from harness.rundir.prediction_shards import ShardProvenance
from harness.rundir.results import TrialRecord
from harness.rundir.store import TrialDirectory
from harness.statistics.holm import holm
from harness.statistics.jackknife import JackknifedFigure, figure
from harness.statistics.paired import PairedDifference, difference
from harness.task import Annotations, Detections, Figure, Translation


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
    """Expect 2.5% of 200 comparisons of equally good models to be called regressions: 5 ± 2.2."""
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
