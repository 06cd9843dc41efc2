"""Speed figures against published numbers, SciPy and simulation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from harness.scenarios.figures import PERCENTILES, duration, latency, least_queries, throughput


@pytest.mark.parametrize(
    ("percentile", "queries"), [(50, 11), (90, 64), (95, 130), (97, 219), (99, 662), (99.9, 6636)]
)
def test_the_least_queries_are_mlperfs(percentile: float, queries: int) -> None:
    """MLPerf Inference rules, early stopping with confidence .99."""
    assert least_queries(percentile) == queries
    assert latency(percentile, [np.arange(1, queries)]) is None
    assert latency(percentile, [np.arange(1, queries + 1)]) is not None
    assert latency(percentile, [np.arange(1, queries + 1)] * 2) is not None
    assert latency(percentile, [np.arange(1, queries + 1), np.arange(1, queries)]) is None, (
        "each process needs them"
    )


@pytest.mark.parametrize("percentile", [50, 90, 99])
def test_the_least_queries_follow_from_the_binomial_distribution(percentile: float) -> None:
    """With h + 1 queries, at most one above has a probability of at most 1 − c at the bound; not with h."""
    n = least_queries(percentile)

    def at_most_one_above(queries: int) -> float:
        return float(scipy.stats.binom.cdf(1, queries, 1 - percentile / 100))

    assert at_most_one_above(n) <= 0.01 < at_most_one_above(n - 1)


@given(st.sampled_from(PERCENTILES), st.integers(0, 20_000))
def test_a_percentile_is_the_smallest_latency_with_enough_at_or_below(percentile: float, extra: int) -> None:
    """The nearest-rank definition in integers: rank ⌈p·n/100⌉, exact also for 99.9% of 7,000."""
    n = least_queries(percentile) + extra
    figure = latency(percentile, [np.arange(1, n + 1)[::-1]])
    assert figure is not None
    assert figure.value is not None
    tenths = round(percentile * 10)
    rank = round(figure.value)
    assert figure.value == pytest.approx(rank)
    assert rank * 1000 >= tenths * n > (rank - 1) * 1000
    assert (figure.n, figure.unit, figure.interval) == (n, "s", None)


def test_a_single_process_has_no_interval() -> None:
    """It does not show how much processes differ, however many windows it has."""
    figure = throughput([0.01], 6400)
    assert (figure.value, figure.interval, figure.n) == (100.0, None, 6400)
    assert figure.signature == "offline|median per window|processes:1|interval:none, one process"


def test_two_to_five_processes_have_students_interval_on_logarithms() -> None:
    seconds = [0.01, 0.0125, 0.008]
    figure = throughput(seconds, 192)
    logs = -np.log(seconds)
    expected = np.exp(scipy.stats.t.interval(0.95, 2, loc=logs.mean(), scale=scipy.stats.sem(logs)))
    assert figure.value == pytest.approx(100), "the median of the means of pairs, on logarithms"
    assert (figure.low, figure.high) == pytest.approx(tuple(expected))
    assert figure.signature.endswith("processes:3|interval:t over processes")


def test_six_processes_have_the_signed_rank_interval_and_one_slow_for_life_hardly_matters() -> None:
    """Of six values, the exact 95% interval of the signed ranks reaches from the smallest to the largest."""
    figure = throughput([0.010, 0.0101, 0.0099, 0.01, 0.0102, 0.02], 384)
    assert figure.value == pytest.approx(100, rel=0.02)
    assert figure.interval == pytest.approx((50, 1 / 0.0099))
    assert figure.signature.endswith("processes:6|interval:signed rank over processes")


def test_the_duration_of_a_phase_is_over_processes_too() -> None:
    figure = duration([0.1, 0.1, 0.4], "model")
    # The means of pairs of logarithms are those of .1 (three times), √(.1 · .4) = .2 (twice) and .4.
    assert figure.value == pytest.approx(np.sqrt(0.1 * 0.2))
    assert (figure.n, figure.unit) == (3, "s")
    assert figure.signature == "model|median|processes:3|interval:t over processes"


def test_a_percentile_of_several_processes_is_over_their_percentiles() -> None:
    """Process k has latencies k, 2k, … 100k: its median is 50k."""
    figure = latency(50, [scale * np.arange(1, 101) for scale in (1.0, 2.0, 4.0)])
    assert figure is not None
    logs = np.log([50, 100, 200])
    expected = np.exp(scipy.stats.t.interval(0.95, 2, loc=logs.mean(), scale=scipy.stats.sem(logs)))
    assert (figure.value, figure.low, figure.high) == pytest.approx((100, *expected))
    assert (figure.n, figure.signature) == (300, "p50|processes:3|interval:t over processes")


@pytest.mark.parametrize(("percentile", "queries"), [(50, 101), (90, 401)])
def test_the_interval_of_several_processes_covers_what_a_process_shows_on_average(
    percentile: float, queries: int
) -> None:
    """Latencies vary by 5%, processes by 3%: six cover their mean percentile in 95% of 1,000 repetitions.

    Four standard errors of slack: 4·√(.95·.05/1000) = .028. Groups that mix all processes are overconfident.
    """
    generator = np.random.default_rng(11)
    speeds = generator.normal(1, 0.03, size=(1000, 6, 1))
    draws = speeds * generator.lognormal(0, 0.05, size=(1000, 6, queries))
    truth = scipy.stats.lognorm.ppf(percentile / 100, 0.05)

    def coverage(processes: Callable[[NDArray[np.float64]], list[NDArray[np.float64]]]) -> float:
        figures = [latency(percentile, processes(rows)) for rows in draws]
        return float(np.mean([f is not None and f.low <= truth <= f.high for f in figures]))  # type: ignore[operator]

    assert 0.95 - 0.028 <= coverage(list) <= 0.97 + 0.028  # exact: 1 − 2/64 = 96.9%
    assert coverage(lambda rows: [rows.ravel()[group::6] for group in range(6)]) < 0.6
