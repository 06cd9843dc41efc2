"""Rank estimates and their exact intervals, against brute force, SciPy and simulation."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.statistics.ranks import location, shift

VALUES = st.lists(st.integers(-1000, 1000), min_size=1, max_size=9, unique=True)


@given(VALUES)
def test_the_location_is_the_median_of_the_means_of_pairs(values: list[int]) -> None:
    means = [(a + b) / 2 for i, a in enumerate(values) for b in values[i:]]
    assert location(values).value == np.median(means)


@given(VALUES, VALUES)
def test_the_shift_is_the_median_of_the_differences_of_pairs(base: list[int], head: list[int]) -> None:
    assert shift(base, head).value == np.median([b - a for a, b in product(base, head)])


def rejects_centre(values: list[float], centre: float, alpha: float) -> bool:
    """Return whether all 2ⁿ assignments of signs call a centre implausible, at α/2 per side."""
    deviations = np.array(values) - centre
    ranks = stats.rankdata(abs(deviations))
    signs = np.array(list(product([0, 1], repeat=len(values))))
    sums, observed = signs @ ranks, ranks[deviations > 0].sum()
    return bool(min((sums <= observed).mean(), (sums >= observed).mean()) <= alpha / 2)


@pytest.mark.parametrize(("n", "confidence"), [(6, 0.95), (7, 0.95), (8, 0.99), (9, 0.9)])
def test_the_interval_of_a_location_has_the_centres_that_the_signed_rank_test_accepts(
    n: int, confidence: float
) -> None:
    values = np.random.default_rng(n).normal(5, 2, n).tolist()
    estimate = location(values, confidence)
    assert estimate.low is not None and estimate.high is not None
    for bound, inside in ((estimate.low, 1e-6), (estimate.high, -1e-6)):
        assert not rejects_centre(values, bound + inside, 1 - confidence)
        assert rejects_centre(values, bound - inside, 1 - confidence)


def rejects_shift(base: list[float], head: list[float], moved: float, alpha: float) -> bool:
    """Return whether all ways to divide the values into two samples call a shift implausible."""
    m = len(base)
    ranks = stats.rankdata([*base, *(np.array(head) - moved)])
    sums = np.array([ranks[list(chosen)].sum() for chosen in combinations(range(len(ranks)), m)])
    observed = ranks[:m].sum()
    return bool(min((sums <= observed).mean(), (sums >= observed).mean()) <= alpha / 2)


@pytest.mark.parametrize(("m", "n", "confidence"), [(4, 4, 0.95), (6, 6, 0.95), (3, 8, 0.9), (5, 6, 0.99)])
def test_the_interval_of_a_shift_has_the_shifts_that_the_mann_whitney_test_accepts(
    m: int, n: int, confidence: float
) -> None:
    generator = np.random.default_rng(m * n)
    base, head = generator.normal(0, 1, m).tolist(), generator.normal(2, 1, n).tolist()
    estimate = shift(base, head, confidence)
    assert estimate.low is not None and estimate.high is not None
    for bound, inside in ((estimate.low, 1e-6), (estimate.high, -1e-6)):
        assert not rejects_shift(base, head, bound + inside, 1 - confidence)
        assert rejects_shift(base, head, bound - inside, 1 - confidence)


@pytest.mark.parametrize(("confidence", "least"), [(0.9, 5), (0.95, 6), (0.99, 8), (1 - 2 / 256, 8)])
def test_too_few_values_have_no_interval(confidence: float, least: int) -> None:
    """The most extreme of 2ⁿ signs has a probability of 2⁻ⁿ, which must be at most α/2."""
    assert location(range(least - 1), confidence).low is None
    assert location(range(least), confidence).low == 0
    assert location(range(least), confidence).high == least - 1


def test_four_values_a_side_are_enough_for_a_shift() -> None:
    """Four against four reach 1/70 = 1.4% ≤ 2.5%; three against four only 1/35 = 2.9%."""
    assert shift(range(3), range(4)).low is None
    assert shift(range(4), range(10, 14)).low == 7


@pytest.mark.parametrize(("m", "n"), [(12, 18), (50, 50)])
def test_large_samples_agree_with_scipys_exact_distribution(m: int, n: int) -> None:
    generator = np.random.default_rng(1)
    base, head = generator.normal(size=m), generator.normal(0.3, 1, n)
    estimate = shift(base, head)
    for bound in (estimate.low, estimate.high):
        assert bound is not None
        sides = [
            stats.mannwhitneyu(base, head - bound + nudge, method="exact").pvalue for nudge in (-1e-9, 1e-9)
        ]
        assert min(sides) <= 0.05 <= max(sides)


@pytest.mark.parametrize("n", [6, 12])
def test_intervals_cover_and_an_outlier_does_not_widen_them_without_end(n: int) -> None:
    """Four standard errors of slack in 2,000 repetitions: 4·√(.95·.05/2000) = .0195."""
    generator = np.random.default_rng(3)
    draws = generator.normal(size=(2000, n)) + np.where(generator.random((2000, n)) < 0.06, 12, 0)
    estimates = [location(row) for row in draws]
    medians = [e.value for e in estimates]
    assert abs(np.median(medians)) < 0.4, "one of sixteen values is off by twelve standard deviations"
    clean = [location(row) for row in generator.normal(size=(2000, n))]
    covered = np.mean([e.low <= 0 <= e.high for e in clean])  # type: ignore[operator]
    assert covered >= 0.95 - 0.0195
