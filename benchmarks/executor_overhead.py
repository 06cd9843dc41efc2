"""Measure the Ray executor's overhead: start-up, time per shard beyond Ray's own, and how busy workers are.

    python benchmarks/executor_overhead.py [--rounds 3]

Exits with code 1 if a bound is missed.

The model sleeps instead of computing, so the figures hold on a busy machine too. A worker counts as busy from
the start to the end of each shard, as recorded by the worker itself.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import median

import ray
import yaml

from harness.executors.ray.executor import RayExecutor
from harness.executors.ray.handles import ActorHandle, ObjectRef
from harness.executors.ray.pool import Worker
from harness.stages.shards import Outcome, Shard, ShardResult, Work
from harness.suite.loading import load_suite
from harness.suite.plan import plan
from harness.trial import Trial

THIRD_PARTY = str(Path(__file__).parent.parent / "tests" / "thirdparty")
SHARDS = 1000
SHARD_SAMPLES = 4
MAX_START_SECONDS = 15.0  # from the driver's start to its first shard
MAX_OVERHEAD_MS = 5.0  # per shard, beyond Ray's own
MIN_BUSY = 0.9  # of the time of two workers


def trials(folder: Path, delays: dict[str, float]) -> list[Trial]:
    """Return trials of SHARDS shards, with the given seconds per sample."""
    entries = {
        name: {"adapter": "fake-translation", "batch_size": SHARD_SAMPLES, "options": {"delay": delay}}
        for name, delay in delays.items()
    }
    samples = SHARDS * SHARD_SAMPLES
    suite = {
        "name": "overhead",
        "datasets": {"few": {"dataset": "phrases", "options": {"size": samples, "max_tokens": 8}}},
        "adapters": entries,
        "benchmarks": {"words": {"dataset": "few", "adapters": list(entries), "metrics": ["bleu"]}},
    }
    path = folder / "overhead.yaml"
    path.write_text(yaml.safe_dump(suite))
    return list(plan(load_suite(path)).trials)


def work(trial: Trial) -> Work:
    return Work(trial, ((0, trial.spec.size),), SHARD_SAMPLES)


def bare_loop(trial: Trial, workers: list[ActorHandle]) -> Iterator[Outcome]:
    """Make the same calls in a bare loop with two shards in flight per worker, for Ray's own time."""
    pending = work(trial).shards()
    in_flight: dict[ObjectRef, ActorHandle] = {}

    def send(worker: ActorHandle) -> None:
        shard: Shard | None = next(pending, None)
        if shard is not None:
            in_flight[worker.predict.remote(shard, [], SHARD_SAMPLES)] = worker

    for worker in [*workers, *workers]:
        send(worker)
    while in_flight:
        for future in ray.wait(list(in_flight), timeout=1)[0]:
            yield from ray.get(future)
            send(in_flight.pop(future))


def both_running(results: list[ShardResult]) -> tuple[float, float]:
    """Return seconds per shard and the busy share of two workers, while both were running.

    The time before the second worker has started is start-up, not overhead.
    """
    spans = sorted(
        (
            datetime.fromisoformat(r.execution.started).timestamp(),
            datetime.fromisoformat(r.execution.finished).timestamp(),
        )
        for r in results
    )
    overlaps = [max(a[0], b[0]) for a, b in pairwise(spans) if b[0] < a[1]]
    begin, end = overlaps[0], overlaps[-1]
    inside = [(max(start, begin), min(stop, end)) for start, stop in spans if start < end and stop > begin]
    return (end - begin) / len(inside), sum(stop - start for start, stop in inside) / (2 * (end - begin))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    sys.path.insert(0, THIRD_PARTY)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [THIRD_PARTY, os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory() as name:
        empty, slow = trials(Path(name), {"empty": 0.0, "slow": 0.01})
        start = time.monotonic()
        with RayExecutor(max_workers=2) as executor:
            outcomes = executor.predict([work(empty)])
            next(outcomes)
            first = time.monotonic() - start
            list(outcomes)
            print(f"driver start to the first shard, local Ray started: {first:.1f} s,", end=" ")
            print(f"bound {MAX_START_SECONDS:g}")

            workers = [ray.remote(num_cpus=1)(Worker).remote() for _ in range(2)]
            ray.get([worker.ready.remote() for worker in workers])
            list(bare_loop(empty, workers))  # loads the model
            ray_seconds = []
            for _ in range(rounds):
                begin = time.monotonic()
                list(bare_loop(empty, workers))
                ray_seconds.append((time.monotonic() - begin) / SHARDS)
            for worker in workers:
                ray.kill(worker)
            shard_seconds, busy = [], []
            for _ in range(rounds):
                results = list(executor.predict([work(empty)]))
                shard_seconds.append(both_running(results)[0])
            for _ in range(rounds):
                results = list(executor.predict([work(slow)]))
                busy.append(both_running(results)[1])
            overhead_ms = 1e3 * (median(shard_seconds) - median(ray_seconds))
            print(f"a shard with nothing to do, two workers: {1e3 * median(shard_seconds):.2f} ms; the same")
            print(f"calls in a bare Ray loop {1e3 * median(ray_seconds):.2f} ms;", end=" ")
            print(f"the executor adds {overhead_ms:.2f} ms, bound {MAX_OVERHEAD_MS:g}")
            rates = ", ".join(f"{100 * share:.1f}" for share in busy)
            print(f"two workers, shards of {1e3 * SHARD_SAMPLES * 0.01:.0f} ms: busy", end=" ")
            print(f"{100 * median(busy):.1f}% ({rates}), bound {100 * MIN_BUSY:g}%")
    if first > MAX_START_SECONDS or overhead_ms > MAX_OVERHEAD_MS or median(busy) < MIN_BUSY:
        sys.exit("a bound is missed")


if __name__ == "__main__":
    main()
