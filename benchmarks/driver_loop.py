"""Measure the driver's processor time per shard in the Ray executor, with a thousand workers that only wait.

    python benchmarks/driver_loop.py [--workers 1000] [--seconds 10] [--rounds 3]

Exits with code 1 if the bound is missed.

The executor's loop, the resizing of its pool and Ray's calls are the real ones: sending, `ray.wait` over all
workers, fetching. The workers are one actor that keeps each shard for a while and answers with predictions.
Processor time is measured, so the figures hold on a busy machine too.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import defaultdict
from collections.abc import Set
from types import SimpleNamespace

import ray
from scale import trial

from harness.adapter import Resources
from harness.executors.ray import prediction
from harness.executors.ray.executor import RayExecutor
from harness.executors.ray.handles import ActorHandle
from harness.executors.ray.pool import ActorPool, PoolWorker
from harness.stages.shards import Execution, Outcome, Shard, ShardResult, Work
from harness.task import Prediction, Translation

SHARD_SAMPLES = 64
WORKERS_PER_NODE = 8
MAX_DRIVER_MS = 5.0  # of processor time per shard, over all threads of the driver


class WaitingWorkers:
    """Many workers in one actor; each of them works on one shard after another."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._turns: dict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def predict(self, worker: int, shard: Shard) -> list[Outcome]:
        async with self._turns[worker]:
            await asyncio.sleep(self._seconds * (0.5 + (shard.start // SHARD_SAMPLES * 0.618) % 1))
        ids = [str(index) for index in range(shard.start, shard.stop)]
        predictions: list[Prediction] = [Translation("a sentence of a few words") for _ in ids]
        return [ShardResult(shard, ids, predictions, {}, Execution("", "", "", 16))]


class SimulatedPool(ActorPool):
    """A pool whose workers start at once and never end."""

    actor: ActorHandle
    workers: int

    def resize(self, resources: Resources, size: int, excluded_nodes: Set[str]) -> None:  # noqa: ARG002
        for number in range(len(self.running) + len(self.starting), self.workers):
            method = SimpleNamespace(options=lambda name, number=number: self._method(name, number))
            worker = PoolWorker(SimpleNamespace(predict=method), resources)
            self.starting[ray.put(f"node {number // WORKERS_PER_NODE}")] = worker

    def _method(self, name: str, number: int) -> ActorHandle:
        call = self.actor.predict.options(name=name)
        return SimpleNamespace(remote=lambda shard, weights, limit: call.remote(number, shard))  # noqa: ARG005

    def close(self) -> None:
        """Do nothing: the workers are one actor, which ends with Ray."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=10.0, help="per shard on average")
    parser.add_argument("--rounds", type=int, default=3, help="shards per worker")
    arguments = parser.parse_args()
    size = arguments.workers * arguments.rounds * SHARD_SAMPLES
    prediction.ActorPool = SimulatedPool  # type: ignore[misc]
    with RayExecutor() as executor:
        SimulatedPool.workers = arguments.workers
        remote = ray.remote(max_concurrency=2 * arguments.workers, num_cpus=0)(WaitingWorkers)
        SimulatedPool.actor = remote.remote(arguments.seconds)
        process_start, thread_start, start = time.process_time(), time.thread_time(), time.monotonic()
        shards = sum(1 for _ in executor.predict([Work(trial("waiting", size), ((0, size),), SHARD_SAMPLES)]))
        seconds = time.monotonic() - start
        process_seconds = time.process_time() - process_start
        thread_seconds = time.thread_time() - thread_start
    driver_ms = 1e3 * process_seconds / shards
    print(f"{shards:,} shards, {arguments.workers:,} workers, {shards / seconds:.0f} shards/s")
    print(f"the driver's processor time: {driver_ms:.2f} ms per shard, bound {MAX_DRIVER_MS:g};", end=" ")
    main_ms, core_share = 1e3 * thread_seconds / shards, process_seconds / seconds
    print(f"of its main thread {main_ms:.2f}; {100 * core_share:.0f}% of a core")
    if driver_ms > MAX_DRIVER_MS:
        sys.exit("the bound is missed")


if __name__ == "__main__":
    main()
