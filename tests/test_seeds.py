"""Figures of recipes trained with several seeds, checked against SciPy's t tests."""

import numpy as np
import pytest
from scipy import stats

from harness.statistics.paired import difference_of_trainings
from harness.statistics.seeds import Trainings, mean


def exact(name, values):
    """Return trainings whose figure does not depend on the samples: only the seeds vary."""
    return Trainings(name, np.array(values), np.repeat(np.array(values)[:, None], 50, axis=1))


def test_if_only_seeds_vary_a_mean_has_students_interval():
    values = [0.41, 0.44, 0.40]
    estimate = mean(exact("a", values))
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert (estimate.low, estimate.high) == pytest.approx((low, high))
    assert estimate.seed_sd == pytest.approx(np.std(values, ddof=1))


def test_if_only_seeds_vary_a_difference_is_welchs_test():
    base, head = [0.41, 0.44, 0.40], [0.47, 0.46, 0.52]
    estimate = difference_of_trainings(exact("a", base), exact("b", head))
    expected = stats.ttest_ind(head, base, equal_var=False)
    assert estimate.p == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval(0.95)
    assert (estimate.low, estimate.high) == pytest.approx((interval.low, interval.high))


def test_with_one_training_each_the_interval_covers_only_the_paired_samples():
    generator = np.random.default_rng(0)
    shared = generator.normal(0, 0.1, 4000)  # hard samples are hard for both
    base = Trainings("a", np.array([0.5]), (0.5 + shared + generator.normal(0, 0.01, 4000))[None])
    head = Trainings("b", np.array([0.6]), (0.6 + shared + generator.normal(0, 0.01, 4000))[None])
    estimate = difference_of_trainings(base, head)
    error = np.sqrt(2) * 0.01
    assert (estimate.low, estimate.high) == pytest.approx((0.1 - 1.96 * error, 0.1 + 1.96 * error), rel=0.02)
    assert mean(base).seed_sd is None and base.seed_variance is None


def test_intervals_contain_the_true_difference_in_about_95_percent_of_cases():
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(1000):
        samples = generator.normal(0, 0.01)  # the test split is easier or harder for head than the population
        sides = []
        for truth in (0.5, 0.5 + samples):
            values = truth + generator.normal(0, 0.02, 3)
            sides.append((values, values[:, None] + np.zeros((3, 100))))
        noise = generator.normal(0, 0.01, 100)
        base, head = (
            Trainings(name, values, spread + (noise if name == "b" else 0))
            for name, (values, spread) in zip("ab", sides, strict=True)
        )
        estimate = difference_of_trainings(base, head)
        covered += estimate.low <= 0 <= estimate.high
    assert 0.93 <= covered / 1000 <= 0.985
