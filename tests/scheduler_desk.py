"""A scheduler on a virtual clock, for tests of its decisions."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np

from harness.adapter import Resources
from harness.executors.scheduling.scheduler import Scheduler
from harness.executors.scheduling.worker_pool import Assignment
from harness.stages.shards import Outcome, Shard, ShardResult, Work


def _benchmark(name: str) -> ModuleType:
    path = Path(__file__).parent.parent / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


scale = _benchmark("scale")
GPU, CPU = Resources(1, 1), Resources(1, 0)


def work(size: int, name: str = "a", shard_size: int = 8, batch_size: int = 4) -> Work:
    return Work(scale.trial(name, size, batch_size), ((0, size),), shard_size)


class Desk:
    """A scheduler whose workers are letters and whose clock the test sets."""

    def __init__(self, *works: Work, resources: dict[str, Resources] | None = None) -> None:
        self.now = 0.0
        self.trial = works[0].trial
        needed = {part.trial.id: (resources or {}).get(part.trial.spec.adapter, GPU) for part in works}
        self.scheduler: Scheduler[str] = Scheduler(works, needed, lambda: self.now, 900.0)

    def join(self, workers: str, node: str = "n", resources: Resources = GPU) -> None:
        for worker in workers:
            self.scheduler.add_worker(worker, node, resources)

    def sent(self) -> list[tuple[str, int, int]]:
        """Assign, and return worker, start and stop of each assignment."""
        return [(a.worker, a.shard.start, a.shard.stop) for a in self.assigned()]

    def assigned(self) -> list[Assignment[str]]:
        return list(self.scheduler.assign())

    def update_nodes(self, *nodes: str) -> list[Outcome]:
        """Report that only these nodes are alive, and that all of them have room for a worker."""
        return self.scheduler.update_nodes({*nodes}, {GPU: {*nodes}})

    def finish(self, worker: str, shard: Shard, seconds: float = 1.0) -> list[Outcome]:
        self.now += seconds
        return self.scheduler.finish_shard(worker, [result(shard)])


def result(shard: Shard, batch_size: int = 4) -> ShardResult:
    execution = scale.Execution("n", "", "", batch_size)
    return ShardResult(shard, [str(i) for i in range(shard.start, shard.stop)], [], {}, execution)


def covered(outcomes: list[Outcome], name: str) -> list[int]:
    """Return how often each sample of a trial was returned."""
    shards = [outcome.shard for outcome in outcomes if outcome.shard.trial.spec.adapter == name]
    counts = np.zeros(max(shard.stop for shard in shards), int)
    for shard in shards:
        counts[shard.start : shard.stop] += 1
    return counts.tolist()
