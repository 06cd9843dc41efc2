"""The timed loop on a virtual clock: work takes exactly as long as the test says; nothing sleeps."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, repeat

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_timings import conditions

from harness.scenarios.figures import in_units, least_queries, throughput
from harness.scenarios.loop import Window, Workload, fixed_queries, window_length
from harness.scenarios.offline import Offline, OfflineProcess
from harness.scenarios.settings import PROFILES, Profile
from harness.scenarios.single_stream import SingleStream, SingleStreamProcess
from harness.stages.measure import peak_resident

SECOND = 10**9


class Bench:
    """A clock that only work moves, and a device that finishes queued work when synchronised."""

    def __init__(self, cost: Callable[[list[int]], int], queued: bool = False) -> None:
        self.now = 0
        self.pending = 0
        self.ran: list[list[int]] = []
        self._cost = cost
        self._queued = queued

    def clock(self) -> int:
        return self.now

    def run(self, indices: list[int]) -> None:
        self.ran.append(indices)
        self.pending += self._cost(indices)
        if not self._queued:
            self.synchronise()

    def synchronise(self) -> None:
        self.now += self.pending
        self.pending = 0

    def workload(
        self, samples: int, batch_size: int = 1, window: int = 99, check: Callable[[], str] = lambda: ""
    ) -> Workload:
        queries = fixed_queries(samples, batch_size)
        generator = np.random.default_rng(0)
        return Workload(self.run, self.synchronise, queries, generator, window, self.clock, check)

    def offline(self, samples: int, batch_size: int, window: int = 99) -> list[Window]:
        return Offline.run(self.workload(samples, batch_size, window), PROFILE, conditions).windows


PROFILE = Profile(seconds=1, samples=8, processes=1)


class TestOffline:
    @given(st.integers(1, 6), st.integers(1, 8), st.integers(1, 9), st.floats(0.001, 3))
    def test_every_pass_has_every_window_once_until_time_samples_and_passes_suffice(
        self, batch: int, batches: int, window: int, seconds: float
    ) -> None:
        bench = Bench(lambda indices: round(seconds * SECOND))
        timed = bench.offline(batch * batches, batch, window)
        per_pass = -(-batches // window)
        passes = [timed[first : first + per_pass] for first in range(0, len(timed), per_pass)]
        assert all(sorted(entry.position for entry in one) == list(range(per_pass)) for one in passes)
        assert all(entry.seconds == pytest.approx(entry.samples / batch * seconds) for entry in timed)
        uses = Counter(chain.from_iterable(bench.ran))
        assert uses == dict.fromkeys(range(batch * batches), len(passes)), "every sample equally often"

        def enough(some: list[list[Window]]) -> bool:
            total = sum(entry.seconds for entry in chain.from_iterable(some))
            return (
                len(some) * batch * batches >= PROFILE.samples
                and total >= PROFILE.seconds
                and len(some) >= PROFILE.passes
            )

        assert enough(passes)
        assert not enough(passes[:-1]), "not a pass more than needed"

    def test_a_window_has_the_same_samples_every_time_and_passes_differ_in_order(self) -> None:
        bench = Bench(lambda indices: (1 + sum(indices)) * SECOND // 100)
        work = bench.workload(60, 2, 3)
        timed = Offline.run(work, PROFILE, conditions).windows
        by_position = {entry.position: entry.seconds for entry in timed}
        assert all(entry.seconds == by_position[entry.position] for entry in timed)
        orders = [[entry.position for entry in timed[first : first + 10]] for first in (0, 10)]
        assert orders[0] != orders[1]
        assert work.queries == fixed_queries(60, 2), "the same in another process"

    def test_work_that_a_device_has_only_queued_is_counted(self) -> None:
        bench = Bench(lambda indices: SECOND, queued=True)
        assert bench.offline(4, 2) == [Window(0, 4, 2.0)] * 3

    def test_the_time_of_a_process_is_a_quantile_for_each_window_summed_over_a_pass(self) -> None:
        """Window 0 takes 1, 2, 3 s and window 1 takes 10, 20, 30 s for five samples together."""
        times = [Window(0, 2, 1), Window(1, 3, 30), Window(1, 3, 20), Window(0, 2, 3), Window(0, 2, 2)]
        process = OfflineProcess(**dict(conditions(2)), windows=[*times, Window(1, 3, 10)])
        assert process.seconds_per_sample(0.5) == pytest.approx((2 + 20) / 5)
        assert process.seconds_per_sample(0.1) == pytest.approx((1.2 + 12) / 5)


class TestDisturbance:
    """A machine on which a sensor reports other work after some windows."""

    def timed(self, reasons: Iterable[str], samples: int = 4) -> OfflineProcess:
        sensor: Iterator[str] = iter(reasons)
        bench = Bench(lambda indices: SECOND)
        return Offline.run(bench.workload(samples, 1, 1, lambda: next(sensor)), PROFILE, conditions)

    def test_a_disturbed_window_is_timed_again_at_the_end_of_its_pass_and_stays_on_record(self) -> None:
        process = self.timed(chain(["busy"], repeat("")))
        [disturbed] = process.disturbed
        assert (disturbed.seconds, disturbed.reason, disturbed.replaced) == (1.0, "busy", True)
        assert process.windows[3].position == disturbed.position
        assert Counter(window.position for window in process.windows) == dict.fromkeys(range(4), 3)

    def test_disturbed_windows_count_once_the_budget_is_spent(self) -> None:
        """A pass takes 4 s, so three passes count after 24 s more at most; 2 s may be lost to begin with."""
        process = self.timed(repeat("busy"))
        counted, replaced = len(process.windows), [entry.replaced for entry in process.disturbed].count(True)
        assert counted == 12
        assert len(process.disturbed) - replaced == counted, "all that count were disturbed"
        assert 2 <= replaced <= 24

    def test_latencies_of_a_disturbed_window_do_not_count(self) -> None:
        bench, sensor = Bench(lambda indices: SECOND), chain(["busy"], repeat(""))
        work = bench.workload(6, window=2, check=lambda: next(sensor))
        timing = SingleStream.run(work, PROFILE, conditions)
        assert len(timing.latencies_ns) == 18
        assert len(bench.ran) == 20
        assert bench.ran[:2] != [[index] for index in timing.indices[:2]]


@pytest.mark.parametrize(
    ("pass_seconds", "queries", "expected"),
    [(1e-4, 64, 64), (0.4, 64, 8), (0.44, 64, 8), (0.36, 64, 8), (64.0, 64, 1), (0.0, 1, 1)],
)
def test_a_window_lasts_about_50_ms(pass_seconds: float, queries: int, expected: int) -> None:
    """Powers of two: versions that differ by 10% in speed have the same windows."""
    assert window_length(pass_seconds, queries) == expected


def test_turns_of_one_process_are_joined() -> None:
    bench = Bench(lambda indices: SECOND)
    work = bench.workload(3)
    first, second = (SingleStream.run(work, PROFILE, conditions) for _ in range(2))
    joined = first.joined(second)
    assert joined.latencies_ns == first.latencies_ns + second.latencies_ns
    assert joined.indices == [index for (index,) in bench.ran]


class TestSingleStream:
    def test_each_latency_is_its_own_samples(self) -> None:
        bench = Bench(lambda indices: (indices[0] + 1) * SECOND, queued=True)
        latencies = SingleStream.run(bench.workload(3), PROFILE, conditions).latencies_ns
        assert [index + 1 for (index,) in bench.ran] == [ns // SECOND for ns in latencies]
        assert len(latencies) == 9, "the least multiple of 3 samples that gives 8 queries"

    def test_lasts_the_least_time(self) -> None:
        bench = Bench(lambda indices: SECOND // 100)
        latencies = SingleStream.run(bench.workload(7), PROFILE, conditions).latencies_ns
        assert len(latencies) == 105, "100 queries of 10 ms make a second; whole passes over 7 samples"

    def test_the_time_of_a_process_is_the_median_over_samples_of_a_quantile_for_each(self) -> None:
        """Samples 0, 1 and 2 take 1 to 3, 10 to 30 and 100 to 300 ns."""
        latencies, indices = [1, 10, 300, 3, 20, 100, 2, 30, 200], [0, 1, 2] * 3
        timing = SingleStreamProcess(**dict(conditions()), latencies_ns=latencies, indices=indices)
        assert timing.seconds_per_sample(0.5) == pytest.approx(20e-9)
        assert timing.seconds_per_sample(0.1) == pytest.approx(12e-9)


@given(st.integers(1, 9), st.integers(1, 9))
def test_queries_have_every_sample_once(size: int, queries: int) -> None:
    made = fixed_queries(size * queries, size)
    assert [len(query) for query in made] == [size] * queries
    assert sorted(chain.from_iterable(made)) == list(range(size * queries))


def test_profiles_support_the_percentiles_they_are_for() -> None:
    assert PROFILES["smoke"].samples == least_queries(50)
    assert PROFILES["ci"].samples == least_queries(90)
    assert PROFILES["release"].samples == least_queries(99)
    assert [PROFILES[name].gates for name in ("smoke", "ci", "release")] == [False, True, True]


class TestTokens:
    """Samples with these numbers of tokens, on a machine that takes 2 ms per token."""

    TOKENS = (4, 8, 40, 60)

    def bench(self) -> Bench:
        return Bench(lambda indices: sum(self.TOKENS[index] for index in indices) * SECOND // 500)

    def test_throughput_in_tokens_is_that_of_the_machine(self) -> None:
        bench = self.bench()
        process = OfflineProcess(**dict(conditions(2)), windows=bench.offline(4, 2))
        tokens = in_units(throughput([process.seconds_per_sample(0.5)] * 2, 8), self.TOKENS, "source_tokens")
        assert tokens.value == pytest.approx(500)
        assert tokens.low == tokens.high == pytest.approx(500)  # both processes took the same time
        assert (tokens.n, tokens.unit) == (2 * sum(self.TOKENS), "source tokens/s")


def test_memory_is_this_processs_not_that_of_the_one_that_started_it():
    ballast = np.ones(100_000_000)  # 800 MB
    own = peak_resident()
    told = "from harness.stages.measure import peak_resident; print(peak_resident())"
    found = int(subprocess.run([sys.executable, "-c", told], capture_output=True, check=True).stdout)
    assert own is not None and own > ballast.nbytes > found > 10_000_000
