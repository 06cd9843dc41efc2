"""Speed figures against published numbers, SciPy and simulation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from harness.scenarios.figures import PERCENTILES, latency, least_queries, mean_duration, throughput


@pytest.mark.parametrize(
    ("percentile", "queries"), [(50, 11), (90, 64), (95, 130), (97, 219), (99, 662), (99.9, 6636)]
)
def test_the_least_queries_are_mlperfs(percentile: float, queries: int) -> None:
    """MLPerf Inference rules, early stopping with confidence .99."""
    assert least_queries(percentile) == queries
    assert latency(percentile, [np.arange(queries - 1)]) is None
    assert latency(percentile, [np.arange(queries)]) is not None
    assert latency(percentile, [np.arange(queries)] * 2) is not None
    assert latency(percentile, [np.arange(queries), np.arange(queries - 1)]) is None, (
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
    assert figure.value is not None and figure.low is not None and figure.high is not None
    tenths = round(percentile * 10)
    assert figure.value * 1000 >= tenths * n > (figure.value - 1) * 1000
    assert figure.low <= figure.value <= figure.high
    assert (figure.n, figure.unit) == (n, "s")


@pytest.mark.parametrize(("percentile", "n"), [(50, 11), (50, 100), (90, 64), (95, 200), (99, 662)])
def test_order_statistics_cover_the_true_percentile(percentile: float, n: int) -> None:
    """Exponential latencies: the interval contains the true percentile in at least 95% of 4,000 repetitions.

    Four standard errors of slack below: 4·√(.95·.05/4000) = .0138.
    """
    draws = np.random.default_rng(5).exponential(size=(4000, n))
    truth = -np.log(1 - percentile / 100)
    figures = [latency(percentile, [row]) for row in draws]
    covered = np.mean([f is not None and f.low <= truth <= f.high for f in figures])  # type: ignore[operator]
    assert covered >= 0.95 - 0.0138
    assert covered < 0.999, "an interval that always covers says nothing"


def test_throughput_of_one_process_is_students_interval_over_its_windows() -> None:
    seconds = [2.0, 2.5, 1.6, 2.0]
    figure = throughput([[(100, s) for s in seconds]])
    rates = [100 / s for s in seconds]
    low, high = scipy.stats.t.interval(0.95, 3, scale=scipy.stats.sem(rates))
    assert figure.value == pytest.approx(400 / 8.1)
    assert figure.low == pytest.approx(400 / 8.1 + low)
    assert figure.high == pytest.approx(400 / 8.1 + high)
    assert figure.signature == "offline|windows:4|processes:1|interval:t over windows"
    assert figure.n == 400


def test_throughput_of_several_processes_is_students_interval_over_processes() -> None:
    """Windows of a process are not independent: 3 processes are 3 values, however many windows they have."""
    processes = [[(10, 1.0)] * 50, [(10, 1.25)] * 50, [(10, 0.8)] * 50]
    figure = throughput(processes)
    low, high = scipy.stats.t.interval(0.95, 2, scale=scipy.stats.sem([10, 8, 12.5]))
    value = 1500 / (50 * 3.05)
    assert (figure.value, figure.low, figure.high) == pytest.approx(
        (value, max(0, value + low), value + high)
    )
    assert figure.signature.endswith("interval:t over processes")


def test_a_rate_is_never_negative() -> None:
    assert throughput([[(1, 0.1), (1, 10.0)]]).low == 0.0


def test_one_window_or_one_duration_gives_no_interval_and_so_no_figure() -> None:
    with pytest.raises(ValueError, match="two windows"):
        throughput([[(10, 1.0)]])
    with pytest.raises(ValueError, match="two durations"):
        mean_duration([1.0], "model")


def test_mean_duration_is_students_interval() -> None:
    values = [0.1, 0.12, 0.11, 0.15]
    figure = mean_duration(values, "model")
    low, high = scipy.stats.t.interval(0.95, 3, loc=np.mean(values), scale=scipy.stats.sem(values))
    assert (figure.value, figure.low, figure.high) == pytest.approx((0.12, low, high))
    assert (figure.n, figure.unit, figure.signature) == (4, "s", "model|mean|t")


def test_a_percentile_of_several_processes_is_students_interval_over_their_percentiles() -> None:
    """Process k has latencies k, 2k, … 100k: its median is 50k."""
    figure = latency(50, [scale * np.arange(1, 101) for scale in (1.0, 2.0, 4.0)])
    assert figure is not None
    expected = scipy.stats.t.interval(0.95, 2, loc=350 / 3, scale=scipy.stats.sem([50, 100, 200]))
    assert (figure.value, figure.low, figure.high) == pytest.approx(
        (350 / 3, max(0, expected[0]), expected[1])
    )
    assert (figure.n, figure.signature) == (300, "p50|processes:3|interval:t over processes")


@pytest.mark.parametrize(("percentile", "queries"), [(50, 101), (90, 401)])
def test_the_interval_of_several_processes_covers_what_a_process_shows_on_average(
    percentile: float, queries: int
) -> None:
    """Latencies vary by 5%, processes by 3%: six cover their mean percentile in 95% of 1,000 repetitions.

    Four standard errors of slack: 4·√(.95·.05/1000) = .028. The same latencies pooled are overconfident.
    """
    generator = np.random.default_rng(11)
    speeds = generator.normal(1, 0.03, size=(1000, 6, 1))
    draws = speeds * generator.lognormal(0, 0.05, size=(1000, 6, queries))
    truth = scipy.stats.lognorm.ppf(percentile / 100, 0.05)

    def coverage(processes: Callable[[NDArray[np.float64]], list[NDArray[np.float64]]]) -> float:
        figures = [latency(percentile, processes(rows)) for rows in draws]
        return float(np.mean([f is not None and f.low <= truth <= f.high for f in figures]))  # type: ignore[operator]

    assert abs(coverage(list) - 0.95) <= 0.028
    assert coverage(lambda rows: [rows.ravel()]) < 0.6
