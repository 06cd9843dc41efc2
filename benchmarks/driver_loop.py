"""What the Ray executor's own process does for each shard, with a thousand workers that only wait.

    python benchmarks/driver_loop.py [--workers 1000] [--seconds 10] [--rounds 3]

Ends with exit code 1 where the bound is missed.
The executor's loop, its staffing and Ray's calls are the real ones: sending, `ray.wait` over all workers,
fetching. The workers are one actor that keeps each shard for a while and answers with its predictions; times
are those of the driver's processor, so that they hold on a busy machine too.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import defaultdict
from collections.abc import Set
from types import SimpleNamespace
from typing import Any

import ray
from scale import trial

from harness.adapter import Resources
from harness.executors.ray import executor as executors
from harness.executors.ray.pool import Member, Pool
from harness.stages.shards import Made, Outcome, Shard, ShardResult, Work
from harness.task import Prediction, Translation

SIZE = 64  # samples a shard
ON_A_NODE = 8
MOST_DRIVING = 5.0  # ms of the driver's processor a shard, all of its threads


class Waiting:
    """Many workers: each does its shards one after the other."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._turns: dict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def predict(self, worker: int, shard: Shard) -> list[Outcome]:
        async with self._turns[worker]:
            await asyncio.sleep(self._seconds * (0.5 + (shard.start // SIZE * 0.618) % 1))
        ids = [str(index) for index in range(shard.start, shard.stop)]
        predictions: list[Prediction] = [Translation("a sentence of a few words") for _ in ids]
        return [ShardResult(shard, ids, predictions, {}, Made("", "", "", 16))]


class Pretended(Pool):
    """A pool whose workers are there at once, and never end."""

    actor: Any
    workers: int

    def resize(self, kind: Resources, number: int, avoided: Set[str]) -> None:  # noqa: ARG002
        for worker in range(len(self.running) + len(self.starting), self.workers):
            method = SimpleNamespace(options=lambda name, worker=worker: self._named(name, worker))
            member = Member(SimpleNamespace(predict=method), kind)
            self.starting[ray.put(f"node {worker // ON_A_NODE}")] = member

    def _named(self, name: str, worker: int) -> Any:
        call = self.actor.predict.options(name=name)
        return SimpleNamespace(remote=lambda shard, weights, most: call.remote(worker, shard))  # noqa: ARG005

    def close(self) -> None:
        """They are one actor, which ends with Ray."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=10.0, help="a shard takes on average")
    parser.add_argument("--rounds", type=int, default=3, help="shards of each worker")
    arguments = parser.parse_args()
    size = arguments.workers * arguments.rounds * SIZE
    executors.Pool = Pretended  # type: ignore[misc]
    with executors.RayExecutor() as executor:
        Pretended.workers = arguments.workers
        remote = ray.remote(max_concurrency=2 * arguments.workers, num_cpus=0)(Waiting)
        Pretended.actor = remote.remote(arguments.seconds)
        before, main_before, start = time.process_time(), time.thread_time(), time.monotonic()
        done = sum(1 for _ in executor.predict([Work(trial("waiting", size), ((0, size),), SIZE)]))
        lasted, cpu, main_thread = (
            time.monotonic() - start,
            time.process_time() - before,
            time.thread_time() - main_before,
        )
    driving = 1e3 * cpu / done
    print(f"{done:,} shards, {arguments.workers:,} workers, {done / lasted:.0f} shards/s")
    print(f"the driver's processor: {driving:.2f} ms a shard, at most {MOST_DRIVING:g} asked;", end=" ")
    print(f"of which its own thread {1e3 * main_thread / done:.2f}; {100 * cpu / lasted:.0f}% of a core")
    if driving > MOST_DRIVING:
        sys.exit("the bound is missed")


if __name__ == "__main__":
    main()
