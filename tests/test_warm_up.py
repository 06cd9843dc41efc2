"""The warm-up on a virtual clock: how long it takes, what it leaves, and when it is called unsteady."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau, theilslopes

from harness.scenarios.settings import PROFILES, Profile
from harness.scenarios.warm_up import CURVE_POINTS, TIME_CONSTANT, WarmUp, estimate_trend, warm_up

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from warm_up import simulate

CI = PROFILES["ci"]


def warm(duration: Callable[[int], float], profile: Profile = CI, queries: int = 4) -> WarmUp:
    """Warm up with passes whose duration in seconds is a function of their number."""
    now, numbers = 0.0, count()

    def run_pass() -> int:
        nonlocal now
        now += duration(next(numbers))
        return queries

    return warm_up(run_pass, lambda: round(now * 1e9), profile)


def test_lasts_the_least_time_and_the_least_queries() -> None:
    brief = Profile(1, 8, 1, warmup_seconds=2.0, warmup_patience=2.0)
    assert warm(lambda _: 0.1, brief).seconds == pytest.approx(2.0, abs=0.11)
    assert warm(lambda _: 1.0, brief, queries=1).iterations == 10
    assert warm(lambda _: 0.01, PROFILES["smoke"]).seconds == pytest.approx(0.1, abs=0.011)


def test_equal_passes_are_steady_once_there_are_enough_blocks() -> None:
    ended = warm(lambda _: 0.01)
    assert ended.stable and ended.remaining == 0
    assert 6 * 0.5 / 0.75 <= ended.seconds < 4.5


@pytest.mark.parametrize("gain", [0.1, 0.3])
def test_at_most_one_percent_of_a_slow_warm_up_is_left(gain: float) -> None:
    ended = [simulate(0.005, 0.02, False, gain, 10.0, seed) for seed in range(3)]
    assert all(warm.stable for warm in ended)
    assert all(gain * np.exp(-warm.seconds / 10) <= 0.01 for warm in ended)
    assert all(warm.seconds < CI.warmup_cap for warm in ended)


def test_a_steady_model_takes_little_more_than_the_least_time() -> None:
    ended = [simulate(0.005, 0.01, False, 0.0, 10.0, seed) for seed in range(8)]
    assert np.median([warm.seconds for warm in ended]) < 8


def test_noise_is_not_called_unsteady() -> None:
    slow = [simulate(2.0, 0.1, False, 0.0, 10.0, seed) for seed in range(300)]
    assert sum(not warm.stable for warm in slow) <= 0.05 * 300
    assert max(warm.seconds for warm in slow) <= CI.warmup_cap + 3
    contended = [simulate(0.005, 0.02, True, 0.0, 10.0, seed) for seed in range(8)]
    assert all(warm.stable for warm in contended)
    assert np.median([warm.seconds for warm in contended]) <= CI.warmup_patience


def test_passes_that_still_become_faster_at_the_cap_are_unsteady() -> None:
    ended = warm(lambda number: 0.1 * 0.999**number)
    assert not ended.stable
    assert ended.remaining is not None and ended.remaining > 0.01
    assert CI.warmup_cap <= ended.seconds < 1.2 * CI.warmup_cap


def test_passes_that_become_slower_are_not() -> None:
    assert warm(lambda number: 0.1 * 1.001**number).stable


def test_the_curve_is_thinned_and_keeps_both_ends() -> None:
    ended = warm(lambda number: 0.002 + 0.1 * (number == 0))
    assert len(ended.curve) == CURVE_POINTS
    assert ended.curve[0] == pytest.approx((0.102, 0.102))
    assert ended.curve[-1] == pytest.approx((ended.seconds, 0.002))
    assert warm(lambda _: 5.0).curve == [(5.0, 5.0), (10.0, 5.0), (15.0, 5.0)]


def test_the_trend_is_that_of_scipy() -> None:
    """With one pass per block, so that no quantile is taken."""
    for seed in range(20):
        generator = np.random.default_rng(seed)
        ends = np.cumsum(np.full(40, 1.0))
        durations = 1 + 0.05 * np.exp(-ends / 10) + 0.01 * generator.standard_normal(40)
        judged = ends >= 10
        left = np.exp((40 - ends[judged]) / TIME_CONSTANT)
        slope, intercept, _, high = theilslopes(durations[judged], left, 0.95)
        level = np.median(durations[judged] - slope * left)
        p = kendalltau(left, durations[judged], alternative="greater").pvalue
        trend = estimate_trend(ends.tolist(), durations.tolist())
        assert trend is not None
        assert trend.remaining == pytest.approx(slope / level)
        assert trend.upper == pytest.approx(high / level)
        assert trend.falling == (p < 0.01) or 0.005 < p < 0.02
        assert intercept == pytest.approx(level, abs=0.01)


def test_a_few_passes_have_no_trend() -> None:
    assert estimate_trend([1.0, 2.0, 3.0, 4.0], [1.0] * 4) is None
    assert estimate_trend([0.01 * number for number in range(1, 40)], [0.01] * 39) is None, "0.4 s"
