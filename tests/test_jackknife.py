"""The jackknife, checked against SciPy's t tests, plain loops and known coverage."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from harness.statistics.jackknife import (
    figure,
    leave_out_groups,
    leave_out_sums,
    leave_out_weights,
    mean_defined,
    standard_error,
    student,
)

TRIPLES = [str(index // 3) for index in range(60)]


def means(sample: NDArray[np.float64], groups: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the mean of a sample, then without each group."""
    weights = leave_out_weights(len(sample), groups)
    return np.asarray(sample @ weights / weights.sum(axis=0))


def test_few_samples_are_left_out_one_by_one() -> None:
    assert leave_out_groups(4, 9).tolist() == [0, 1, 2, 3]
    assert leave_out_weights(2, leave_out_groups(2, 9)).tolist() == [[1, 0, 1], [1, 1, 0]]
    assert leave_out_weights(2, None).tolist() == [[1], [1]]


def test_many_samples_are_left_out_in_random_groups_of_equal_size() -> None:
    groups = leave_out_groups(1003, 10)
    assert sorted(np.bincount(groups)) == [100] * 7 + [101] * 3
    assert groups.tolist() == leave_out_groups(1003, 10).tolist()
    correlation = np.corrcoef(np.arange(1003), groups)[0, 1]
    assert abs(correlation) < 0.1  # an ordered data set does not bias the groups


def test_samples_of_one_origin_are_left_out_together() -> None:
    assert leave_out_groups(5, 9, ["b", "a", "b", "c", "a"]).tolist() == [1, 0, 1, 2, 0]
    origins = [f"video {index // 4}" for index in range(80)]
    groups = leave_out_groups(80, 5, origins).reshape(20, 4)
    assert (groups == groups[:, :1]).all()
    assert sorted(np.bincount(groups[:, 0])) == [4] * 5


def test_sums_without_a_group_equal_a_plain_loop() -> None:
    counts = np.random.default_rng(0).integers(0, 2**60, (7, 3))
    groups = leave_out_groups(7, 3)
    expected = [counts.sum(axis=0), *(counts[groups != group].sum(axis=0) for group in range(3))]
    np.testing.assert_array_equal(leave_out_sums(counts, groups), expected)
    np.testing.assert_array_equal(leave_out_sums(counts, None), expected[:1])


@pytest.mark.parametrize("n", [2, 5, 40])
def test_the_interval_of_a_mean_is_that_of_the_t_test(n: int) -> None:
    sample = np.random.default_rng(n).normal(3, 2, n)
    bounds = figure(means(sample, leave_out_groups(n, 99)), n, "points", "s")
    expected = stats.ttest_1samp(sample, 0).confidence_interval()
    assert (bounds.low, bounds.high) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(("limit", "origins"), [(99, None), (12, None), (99, TRIPLES)])
def test_the_interval_covers_the_truth_in_about_95_of_100_cases(
    limit: int, origins: list[str] | None
) -> None:
    """60 observations: one by one, in 12 groups, and in 20 groups of three that share half their variance."""
    generator = np.random.default_rng(7)
    hits = 0
    for _ in range(1000):
        sample = generator.exponential(1, 60) - 1
        if origins:
            sample += np.repeat(generator.normal(0, 1, 20), 3)
        bounds = figure(means(sample, leave_out_groups(60, limit, origins)), 60, "points", "")
        assert bounds.low is not None and bounds.high is not None
        hits += bounds.low <= 0 <= bounds.high
    assert 0.92 <= hits / 1000 <= 0.97


def test_samples_of_common_origin_that_are_left_out_one_by_one_give_too_short_an_interval() -> None:
    generator = np.random.default_rng(7)
    sample = np.repeat(generator.normal(0, 1, 20), 3)
    one_by_one = standard_error(means(sample, leave_out_groups(60, 99))[1:])
    together = standard_error(means(sample, leave_out_groups(60, 99, TRIPLES))[1:])
    assert together > 1.6 * one_by_one


def test_an_interval_stays_within_the_bounds_of_the_figure() -> None:
    bounds = figure(np.array([0.9, 0.7, 1.0, 1.0]), 3, "fraction", "s", (0.0, 1.0))
    assert bounds.high == 1.0
    assert bounds.low is not None and 0 <= bounds.low < 0.9


def test_equal_samples_give_an_interval_of_no_width() -> None:
    perfect = figure(np.full(8, 1 / 3), 7, "fraction", "s")
    assert (perfect.low, perfect.high) == (1 / 3, 1 / 3)


@pytest.mark.parametrize(
    "values",
    [[0.5, 0.5], [np.nan, 0.5, 0.6], [0.5, np.nan, 0.5, 0.5]],
    ids=["one", "undefined", "sole carrier"],
)
def test_there_is_no_interval_if_any_group_alone_decides(values: list[float]) -> None:
    bounds = figure(np.array(values), len(values) - 1, "fraction", "s")
    assert (bounds.low, bounds.high) == (None, None)
    assert (bounds.value is None) == np.isnan(values[0])


def test_variances_add_up_with_the_degrees_of_freedom_of_welch() -> None:
    first, second = [0.41, 0.44, 0.40], [0.47, 0.46, 0.52, 0.5]
    estimate = student(
        float(np.mean(second) - np.mean(first)),
        [(stats.sem(side) ** 2, len(side) - 1) for side in (first, second)],
    )
    expected = stats.ttest_ind(second, first, equal_var=False)
    interval = expected.confidence_interval()
    assert (*estimate.interval(), estimate.p) == pytest.approx((interval.low, interval.high, expected.pvalue))


@pytest.mark.parametrize("bound", [-0.05, 0.0, 0.02, 0.3])
def test_one_sided_p_values_are_those_of_the_t_test_against_a_bound(bound: float) -> None:
    values = np.random.default_rng(3).normal(0.03, 0.1, 12)
    estimate = student(float(values.mean()), [(stats.sem(values) ** 2, 11)])
    above, below = (stats.ttest_1samp(values, bound, alternative=side).pvalue for side in ("greater", "less"))
    assert (estimate.p_above(bound), estimate.p_below(bound)) == pytest.approx((above, below))


def test_p_values_are_never_below_what_the_samples_support() -> None:
    estimate = student(0.5, [(1e-12, 9)], least_p=0.02)
    assert (estimate.p, estimate.p_above(0.1), estimate.p_below(0.1)) == (0.02, 0.01, 1.0)


def test_a_mean_ignores_undefined_values() -> None:
    values = np.array([[1.0, np.nan, 3.0], [np.nan, np.nan, np.nan]])
    np.testing.assert_array_equal(mean_defined(values, 1), [2.0, np.nan])


def test_figures_are_plain_floats() -> None:
    bounds = figure(np.array([0.5, 0.4, 0.6]), 10, "fraction", "s", (0.0, 1.0))
    assert {type(number) for number in (bounds.value, bounds.low, bounds.high)} == {float}
