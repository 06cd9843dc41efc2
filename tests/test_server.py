"""The server scenario on a virtual clock: queues with closed forms, hand arithmetic, failures."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from math import comb, exp, factorial, fsum, log
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from raw_timings import SETTINGS, conditions
from small_suite import document, planned, run_suite
from test_axes import CountingExecutor

from harness.compare.accuracy import RunPair, RunSide
from harness.compare.speed import speed_changes
from harness.decisions.policy import GatePolicy
from harness.driver.answers import with_checked_answers
from harness.errors import UsageError
from harness.files import write_record
from harness.rundir.speed import read_timings, timings_path
from harness.rundir.store import TrialDirectory
from harness.scenarios.figures import least_queries, rank_of_bound
from harness.scenarios.loop import Workload, fixed_queries, wait_until
from harness.scenarios.scenario import ProcessTiming
from harness.scenarios.server import Probe, Server, ServerProcess, probe_rate, resolved, search, serve
from harness.scenarios.settings import PROFILES, Profile, ServerSettings
from harness.task import Prediction, Translation

MS = 1_000_000
QUICK = Profile(0.05, 11, 1, passes=1, warmup_seconds=0, warmup_cap=0.1, gates=False)


class Queue:
    """A model on a virtual clock that only waiting and answering move; n answers take `service(n)` ns."""

    def __init__(
        self,
        service: Callable[[int], float],
        server: ServerSettings = ServerSettings(),
        check: Callable[[], str] = lambda: "",
    ) -> None:
        self.now = 0
        self.batches: list[tuple[list[int], int]] = []
        """Samples of each batch, and when it started."""
        self._service = service
        self.work = Workload(
            self._predict,
            lambda: None,
            fixed_queries(8, 1),
            np.random.default_rng(0),
            clock=lambda: self.now,
            check=check,
            server=server,
            wait=self.wait,
        )

    def wait(self, instant: int) -> None:
        self.now = instant

    def _predict(self, batch: list[int]) -> list[Prediction]:
        self.batches.append((batch, self.now))
        self.now += round(self._service(len(batch)))
        return [Translation(str(index)) for index in batch]

    def serve(self, arrivals_ms: Sequence[int], tolerated: int = 0) -> list[int]:
        """Return the latencies in ms of queries 0, 1, 2 …"""
        arrivals = [at * MS for at in arrivals_ms]
        latencies, _ = serve(self.work, arrivals, range(len(arrivals)), tolerated)
        return [ns // MS for ns in latencies]

    def largest_rate(self, queries: int, start: float = 1.0) -> float:
        """Return the largest rate that meets the target, with Poisson arrivals."""
        low, high = resolved(
            [*search(lambda rate: probe_rate(self.work, rate, queries, {}), start, lambda _: True)]
        )
        assert low < high <= 1.02 * low
        return low

    def run(self, profile: Profile) -> ServerProcess:
        return Server.run(self.work, profile, conditions)


def single(latency_ms: float) -> ServerSettings:
    """Return the settings of a queue without batches."""
    return ServerSettings(latency_ms=latency_ms, max_batch=1, max_wait_ms=0)


class TestEarlyStopping:
    @pytest.mark.parametrize("percentile", [50, 90, 95])
    def test_the_rank_of_the_bound_is_exact(self, percentile: int) -> None:
        """If more than 1 − p of all queries were above the bound, at most t of n above it are rare."""

        def luck(n: int, slower: int) -> Fraction:
            p = Fraction(100 - percentile, 100)
            return sum((comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(slower + 1)), Fraction(0))

        for n in (1, 2, 10, 11, 63, 64, 129, 130):
            ranks = [slower for slower in range(1, n) if luck(n, slower) <= Fraction(1, 100)]
            assert rank_of_bound(percentile, n) == max(ranks, default=0)

    @pytest.mark.parametrize(
        ("percentile", "queries"),
        [(50, 11), (90, 64), (95, 130), (97, 219), (99, 662), (99.9, 6_636), (99, 838), (99, 12_571)],
    )
    def test_the_rank_rises_with_the_number_of_queries_that_mlperf_states(
        self, percentile: float, queries: int
    ) -> None:
        """h(t) + t for t = 1, but the last two are for t = 2 and t = 100."""
        rank = {838: 2, 12_571: 100}.get(queries, 1)
        assert [rank_of_bound(percentile, n) for n in (queries - 1, queries)] == [rank - 1, rank]
        assert least_queries(percentile) == queries or rank > 1

    def test_the_bound_is_too_low_in_one_percent_of_samples(self) -> None:
        """Uniform latencies: the bound of p90 must be at least .9, but in about 1 of 100 samples."""
        latencies = np.sort(np.random.default_rng(0).random((20_000, 500)), axis=1)
        below = (latencies[:, -rank_of_bound(90, 500)] < 0.9).mean()
        assert 0.005 < below <= 0.0115


class TestServe:
    def test_a_batch_waits_until_it_is_full_or_its_oldest_query_has_waited_long_enough(self) -> None:
        queue = Queue(lambda size: 10 * MS, ServerSettings(max_batch=3, max_wait_ms=4))
        latencies = queue.serve([0, 1, 2, 3, 20, 30, 31, 32, 33, 34])
        # Full at 2; query 3 waited while the first batch ran; 4 waits alone until 24; 5 to 7 are there at 34.
        batches = [([0, 1, 2], 2), ([3], 12), ([4], 24), ([5, 6, 7], 34), ([8, 9], 44)]
        assert queue.batches == [(queries, at * MS) for queries, at in batches]
        assert latencies == [12, 11, 10, 19, 14, 14, 13, 12, 21, 20]

    @pytest.mark.parametrize("tolerated", [0, 1, 5])
    def test_ends_with_the_query_that_is_one_too_many(self, tolerated: int) -> None:
        """Each query waits 1 ms longer than the one before, and the first takes 10 ms."""
        queue = Queue(lambda size: 10 * MS, single(100))
        assert queue.serve(range(0, 9000, 9), tolerated) == [*range(10, 102 + tolerated)]

    def test_a_probe_meets_the_target_if_the_bound_does(self) -> None:
        """838 queries bound p99 by the second largest latency."""
        latencies = [10] * 836 + [40, 70]

        def met(target: float) -> bool:
            times = iter(latencies)
            queue = Queue(lambda size: next(times) * MS, single(target))
            return probe_rate(queue.work, 1e-3, 838, {}).met  # too slow for queues

        assert met(40) and not met(39.9)

    def test_waiting_in_real_time_never_ends_early(self) -> None:
        import time

        instant = time.perf_counter_ns() + 3 * MS
        wait_until(instant)
        assert time.perf_counter_ns() >= instant


class TestSearch:
    @pytest.mark.parametrize("start", [1.0, 10_000.0])
    def test_mm1_within_three_percent_of_the_closed_form(self, start: float) -> None:
        """The time in an M/M/1 system exceeds t with probability exp(−(μ − λ)·t)."""
        generator = np.random.default_rng(1)
        queue = Queue(lambda _: generator.exponential(10 * MS), single(250))
        rate = queue.largest_rate(30_000, start)
        assert rate == pytest.approx(100 - log(100) / 0.25, rel=0.03)
        assert 100 - log(100) / 0.25 == pytest.approx(81.58, abs=0.005)

    def test_md1_within_three_percent_of_the_closed_form(self) -> None:
        """P(wait ≤ x) = (1 − ρ) Σ (−λ(x − kD))^k / k! · exp(λ(x − kD)), by Erlang (1909)."""

        def within(rate: float, service: float, wait: float) -> float:
            lags = [(k, rate * (wait - k * service)) for k in range(int(wait / service) + 1)]
            return (1 - rate * service) * fsum((-lag) ** k / factorial(k) * exp(lag) for k, lag in lags)

        rate = Queue(lambda _: 10 * MS, single(65)).largest_rate(30_000)
        low, high = 1.0, 99.0
        while high - low > 1e-6:
            middle = (low + high) / 2
            low, high = (middle, high) if within(middle, 0.01, 0.055) > 0.99 else (low, middle)
        assert rate == pytest.approx(low, rel=0.03)

    def test_batches_raise_the_rate_that_one_query_at_a_time_cannot_reach(self) -> None:
        """A batch takes 8 ms, whatever its size: 125 queries/s singly, up to 2,000 in sixteens.

        In the 10 s of 20,000 queries, a rate that is .5% too high lets a queue grow to the target of 50 ms.
        """
        alone = Queue(lambda _: 8 * MS, single(50)).largest_rate(5_000)
        batched = Queue(lambda _: 8 * MS, ServerSettings(latency_ms=50)).largest_rate(20_000)
        assert alone < 125 < 1_500 < batched < 2_010

    def test_ends_where_no_probe_is_affordable(self) -> None:
        def run(rate: float) -> Probe:
            return Probe(rate=rate, met=rate < 30, bound_ns=None, queries=1, arrivals_ns=[], latencies_ns=[])

        allowed = iter([True, True, True, False])
        probes = [*search(run, 100.0, lambda _: next(allowed))]
        assert [probe.rate for probe in probes] == [100, 50, 25]
        assert resolved(probes) == (25, 50)


def served(*processes: ServerProcess, server: ServerSettings = ServerSettings()) -> Server:
    return Server(
        scenario="server",
        batch_size=1,
        processes=processes,
        environment="env1",
        settings=SETTINGS.model_copy(update={"server": server}),
        samples=["a"] * 8,
    )


class TestScenario:
    def test_finds_the_rate_by_itself_and_keeps_the_raw_times_of_accepted_probes(self) -> None:
        profile = Profile(seconds=30, samples=662, processes=1)
        process = Queue(lambda size: (5 + size) * MS).run(profile)
        low, high = resolved(process.probes)
        assert 500 < low < high <= 1.02 * low, "at most 16 samples per 21 ms"
        accepted = [probe for probe in process.probes if probe.met]
        assert all(len(probe.arrivals_ns) == len(probe.latencies_ns) == probe.queries for probe in accepted)
        assert all(probe.queries >= 30 * probe.rate for probe in accepted)
        assert process.outputs == {index: Translation(str(index)) for index in range(8)}
        figures = served(process, process, process).summarise()
        assert figures.throughput is not None
        assert figures.throughput.value == pytest.approx(low)
        assert process.seconds_per_sample(0.1) == 1 / low, "a higher rate is a shorter time"
        bound = figures.latency["p99"]
        assert bound is not None and bound.value is not None and bound.value <= 0.1
        assert figures.notes == []

    def test_a_rate_above_the_throughput_is_not_taken_for_a_short_queue(self) -> None:
        """100 samples/s at most; in the .3 s of `smoke`, even 300/s would wait for less than a second."""
        settings = ServerSettings(latency_ms=400, percentile=50, max_batch=1)
        process = Queue(lambda _: 10 * MS, settings).run(PROFILES["smoke"])
        assert 0 < resolved(process.probes)[0] < 110

    def test_a_short_budget_is_kept_and_what_it_resolved_is_stated(self) -> None:
        queue = Queue(lambda size: (10 + 3 * size) * MS)
        process = queue.run(PROFILES["smoke"])
        assert queue.now < 11_000 * MS
        notes = served(process).summarise().notes
        assert len(notes) == 1
        assert notes[0].startswith("the time was too short to find the largest rate within 2%: the smallest")

    @pytest.mark.parametrize(
        ("service_ms", "message"),
        [
            (200, r"no rate met p99 ≤ 100 ms; .* samples/s were not tried, because 662 queries exceed"),
            (20_000, r"no rate met p99 ≤ 100 ms; 0\.8 samples/s were not tried"),
        ],
    )
    def test_a_model_that_is_too_slow_has_no_rate_but_a_reason(self, service_ms: int, message: str) -> None:
        process = Queue(lambda _: service_ms * MS).run(PROFILES["ci"])
        (reason,) = process.reasons
        assert re.search(message, reason), reason
        assert served(process).summarise().throughput is None
        assert process.outputs == {}

    def test_a_model_that_fails_under_load_has_a_reason(self) -> None:
        def service(size: int) -> float:
            if size > 4:
                raise RuntimeError(f"out of slots for {size}")
            return size * MS

        process = Queue(service).run(PROFILES["ci"])
        assert process.reasons == ["the model failed after 0 rates: RuntimeError: out of slots for 5"]

    def test_a_disturbed_probe_that_failed_is_repeated_once(self) -> None:
        checks: list[str] = []

        def check() -> str:
            checks.append("a neighbour")
            return checks[-1]

        process = Queue(lambda _: 8 * MS, check=check).run(PROFILES["ci"])
        met = [probe.met for probe in process.probes]
        least = met.count(True) + 2 * met.count(False)
        assert least <= len(checks) <= 2 * len(met), "one that met the target may have been the second"
        assert len({probe.rate for probe in process.probes}) == len(process.probes)
        low, high = resolved(process.probes)
        assert 0 < low < high < float("inf"), "a machine that is never quiet does not leave it empty"

    def test_rates_for_different_targets_are_not_compared(self, tmp_path: Path) -> None:
        suite = document(4, ok={})
        suite["benchmarks"]["words"]["speed"] = ["server"]
        with pytest.raises(UsageError, match=r"speed\.server\.latency_ms: Input should be greater than 0"):
            planned(tmp_path, suite | {"speed": {"server": {"latency_ms": 0}}})
        process = Queue(lambda _: 8 * MS).run(PROFILES["ci"])
        requested = SETTINGS.model_copy(update={"server": ServerSettings(latency_ms=50)})
        assert served(process).satisfies(SETTINGS)
        assert not served(process).satisfies(requested)


class TestAnswers:
    def test_a_run_scores_the_answers_under_load(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(cast(dict[str, Profile], PROFILES), "smoke", QUICK)
        monkeypatch.setattr("harness.scenarios.server.LEAST_BUDGET", 0.5)
        monkeypatch.setattr("harness.scenarios.server.TARGETS", 0)
        suite = document(6, ok={"batch_size": 2})
        suite["benchmarks"]["words"]["speed"] = ["server"]
        suite["speed"] = {"samples": 4, "threads": 1, "server": {"latency_ms": 200, "percentile": 50}}
        results = run_suite(tmp_path, suite, executor=CountingExecutor)
        (trial,) = results.trials
        folder = tmp_path / "run" / "trials" / trial.id
        timings = read_timings(folder, "server")
        assert isinstance(timings, Server)
        record, (process,) = trial.speed["server"], timings.processes
        assert process.answers is not None and process.answers.changed == 0
        assert process.answers.samples == 4
        assert set(process.answers.figures) == {"bleu", "chrf"}
        assert all(stored == loaded for stored, loaded in process.answers.figures.values())
        assert record.throughput is not None
        assert record.notes[-1].startswith("4 answers under load, 0 unlike the predictions: bleu ")
        # Only rates for the same target are compared.
        valid = record.model_copy(update={"valid": True, "reasons": []})
        side = RunSide(trial.model_copy(update={"speed": {"server": valid}}), TrialDirectory(folder))
        settings = timings.settings.model_copy(update={"server": ServerSettings(latency_ms=50)})
        shutil.copytree(folder, tmp_path / "other")
        write_record(
            timings_path(tmp_path / "other", "server"), timings.model_copy(update={"settings": settings})
        )
        environments = results.environments
        same, other = (
            next(iter(speed_changes(RunPair(side, head), environments, environments, GatePolicy())))
            for head in (side, replace(side, directory=TrialDirectory(tmp_path / "other")))
        )
        assert (same.name, same.base, same.verdict) == ("server rate", record.throughput, "not decided")
        assert other.verdict == "incomparable"
        assert other.reason.startswith("server differs: latency_ms=200.0 percentile=50.0")

    def test_worse_answers_are_a_reason_and_rounding_is_not(self, tmp_path: Path) -> None:
        suite = document(6, ok={})
        run_suite(tmp_path, suite)
        (trial,) = planned(tmp_path, suite).trials
        stored = TrialDirectory(tmp_path / "run" / "trials" / trial.id)
        predictions = stored.predictions.read_at("translation", range(4))
        process = Queue(lambda _: 8 * MS).run(PROFILES["ci"])

        def check(outputs: dict[int, object]) -> ProcessTiming:
            timing = process.model_copy(update={"outputs": outputs})
            return with_checked_answers(timing, trial, stored, ())

        same = check(dict(predictions))
        assert same.answers is not None and not same.reasons
        assert (same.answers.samples, same.answers.changed) == (4, 0)
        worse = check({**predictions, 1: Translation("x"), 2: Translation("x")})
        assert worse.answers is not None and worse.answers.changed == 2
        assert [reason.partition(":")[0] for reason in worse.reasons] == ["answers under load are worse"] * 2
        before, after = worse.answers.figures["bleu"]
        assert before is not None and after is not None and after < before
        none = check({**predictions, 1: None})
        assert none.answers is None
        (reason,) = none.reasons
        assert reason.endswith("the adapter returned NoneType, translation requires Translation")
