"""Paired differences, checked against SciPy's t tests and the sign-flip test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from harness.statistics.jackknife import JackknifedFigure, figure, leave_out_groups, leave_out_weights
from harness.statistics.paired import difference, mean


def mean_of(sample: Sequence[float] | NDArray[np.float64]) -> JackknifedFigure:
    """Return the mean of a sample as a figure."""
    n = len(sample)
    weights = leave_out_weights(n, leave_out_groups(n, 999))
    values = np.asarray(sample) @ weights / weights.sum(axis=0)
    return JackknifedFigure(figure(values, n, "points", "s"), values[1:])


def exact(value: float) -> JackknifedFigure:
    """Return a figure that does not depend on the samples: only the seeds vary."""
    return JackknifedFigure(figure(np.full(51, value), 50, "points", "s"), np.full(50, value))


@pytest.mark.parametrize(("n", "shift"), [(6, 0.3), (30, 0.3), (300, 0.3), (300, 3)])
def test_the_difference_of_means_is_the_paired_t_test(n: int, shift: float) -> None:
    generator = np.random.default_rng(n)
    base = generator.normal(0, 3, n)
    head = base + generator.normal(shift, 1, n)
    paired = difference([mean_of(base)], [mean_of(head)])
    expected = stats.ttest_rel(head, base)
    interval = expected.confidence_interval()
    assert (paired.difference.low, paired.difference.high, paired.p) == pytest.approx(
        (interval.low, interval.high, expected.pvalue), abs=1e-12
    )


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=2, max_size=12))
@settings(max_examples=200, deadline=None)
def test_interval_and_p_never_disagree(pairs: list[tuple[float, float]]) -> None:
    base, head = np.array(pairs).T
    paired = difference([mean_of(base)], [mean_of(head)])
    low, high = paired.difference.low, paired.difference.high
    assert low is not None and high is not None and paired.p is not None
    assert (low > 0 or high < 0) == (paired.p < 0.05)


@pytest.mark.parametrize("n", [2, 3, 5, 6, 8])
def test_p_is_not_below_that_of_the_sign_flip_test(n: int) -> None:
    """Differences that are all but equal: of 2ⁿ ways to flip their signs only two are as extreme."""
    differences = np.linspace(0.999, 1.001, n)
    paired = difference([mean_of(np.zeros(n))], [mean_of(differences)])
    flips = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", vectorized=True, n_resamples=np.inf
    )
    assert paired.p == pytest.approx(flips.pvalue)
    assert paired.difference.low is not None
    assert (paired.difference.low > 0) == (n >= 6)


def test_an_interval_does_not_exceed_the_possible_values() -> None:
    """Student's interval for a fraction of two samples would reach far beyond 1."""

    def fraction(*sample: float) -> JackknifedFigure:
        return replace(mean_of(sample), bounds=(0.0, 1.0))

    paired = difference([fraction(0.0, 0.1)], [fraction(1.0, 0.5)])
    assert (paired.difference.low, paired.difference.high) == (-1, 1)
    estimate = mean([fraction(0.9, 1.0), fraction(0.2, 0.4)])
    assert (estimate.low, estimate.high) == (0, 1)


def test_equal_models_are_unchanged_and_one_sample_decides_nothing() -> None:
    same = difference([mean_of([1.0, 2.0])], [mean_of([1.0, 2.0])])
    assert (same.difference.low, same.difference.high, same.p) == (0, 0, 1)
    alone = [JackknifedFigure(figure(np.array([v]), 1, "points", "s"), np.empty(0)) for v in (1.0, 2.0)]
    single = difference(alone[:1], alone[1:])
    assert (single.difference.value, single.difference.low, single.p) == (1, None, None)


def test_if_only_seeds_vary_a_mean_has_students_interval() -> None:
    values = [0.41, 0.44, 0.40]
    estimate = mean([exact(value) for value in values])
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert (estimate.low, estimate.high) == pytest.approx((low, high))


def test_if_only_seeds_vary_a_difference_is_welchs_test() -> None:
    base, head = [0.41, 0.44, 0.40], [0.47, 0.46, 0.52]
    estimate = difference([exact(value) for value in base], [exact(value) for value in head])
    expected = stats.ttest_ind(head, base, equal_var=False)
    interval = expected.confidence_interval()
    assert (estimate.difference.low, estimate.difference.high, estimate.p) == pytest.approx(
        (interval.low, interval.high, expected.pvalue)
    )


def test_trainings_on_the_same_samples_cover_the_true_difference_in_about_95_percent_of_cases() -> None:
    """Three trainings per recipe of equal quality, on 40 samples that are easier for one of the recipes."""
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(1000):
        samples = generator.normal(0, 0.1, (2, 40))
        base, head = ([mean_of(side + generator.normal(0, 0.02)) for _ in range(3)] for side in samples)
        bounds = difference(base, head).difference
        assert bounds.low is not None and bounds.high is not None
        covered += bounds.low <= 0 <= bounds.high
    assert 0.93 <= covered / 1000 <= 0.98
