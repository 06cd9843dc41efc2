"""What the Ray executor adds: start-up, time a shard beyond Ray's own, and how busy two workers are kept.

    python benchmarks/executor_overhead.py [--rounds 3]

Ends with exit code 1 where a bound is missed.
The model sleeps instead of computing, as a driver sees one that runs on a GPU; so the figures hold on a busy
machine too. Workers are busy from the start to the end of each shard as they stamp it themselves.
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
from typing import Any

import ray
import yaml

from harness.executors.ray.executor import RayExecutor
from harness.executors.ray.pool import Worker
from harness.stages.shards import Shard, ShardResult, Work
from harness.suite.plan import plan
from harness.suite.loading import load_suite
from harness.trial import Trial

THIRD_PARTY = str(Path(__file__).parent.parent / "tests" / "thirdparty")
SHARDS = 1000
SIZE = 4  # samples a shard
MOST_START = 15.0  # s from the driver's start to its first shard
MOST_EXTRA = 5.0  # ms a shard beyond Ray's own
LEAST_BUSY = 0.9  # of the time of two workers


def trials(folder: Path, delays: dict[str, float]) -> list[Trial]:
    """Trials of SHARDS shards, by seconds a sample."""
    entries = {
        name: {"adapter": "fake-translation", "batch_size": SIZE, "options": {"delay": delay}}
        for name, delay in delays.items()
    }
    suite = {
        "name": "overhead",
        "datasets": {"few": {"dataset": "phrases", "options": {"size": SHARDS * SIZE, "max_tokens": 8}}},
        "adapters": entries,
        "benchmarks": {"words": {"dataset": "few", "adapters": list(entries), "metrics": ["bleu"]}},
    }
    path = folder / "overhead.yaml"
    path.write_text(yaml.safe_dump(suite))
    return list(plan(load_suite(path)).trials)


def work(trial: Trial) -> Work:
    return Work(trial, ((0, trial.spec.size),), SIZE)


def by_hand(trial: Trial, workers: list[Any]) -> Iterator[Any]:
    """The same calls in a bare loop, two under way a worker: what Ray itself takes."""
    waiting = work(trial).shards()
    flying: dict[Any, Any] = {}

    def send(worker: Any) -> None:
        shard: Shard | None = next(waiting, None)
        if shard is not None:
            flying[worker.predict.remote(shard, [], SIZE)] = worker

    for worker in [*workers, *workers]:
        send(worker)
    while flying:
        for future in ray.wait(list(flying), timeout=1)[0]:
            yield from ray.get(future)
            send(flying.pop(future))


def together(results: list[ShardResult]) -> tuple[float, float]:
    """While both workers were there: seconds a shard, and the share of the time that they were busy.

    A worker that starts a second after the other is start-up, not overhead.
    """
    spans = sorted(
        (
            datetime.fromisoformat(r.execution.started).timestamp(),
            datetime.fromisoformat(r.execution.finished).timestamp(),
        )
        for r in results
    )
    both = [max(a[0], b[0]) for a, b in pairwise(spans) if b[0] < a[1]]
    begin, end = both[0], both[-1]
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
            print(f"at most {MOST_START:g} asked")

            workers = [ray.remote(num_cpus=1)(Worker).remote() for _ in range(2)]
            ray.get([worker.ready.remote() for worker in workers])
            list(by_hand(empty, workers))  # loads the model
            hand = []
            for _ in range(rounds):
                begin = time.monotonic()
                list(by_hand(empty, workers))
                hand.append((time.monotonic() - begin) / SHARDS)
            for worker in workers:
                ray.kill(worker)
            ours, busy = [], []
            for _ in range(rounds):
                found = list(executor.predict([work(empty)]))
                ours.append(together(found)[0])
            for _ in range(rounds):
                found = list(executor.predict([work(slow)]))
                busy.append(together(found)[1])
            extra = 1e3 * (median(ours) - median(hand))
            print(f"a shard with nothing to do, two workers: {1e3 * median(ours):.2f} ms; the same calls")
            print(f"in a bare Ray loop {1e3 * median(hand):.2f} ms;", end=" ")
            print(f"the executor adds {extra:.2f} ms, at most {MOST_EXTRA:g} asked")
            rates = ", ".join(f"{100 * share:.1f}" for share in busy)
            print(f"two workers, shards of {1e3 * SIZE * 0.01:.0f} ms: busy", end=" ")
            print(f"{100 * median(busy):.1f}% ({rates}), at least {100 * LEAST_BUSY:g} asked")
    if first > MOST_START or extra > MOST_EXTRA or median(busy) < LEAST_BUSY:
        sys.exit("a bound is missed")


if __name__ == "__main__":
    main()
