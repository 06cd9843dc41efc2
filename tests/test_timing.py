"""The timed loop on a virtual clock: work takes exactly as long as the test says; nothing sleeps."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice, repeat

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_timings import conditions

from harness.scenarios.figures import in_units, least_queries, median_by_length, throughput
from harness.scenarios.loop import WarmUp, Workload, batches, permutations, warm_up
from harness.scenarios.offline import LEAST_WINDOWS, Offline
from harness.scenarios.settings import PROFILES, Profile
from harness.scenarios.single_stream import SingleStream
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

    def workload(self, samples: int, batch_size: int = 1, seed: int = 0) -> Workload:
        orders = permutations(samples, seed)
        return Workload(self.run, self.synchronise, samples, batch_size, orders, self.clock)

    def offline(self, samples: int, batch_size: int) -> list[tuple[int, float]]:
        return Offline.run(self.workload(samples, batch_size), PROFILE, conditions).windows


def warm(passes: Iterable[float], profile: Profile, queries: int = 4) -> WarmUp:
    """Warm up with passes of these durations in seconds."""
    bench = Bench(lambda _: 0)
    durations: Iterator[float] = iter(passes)

    def one_pass() -> int:
        bench.now += int(next(durations) * SECOND)
        return queries

    return warm_up(one_pass, bench.clock, profile)


PROFILE = Profile(seconds=1, queries=8, processes=1, warmup_seconds=2.0, warmup_cap=30.0)


class TestWarmUp:
    def test_ends_with_the_third_pass_within_five_percent(self) -> None:
        ended = warm([3.0, 2.0, 1.0, 1.04, 1.049, 9.9], PROFILE)
        assert (ended.iterations, ended.seconds, ended.stable) == (20, pytest.approx(8.089), True)

    def test_six_percent_is_not_steady(self) -> None:
        assert warm([1.0, 1.06, 1.0, 1.06, 1.06, 1.06, 9.9], PROFILE).iterations == 24

    def test_lasts_the_least_time_and_the_least_queries(self) -> None:
        assert warm(repeat(0.1), PROFILE).seconds == pytest.approx(2.0, abs=0.11)
        assert warm(repeat(1.0), PROFILE, queries=1).iterations == 10

    def test_gives_up_at_the_cap_and_says_so(self) -> None:
        found = warm((2.0**n for n in range(-3, 99)), PROFILE)
        assert not found.stable
        assert 30 <= found.seconds < 64


class TestOffline:
    @given(st.integers(1, 6), st.integers(1, 8), st.floats(0.001, 3))
    def test_windows_are_whole_passes_until_time_queries_and_windows_suffice(
        self, batch: int, count_of_batches: int, seconds: float
    ) -> None:
        count = batch * count_of_batches
        bench = Bench(lambda indices: round(seconds * SECOND))
        windows = bench.offline(count, batch)
        assert all(n == count for n, _ in windows)
        assert all(s == pytest.approx(seconds * count_of_batches) for _, s in windows)
        uses = Counter(chain.from_iterable(bench.ran))
        assert uses == dict.fromkeys(range(count), len(windows)), "every sample equally often"

        def enough(some: list[tuple[int, float]]) -> bool:
            queries, total = len(some) * count_of_batches, sum(s for _, s in some)
            return queries >= PROFILE.queries and total >= PROFILE.seconds and len(some) >= LEAST_WINDOWS

        assert enough(windows)
        assert not enough(windows[:-1]), "not a pass more than needed"

    def test_work_that_a_device_has_only_queued_is_counted(self) -> None:
        bench = Bench(lambda indices: SECOND, queued=True)
        windows = bench.offline(4, 2)
        assert windows == [(4, 2.0)] * LEAST_WINDOWS


class TestSingleStream:
    def test_each_latency_is_its_own_samples(self) -> None:
        bench = Bench(lambda indices: (indices[0] + 1) * SECOND, queued=True)
        latencies = SingleStream.run(bench.workload(3), PROFILE, conditions).latencies_ns
        assert [index + 1 for (index,) in bench.ran] == [ns // SECOND for ns in latencies]
        assert len(latencies) == 9, "the least multiple of 3 samples that gives 8 queries"

    def test_lasts_the_least_time(self) -> None:
        bench = Bench(lambda indices: SECOND // 100)
        latencies = SingleStream.run(bench.workload(7), PROFILE, conditions).latencies_ns
        assert len(latencies) == 105, "100 queries of 10 ms make a second; whole permutations of 7"


class TestOrder:
    @given(st.integers(1, 50), st.integers(0, 5))
    def test_permutations_are_whole_and_seeded(self, count: int, seed: int) -> None:
        first, again = (list(islice(permutations(count, seed), 3)) for _ in range(2))
        assert first == again
        assert all(sorted(order) == list(range(count)) for order in first)

    def test_a_pass_has_another_order_than_the_last(self) -> None:
        a, b = islice(permutations(50, 0), 2)
        assert a != b

    def test_batches_are_consecutive(self) -> None:
        assert list(batches([5, 3, 1, 0], 2)) == [[5, 3], [1, 0]]


def test_profiles_support_the_percentiles_they_are_for() -> None:
    assert PROFILES["smoke"].queries == least_queries(50)
    assert PROFILES["ci"].queries == least_queries(90)
    assert PROFILES["release"].queries == least_queries(99)
    assert [PROFILES[name].gates for name in ("smoke", "ci", "release")] == [False, True, True]


class TestTokens:
    """Samples with these numbers of tokens, on a machine that takes 2 ms per token."""

    TOKENS = (4, 8, 40, 60)

    def bench(self) -> Bench:
        return Bench(lambda indices: sum(self.TOKENS[index] for index in indices) * SECOND // 500)

    def test_throughput_in_tokens_is_that_of_the_machine(self) -> None:
        bench = self.bench()
        windows = bench.offline(4, 2)
        tokens = in_units(throughput([windows]), self.TOKENS, "source_tokens")
        assert tokens.value == pytest.approx(500)
        assert tokens.low == tokens.high == pytest.approx(500)  # every window took the same time
        assert (tokens.n, tokens.unit) == (len(windows) * sum(self.TOKENS), "source tokens/s")

    def test_latency_by_length_is_that_of_the_samples(self) -> None:
        bench, profile = self.bench(), Profile(seconds=1, queries=44, processes=1)
        timing = SingleStream.run(bench.workload(4, seed=1), profile, conditions)
        assert timing.indices == [index for [index] in bench.ran]
        seconds = [ns / SECOND for ns in timing.latencies_ns]
        buckets = median_by_length([seconds], [timing.indices], self.TOKENS)
        shown = [(b.shortest, b.longest, b.median.value, b.median.n) for b in buckets]
        assert shown == [(1, 5, 0.008, 11), (6, 10, 0.016, 11), (31, 40, 0.08, 11), (51, 100, 0.12, 11)]

    def test_a_bucket_with_too_few_latencies_is_left_out(self) -> None:
        assert median_by_length([[0.1] * 10], [[0] * 10], [200]) == []
        [bucket] = median_by_length([[0.1] * 11], [[0] * 11], [200])
        assert (bucket.shortest, bucket.longest) == (101, None)


def test_memory_is_this_processs_not_that_of_the_one_that_started_it():
    ballast = np.ones(100_000_000)  # 800 MB
    own = peak_resident()
    told = "from harness.stages.measure import peak_resident; print(peak_resident())"
    found = int(subprocess.run([sys.executable, "-c", told], capture_output=True, check=True).stdout)
    assert own is not None and own > ballast.nbytes > found > 10_000_000
