"""Bootstrap resamples and intervals, checked against plain loops and known coverage."""

import numpy as np
import pytest

from harness.statistics import bootstrap


def test_every_resample_draws_as_many_samples_as_there_are():
    counts = np.concatenate(list(bootstrap.resample_counts(17, 50, seed=3)), axis=1)
    assert counts.shape == (17, 50)
    assert (counts.sum(axis=0) == 17).all()
    assert counts.min() == 0
    assert counts.max() > 1


def test_resamples_do_not_depend_on_the_size_of_a_chunk(monkeypatch):
    whole = np.concatenate(list(bootstrap.resample_counts(10, 30, seed=1)), axis=1)
    monkeypatch.setattr(bootstrap, "CELLS", 70)
    chunks = list(bootstrap.resample_counts(10, 30, seed=1))
    assert [chunk.shape[1] for chunk in chunks] == [7, 7, 7, 7, 2]
    np.testing.assert_array_equal(np.concatenate(chunks, axis=1), whole)


def test_sums_over_resamples_equal_a_plain_loop():
    statistics = np.random.default_rng(0).integers(0, 9, (6, 3))
    draws = np.random.default_rng(5).integers(0, 6, size=(4, 6))  # the same draws, sample by sample
    expected = [sum(statistics[index] for index in draw) for draw in draws]
    np.testing.assert_array_equal(bootstrap.resample_sums(statistics, 4, seed=5), expected)


def test_the_interval_of_a_mean_covers_the_truth_in_about_95_of_100_cases():
    """Coverage of the percentile interval for n = 60 normal observations: 0.94 in theory (a little low)."""
    generator = np.random.default_rng(7)
    hits = 0
    for trial in range(400):
        sample = generator.normal(0, 1, 60)
        weights = np.concatenate(list(bootstrap.resample_counts(60, 400, seed=trial)), axis=1)
        bounds = bootstrap.figure(sample.mean(), sample @ weights / 60, 60, "points", "")
        hits += bounds.low <= 0 <= bounds.high
    assert 0.90 <= hits / 400 <= 0.98


def test_the_bounds_are_the_2_5_and_97_5_percentiles():
    bounds = bootstrap.figure(0.5, np.arange(1001) / 1000, 9, "fraction", "s")
    assert (bounds.low, bounds.high) == (pytest.approx(0.025), pytest.approx(0.975))


def test_basic_bounds_are_reflected_in_the_value():
    """Resamples of .4–.7 around a value of .5 give bounds of .3–.6."""
    bounds = bootstrap.figure(0.5, np.linspace(0.4, 0.7, 1001), 9, "fraction", "s", reflected=True)
    low, high = 0.4 + 0.025 * 0.3, 0.4 + 0.975 * 0.3
    assert (bounds.low, bounds.high) == (pytest.approx(1 - high), pytest.approx(1 - low))


@pytest.mark.parametrize(
    ("value", "resampled", "expected"),
    [(0.1, [0.1, 0.5], (0, 0.1)), (0.9, [0.5, 0.9], (0.9, 1)), (0.5, [0.7, 0.7], (0.3, 0.5))],
)
def test_basic_bounds_stay_within_0_and_1_and_contain_the_value(value, resampled, expected):
    bounds = bootstrap.figure(value, np.array(resampled * 50), 9, "fraction", "s", reflected=True)
    assert (bounds.low, bounds.high) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "resampled", "n"), [(0.5, [0.5, 0.5], 1), (np.nan, [0.5, 0.6], 9), (0.5, [np.nan, np.nan], 9)]
)
def test_one_sample_or_an_undefined_value_has_no_interval(value, resampled, n):
    bounds = bootstrap.figure(value, np.array(resampled), n, "fraction", "s")
    assert bounds.low is None
    assert bounds.high is None
    assert (bounds.value is None) == np.isnan(value)


def test_undefined_resamples_are_ignored():
    bounds = bootstrap.figure(0.5, np.array([0.4, np.nan, 0.4]), 9, "fraction", "s")
    assert (bounds.low, bounds.high) == (0.4, 0.4)


def test_a_mean_ignores_undefined_values():
    values = np.array([[1.0, np.nan, 3.0], [np.nan, np.nan, np.nan]])
    np.testing.assert_array_equal(bootstrap.mean_defined(values, 1), [2.0, np.nan])


@pytest.mark.parametrize("reflected", [False, True])
def test_figures_are_plain_floats(reflected: bool) -> None:
    resampled = np.zeros(100)
    figure = bootstrap.figure(np.float64(0.0), resampled, 10, "fraction", "s", reflected)
    assert {type(number) for number in (figure.value, figure.low, figure.high)} == {float}
