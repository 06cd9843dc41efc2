"""The probability of being on the frontier follows from both intervals and from common errors of models."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from harness.compare.dominance import pareto, probabilities
from harness.task import Figure


def figure(value: float, half: float, unit: str = "points") -> Figure:
    return Figure(value, value - half, value + half, 300, unit, "s")


def speed(value: float, relative: float) -> Figure:
    return Figure(value, value * np.exp(-relative), value * np.exp(relative), 8, "samples/s", "s")


def test_two_points_that_differ_in_accuracy_alone() -> None:
    """b is surely faster, so a is on the frontier with the probability that its accuracy is higher."""
    accuracies = [figure(30.0, 1.0), figure(29.5, 1.0)]
    difference = Figure(-0.5, -1.0, 0.0, 300, "points", "s")
    chances = probabilities(accuracies, [speed(10, 0.001), speed(20, 0.001)], [8, 8], {(0, 1): difference})
    assert chances is not None
    expected = stats.norm.cdf(0.5 / (0.5 / stats.norm.ppf(0.975)))
    assert chances == pytest.approx([expected, 1.0], abs=0.01)


def test_errors_in_common_make_a_small_difference_sure() -> None:
    accuracies = [figure(30.0, 3.0), figure(29.5, 3.0)]
    speeds = [speed(10, 0.001), speed(20, 0.001)]
    close = {(0, 1): Figure(-0.5, -0.6, -0.4, 300, "points", "s")}
    independent = {(0, 1): figure(-0.5, 3.0 * 2**0.5)}
    sure, doubtful = (probabilities(accuracies, speeds, [8, 8], pairs) for pairs in (close, independent))
    assert sure is not None and sure[0] > 0.999
    assert doubtful is not None and 0.5 < doubtful[0] < 0.7


def test_equal_predictions_differ_in_speed_alone() -> None:
    accuracies = [figure(30.0, 1.0)] * 2
    chances = probabilities(accuracies, [speed(10, 0.1), speed(10, 0.1)], [8, 8], {})
    assert chances == pytest.approx([0.5, 0.5], abs=0.03)


def test_where_lower_is_better_the_lower_one_is_on_the_frontier() -> None:
    accuracies = [replace(figure(value, 0.1), better="lower") for value in (0.2, 3.0)]
    pairs = {(0, 1): figure(2.8, 0.1)}
    assert probabilities(accuracies, [speed(10, 0.01)] * 2, [8, 8], pairs)[0] > 0.99  # type: ignore[index]


def test_without_an_interval_nothing_is_known() -> None:
    unknown = replace(speed(10, 0.1), low=None, high=None)
    assert probabilities([figure(1, 1)], [unknown], [1], {}) is None


def test_equal_runs_are_rarely_told_as_changed() -> None:
    """The point values of five close variants rank differently in two runs; decided changes are rare."""
    generator = np.random.default_rng(0)
    accuracies = [figure(30 + 0.2 * i, 1.0) for i in range(5)]
    pairs = {(i, j): figure(0.2 * (j - i), 0.3) for i in range(5) for j in range(i + 1, 5)}
    true = np.array([100.0, 101.0, 102.0, 101.5, 100.5])
    moved = decided = 0
    for _ in range(100):
        runs = [true * np.exp(generator.normal(0, 0.02, 5)) for _ in range(2)]
        first, second = (pareto([(s, 30 + 0.2 * i) for i, s in enumerate(run)]) for run in runs)
        moved += first != second
        before, after = (
            probabilities(accuracies, [speed(s, 0.04) for s in run], [8] * 5, pairs) for run in runs
        )
        assert before is not None and after is not None
        decided += any(min(p, q) <= 0.05 and max(p, q) >= 0.95 for p, q in zip(before, after, strict=True))
    assert moved > 20
    assert decided <= 1


def test_equal_predictions_share_every_draw_and_every_difference() -> None:
    accuracies = [figure(30.0, 1.0)] * 3 + [figure(29.5, 1.0)]
    speeds = [speed(rate, 1e-6) for rate in (10, 20, 40, 80)]
    pairs = {(0, 3): Figure(-0.5, -1.0, 0.0, 300, "points", "s")}  # the first of equal ones stands for all
    chances = probabilities(accuracies, speeds, [8] * 4, pairs)
    assert chances is not None
    assert chances[:2] == [0.0, 0.0] and chances[3] == 1.0
    assert chances[2] == pytest.approx(stats.norm.cdf(stats.norm.ppf(0.975)), abs=0.01)
