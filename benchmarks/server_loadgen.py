"""Compare the server scenario's largest rate with closed forms, and with that of MLPerf's LoadGen.

    python benchmarks/server_loadgen.py
    pip install --no-deps --target build/loadgen mlcommons-loadgen
    PYTHONPATH=build/loadgen python benchmarks/server_loadgen.py --loadgen [--queries 5000] [--searches 4]

Exits with code 1 if a rate is more than 3% from the closed form, or the mean more than 5% from LoadGen's.

The closed forms are those of queues with exponential and constant service times, on a virtual clock. LoadGen,
an oracle and no dependency, sends queries in real time to a queue of its own threads, which forms batches by
the same rule. Batches sleep instead of computing. LoadGen judges single rates, between which the same search
chooses. Both do so at the 90th percentile: with 5,000 queries, two searches differ by about 2.8% (standard
deviation, on a virtual clock), at the 99th by more. So both search in turns several times, and the geometric
means are compared. A search takes about two minutes, and needs a machine on which a sleep ends in time.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from math import exp, factorial, fsum, log
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import numpy as np

from harness.scenarios.loop import Workload, fixed_queries
from harness.scenarios.server import Probe, probe_rate, resolved, search
from harness.scenarios.settings import ServerSettings

VIRTUAL_QUERIES = 1_000_000  # per rate
SETTINGS = ServerSettings(latency_ms=20, percentile=90, max_batch=4, max_wait_ms=2)
BASE_SECONDS, SAMPLE_SECONDS = 0.004, 0.001  # a batch takes the first, and the second per sample
FIRST_RATE, LEAST_RATE = 400.0, 10.0  # of the search in real time; at which it gives up
MAX_CLOSED, MAX_LOADGEN = 0.03, 0.05  # relative differences


def virtual_rate(service: Callable[[], float], target: float) -> float:
    """Return the largest rate of a worker that takes `service()` seconds per query, without batches."""
    now = 0

    def predict(query: list[int]) -> list[None]:
        nonlocal now
        now += round(service() * 1e9)
        return [None] * len(query)

    def wait(instant: int) -> None:
        nonlocal now
        now = instant

    return largest_rate(
        Workload(
            predict,
            lambda: None,
            fixed_queries(64, 1),
            np.random.default_rng(0),
            clock=lambda: now,
            server=ServerSettings(latency_ms=1e3 * target, max_batch=1, max_wait_ms=0),
            wait=wait,
        ),
        VIRTUAL_QUERIES,
    )


def sleeping_rate(queries: int, seed: int) -> float:
    """Return the largest rate of a model that sleeps."""

    def predict(query: list[int]) -> list[None]:
        time.sleep(BASE_SECONDS + SAMPLE_SECONDS * len(query))
        return [None] * len(query)

    generator = np.random.default_rng(seed)
    work = Workload(predict, lambda: None, fixed_queries(64, 1), generator, server=SETTINGS)
    return largest_rate(work, queries, FIRST_RATE)


def largest_rate(work: Workload, queries: int, first: float = 100.0) -> float:
    run = partial(probe_rate, work, queries=queries, answers={})
    return resolved([*search(run, first, lambda rate: rate > LEAST_RATE)])[0]


def md1_rate(service: float, target: float) -> float:
    """Return the rate at which 99% of the times in an M/D/1 system are within the target (Erlang 1909)."""
    low, high = 0.0, 1 / service
    while high - low > 1e-6 * high:
        rate, wait = (low + high) / 2, target - service
        lags = [(k, rate * (wait - k * service)) for k in range(int(wait / service) + 1)]
        within = (1 - rate * service) * fsum((-lag) ** k / factorial(k) * exp(lag) for k, lag in lags)
        low, high = (rate, high) if within > 0.99 else (low, rate)
    return low


class Sut:
    """A system under test for LoadGen: issued queries wait in a queue, from which a thread takes batches."""

    def __init__(self, loadgen: Any) -> None:
        self._loadgen = loadgen
        self._queue: deque[tuple[float, int]] = deque()
        self._changed = threading.Condition()
        threading.Thread(target=self._serve, daemon=True).start()

    def issue(self, samples: list[Any]) -> None:
        with self._changed:
            self._queue.extend((time.perf_counter(), sample.id) for sample in samples)
            self._changed.notify()

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not self._queue:
                    self._changed.wait()
                until = self._queue[0][0] + SETTINGS.max_wait_ms / 1e3
                while len(self._queue) < SETTINGS.max_batch and (left := until - time.perf_counter()) > 0:
                    self._changed.wait(left)
                batch = [self._queue.popleft()[1] for _ in range(min(SETTINGS.max_batch, len(self._queue)))]
            time.sleep(BASE_SECONDS + SAMPLE_SECONDS * len(batch))
            responses = [self._loadgen.QuerySampleResponse(query, 0, 0) for query in batch]
            self._loadgen.QuerySamplesComplete(responses)


def loadgen_rate(queries: int) -> float:
    """Return the largest rate of the same model at which LoadGen calls its result valid."""
    loadgen = importlib.import_module("mlperf_loadgen")
    system = Sut(loadgen)
    sut = loadgen.ConstructSUT(system.issue, lambda: None)
    qsl = loadgen.ConstructQSL(64, 64, lambda _: None, lambda _: None)

    def run(rate: float) -> Probe:
        settings = loadgen.TestSettings()
        settings.scenario, settings.mode = loadgen.TestScenario.Server, loadgen.TestMode.PerformanceOnly
        settings.server_target_qps = rate
        settings.server_target_latency_ns = round(SETTINGS.latency_ms * 1e6)
        settings.server_target_latency_percentile = SETTINGS.percentile / 100
        settings.min_duration_ms, settings.min_query_count = 0, queries
        with tempfile.TemporaryDirectory() as folder:
            logs = loadgen.LogSettings()
            logs.log_output.outdir, logs.log_output.copy_summary_to_stdout = folder, False
            loadgen.StartTestWithLogSettings(sut, qsl, settings, logs)
            summary = (Path(folder) / "mlperf_log_summary.txt").read_text()
        met = "Result is : VALID" in summary
        return Probe(rate=rate, met=met, bound_ns=None, queries=queries, arrivals_ns=[], latencies_ns=[])

    return resolved([*search(run, FIRST_RATE, lambda rate: rate > LEAST_RATE)])[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--loadgen", action="store_true", help="compare with LoadGen in real time instead")
    parser.add_argument("--queries", type=int, default=5_000, help="per rate in real time")
    parser.add_argument("--searches", type=int, default=4, help="in real time, of either program")
    arguments = parser.parse_args()
    if arguments.loadgen:
        pairs = []
        for seed in range(arguments.searches):
            pairs.append((sleeping_rate(arguments.queries, seed), loadgen_rate(arguments.queries)))
            print("found {:.2f}/s, LoadGen {:.2f}/s".format(*pairs[-1]), file=sys.stderr)
        found, expected = (geometric_mean(rates) for rates in zip(*pairs, strict=True))
        rates = {"sleeping model": (found, expected)}
        limit = MAX_LOADGEN
    else:
        generator = np.random.default_rng(1)
        rates = {
            "M/M/1": (virtual_rate(lambda: generator.exponential(0.01), 0.25), 100 - log(100) / 0.25),
            "M/D/1": (virtual_rate(lambda: 0.01, 0.065), md1_rate(0.01, 0.065)),
        }
        limit = MAX_CLOSED
    if not all(min(pair) for pair in rates.values()):
        sys.exit("no rate met the target: the machine is too busy")
    differences = {name: found / expected - 1 for name, (found, expected) in rates.items()}
    for name, (found, expected) in rates.items():
        print(f"{name:15} found {found:7.2f}/s, expected {expected:7.2f}/s: {differences[name]:+.1%}")
    sys.exit(any(abs(difference) > limit for difference in differences.values()))


if __name__ == "__main__":
    main()
