"""Measure what the timed loop adds, and compare its times with those of a bare loop and of torch's own timer.

    python benchmarks/timed_loop.py [--rounds 20]

Exits with code 1 if a bound is missed. The rivals take turns, so other load affects both. Intervals are over
rounds: 95%, signed ranks.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch.utils.benchmark import Timer

from harness.scenarios.loop import Workload, fixed_queries, window_length
from harness.scenarios.offline import Offline
from harness.scenarios.scenario import LOW, Conditions, TimedOn
from harness.scenarios.settings import Profile, SpeedSettings
from harness.scenarios.single_stream import SingleStream
from harness.scenarios.warm_up import warm_up
from harness.stages.measure import Bench, load_bench
from harness.statistics.ranks import location
from harness.suite.loading import load_suite
from harness.suite.plan import plan
from harness.task import Sample

SAMPLES = 16
MAX_NULL_US = 20.0  # per query
MAX_SHARE, MAX_MS = 0.01, 0.1  # beyond a bare loop
ROUND = Profile(seconds=0.3, samples=1, processes=1, warmup_seconds=0.5, warmup_cap=5)
SETTINGS = SpeedSettings(profile="ci", threads=1, samples=SAMPLES, exclusive="node")


class Null:
    """An adapter that answers at once."""

    def predict(self, samples: list[Sample]) -> list[None]:
        return [None] * len(samples)


def workload(predict: Callable[[list[int]], object], size: int) -> tuple[Workload, Callable[[], Conditions]]:
    """Warm up, and return a workload with windows as the product makes them, and its conditions."""
    queries = fixed_queries(SAMPLES, size)

    def run_pass() -> int:
        for query in queries:
            predict(query)
        return len(queries)

    warm = warm_up(run_pass, time.perf_counter_ns, ROUND)
    start = time.perf_counter()
    run_pass()
    window = window_length(time.perf_counter() - start, len(queries))
    here = TimedOn(node="", reserved={}, started="", finished="", foreign_cores=0)
    conditions = Conditions(batch_size=size, warm_up=warm, timed_on=here, reasons=[])
    return Workload(predict, lambda: None, queries, np.random.default_rng(0), window), lambda: conditions


def null_query() -> float:
    """Return the microseconds of a query of an adapter that does nothing, reading the clock included."""
    adapter: Any = Null()
    bench = Bench(adapter, [Sample("0", None)] * SAMPLES, lambda: None, 1, "", SETTINGS)
    work, conditions = workload(bench.predict, 1)
    timing = SingleStream.run(work, ROUND, conditions)
    return 1e6 * timing.seconds_per_sample(0.5)


def bare_seconds(predict: Callable[[list[int]], object]) -> float:
    """Return the median over samples of the low quantile of their latencies, without the product's loop."""
    latencies: list[list[float]] = [[] for _ in range(SAMPLES)]
    end = time.perf_counter() + ROUND.seconds
    while time.perf_counter() < end or len(latencies[0]) < ROUND.passes:
        for index, times in enumerate(latencies):
            start = time.perf_counter_ns()
            predict([index])
            times.append((time.perf_counter_ns() - start) / 1e9)
    return float(np.median([np.quantile(times, LOW) for times in latencies]))


def against_bare_loop(model: str, rounds: int) -> tuple[str, bool]:
    """Compare single-stream times of a shipped model with those of a bare loop."""
    trials = plan(load_suite(Path("suites/quickstart.yaml"))).trials
    trial = next(trial for trial in trials if model in trial.name)
    bench = load_bench(trial, SETTINGS)
    work, conditions = workload(bench.predict, 1)

    def bare(indices: list[int]) -> object:
        return bench.adapter.predict([bench.samples[index] for index in indices])

    def product() -> float:
        return SingleStream.run(work, ROUND, conditions).seconds_per_sample(LOW)

    ours, theirs = _rounds(product, lambda: bare_seconds(bare), rounds)
    text, low, _ = _ratio(ours, theirs)
    seconds = float(np.median(theirs))
    allowed = max(MAX_SHARE, MAX_MS / 1e3 / seconds)
    return f"{model}: {1e3 * seconds:.2f} ms in a bare loop; {text}; bound {allowed:.1%}", low - 1 <= allowed


def against_torchs_timer(rounds: int) -> tuple[str, bool]:
    """Compare offline times of a torchvision model with the median of torch.utils.benchmark.

    Both run the same queries in turn: one query again and again finds its images in a smaller cache.
    """
    network, size = torchvision.models.resnet18().eval(), 4
    images = torch.randn(SAMPLES, 3, 128, 128, generator=torch.Generator().manual_seed(0))

    def predict(indices: list[int]) -> object:
        with torch.inference_mode():
            return network(images[indices])

    work, conditions = workload(predict, size)
    names = {"predict": predict, "queries": work.queries}
    timer = Timer("for query in queries: predict(query)", globals=names, num_threads=1)

    def product() -> float:
        return Offline.run(work, ROUND, conditions).seconds_per_sample(0.5)

    ours, theirs = _rounds(
        product, lambda: timer.blocked_autorange(min_run_time=ROUND.seconds).median / SAMPLES, rounds
    )
    text, low, high = _ratio(ours, theirs)
    agree = low <= 1 + MAX_SHARE and high >= 1 - MAX_SHARE
    milliseconds = 1e3 * np.median(theirs)
    return (
        f"resnet18, batches of {size}: {milliseconds:.2f} ms/sample by torch.utils.benchmark; {text}",
        agree,
    )


def _rounds(
    ours: Callable[[], float], theirs: Callable[[], float], rounds: int
) -> tuple[list[float], list[float]]:
    """Return the times of both in rounds whose order alternates."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for side in (0, 1) if number % 2 else (1, 0):
            times[side].append((ours, theirs)[side]())
    return times


def _ratio(ours: list[float], theirs: list[float]) -> tuple[str, float, float]:
    estimate = location(np.log(ours) - np.log(theirs))
    assert estimate.low is not None and estimate.high is not None, "six rounds are needed"
    value, low, high = np.exp([estimate.value, estimate.low, estimate.high])
    return f"timed loop / rival {value:.4f} [{low:.4f}, {high:.4f}]", float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    null = null_query()
    print(f"an adapter that does nothing: {null:.2f} µs a query, bound {MAX_NULL_US:g}")
    passed = [null <= MAX_NULL_US]
    for text, within in (
        against_bare_loop("yolo", rounds),
        against_bare_loop("attention-phrases[beam=1]", rounds),
        against_torchs_timer(rounds),
    ):
        print(text)
        passed.append(within)
    if not all(passed):
        sys.exit("a bound is missed")


if __name__ == "__main__":
    main()
