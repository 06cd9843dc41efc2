"""Measure the scheduler on a simulated cluster with 1,000 GPUs: makespan, time per decision, and memory.

    python benchmarks/scale.py [--workers 1000] [--shards 1000000] [--seed 0]

Exits with code 1 if a bound is missed. The bounds are meant for the default size.

The scheduler is the one of the Ray executor; workers, nodes and the clock are simulated. Shards take
log-normal times. Workers load a model whenever they change trials. Workers and nodes die at random and come
back later, and some shards hang.
"""

from __future__ import annotations

import argparse
import heapq
import resource
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

import numpy as np

from harness.adapter import Resources
from harness.executors.scheduling.scheduler import Scheduler
from harness.executors.scheduling.worker_pool import Assignment
from harness.rundir.records import TrialSpec
from harness.stages.shards import Execution, Outcome, Shard, ShardResult, Work
from harness.trial import DatasetUse, Trial

P = ParamSpec("P")
T = TypeVar("T")
GPU = Resources()
EXECUTION = Execution("", "", "", 16)
MAX_RATIO = 1.05  # of the makespan to its lower bound
MAX_DECISION_US = 100.0  # µs per shard
MAX_MEMORY = 50, 20_000  # bytes per shard and per worker, including the simulation


@dataclass(frozen=True)
class Conditions:
    """Properties of the simulated cluster. Times are in seconds."""

    workers: int = 1000
    workers_per_node: int = 8
    shard: float = 10.0  # mean time of a whole shard
    spread: float = 0.3  # standard deviation of its logarithm
    loading: float = 20.0
    starting: float = 30.0  # of a worker that replaces a lost one
    worker_lifetime: float = 20_000.0  # mean
    node_lifetime: float = 200_000.0  # mean
    node_returns: float = 300.0  # after its death
    hangs: float = 1e-5  # fraction of shards
    deadline: float = 900.0
    poison: frozenset[tuple[str, int]] = frozenset()  # (trial, sample) that kills its worker
    stuck: frozenset[tuple[str, int]] = frozenset()  # … that never ends


@dataclass
class _SimulatedWorker:
    node: int
    queue: deque[Shard] = field(default_factory=deque)
    model: str = ""
    version: int = 0  # events of an earlier version are void


class Simulation:
    """Workers that follow a scheduler on a virtual clock."""

    def __init__(self, work: list[Work], conditions: Conditions, seed: int = 0) -> None:
        self.now = 0.0
        self.conditions = conditions
        self.random = np.random.default_rng(seed)
        needed = {part.trial.id: GPU for part in work}
        self.scheduler: Scheduler[int] = Scheduler(work, needed, lambda: self.now, conditions.deadline)
        self.workers: dict[int, _SimulatedWorker] = {}
        self.events: list[tuple[float, int, str, int, int]] = []
        self.tickets = 0
        self.useful = 0.0  # seconds of finished shards
        self.deciding = 0.0  # seconds of processor time in the scheduler
        self.losses: Counter[str] = Counter()  # of workers, by reason
        self._draws: Iterator[float] = iter(())
        self._durations: dict[int, float] = {}

    def run(self) -> Iterator[Outcome]:
        """Yield outcomes until nothing is left."""
        for number in range(self.conditions.workers):
            self._join(number)
        self._assign()
        for node in range(-(-self.conditions.workers // self.conditions.workers_per_node)):
            self._at(self.random.exponential(self.conditions.node_lifetime), "node dies", node)
        self._at(10.0, "check deadlines", 0)
        while self.scheduler.busy:
            self.now, _, what, who, version = heapq.heappop(self.events)
            worker = self.workers.get(who)
            outcomes: list[Outcome] = []
            if what == "join":
                self._join(who)
            elif what == "check deadlines":
                for expired, _ in self._timed(self.scheduler.expired):
                    outcomes += self._lose(expired, "hangs", self.conditions.starting)
                self._at(10.0, "check deadlines", 0)
            elif what == "node dies":
                on_node = [number for number, worker in self.workers.items() if worker.node == who]
                for number in on_node:
                    outcomes += self._lose(number, "node dies", self.conditions.node_returns)
                self._at(self.random.exponential(self.conditions.node_lifetime), "node dies", who)
            elif worker is None or worker.version != version:
                continue
            elif what == "done":
                shard = worker.queue.popleft()
                self.useful += self._durations.pop(who)
                result = ShardResult(shard, [""] * (shard.stop - shard.start), [], {}, EXECUTION)
                outcomes = self._timed(self.scheduler.finish_shard, who, [result])
                self._begin(who, worker)
            elif what == "dies":
                outcomes = self._lose(who, what, self.conditions.starting)
            self._assign()
            yield from outcomes

    def _timed(self, decide: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        start = time.thread_time()
        decision = decide(*arguments, **options)
        self.deciding += time.thread_time() - start
        return decision

    def _at(self, delay: float, what: str, who: int, version: int = 0) -> None:
        self.tickets += 1
        heapq.heappush(self.events, (self.now + delay, self.tickets, what, who, version))

    def _join(self, number: int) -> None:
        self.tickets += 1
        node = number // self.conditions.workers_per_node
        self.workers[number] = _SimulatedWorker(node, version=self.tickets)
        self._timed(self.scheduler.add_worker, number, f"node {node}", GPU)
        self._at(self.random.exponential(self.conditions.worker_lifetime), "dies", number, self.tickets)

    def _lose(self, worker: int, why: str, away: float) -> list[Outcome]:
        self.losses[why] += 1
        del self.workers[worker]
        self._durations.pop(worker, None)
        self._at(away, "join", worker)
        outcomes: list[Outcome] = self._timed(self.scheduler.lose_worker, worker, why)
        return outcomes

    def _assign(self) -> None:
        assignments: list[Assignment[int]] = self._timed(lambda: list(self.scheduler.assign()))
        for assignment in assignments:
            worker = self.workers[assignment.worker]
            worker.queue.append(assignment.shard)
            if len(worker.queue) == 1:
                self._begin(assignment.worker, worker)

    def _begin(self, number: int, worker: _SimulatedWorker) -> None:
        if not worker.queue:
            return
        shard = worker.queue[0]
        name = shard.trial.id
        duration = self._draw() * self.conditions.shard * (shard.stop - shard.start) / 64
        self._durations[number] = duration
        loads = worker.model != name
        worker.model = name
        if self.random.random() < self.conditions.hangs or _has(shard, self.conditions.stuck):
            return
        delay = duration + (self.conditions.loading if loads else 0.0)
        what = "dies" if _has(shard, self.conditions.poison) else "done"
        self._at(delay, what, number, worker.version)

    def _draw(self) -> float:
        """Draw a factor with mean 1."""
        value = next(self._draws, None)
        if value is None:
            spread = self.conditions.spread
            self._draws = iter(self.random.lognormal(-(spread**2) / 2, spread, 10_000).tolist())
            value = next(self._draws)
        return value


def _has(shard: Shard, samples: frozenset[tuple[str, int]]) -> bool:
    return any((shard.trial.id, at) in samples for at in range(shard.start, shard.stop)) if samples else False


def trial(name: str, samples: int, batch_size: int = 16) -> Trial:
    """Return a trial that is never loaded."""
    spec = TrialSpec(
        task="translation",
        adapter=name,
        code="",
        options={},
        precision="fp32",
        batch_size=batch_size,
        device="cuda",
        checkpoint=None,
        dataset="",
        split="test",
        size=samples,
    )
    use = DatasetUse("phrases", {}, "test", "translation")
    return Trial("simulated", name, spec, {}, use, None, (), ())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--shards", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    shares = np.random.default_rng(arguments.seed).dirichlet(np.ones(100))  # 100 trials of different lengths
    sizes = [max(1, round(share * arguments.shards)) * 64 for share in shares]
    work = [Work(trial(f"trial-{i}", size), ((0, size),), 64) for i, size in enumerate(sizes)]
    simulation = Simulation(work, Conditions(workers=arguments.workers), arguments.seed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    shards = samples = 0
    for outcome in simulation.run():
        shards += 1
        samples += outcome.shard.stop - outcome.shard.start
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert samples == sum(sizes), "a sample is missing or came twice"
    ratio = simulation.now * arguments.workers / simulation.useful
    decision_us = 1e6 * simulation.deciding / shards
    lost = ", ".join(f"{count} × {what}" for what, count in simulation.losses.items())
    print(f"{shards:,} shards of {len(work)} trials on {arguments.workers:,} workers; workers lost: {lost}")
    print(f"makespan {simulation.now:,.0f} s: {ratio:.4f} of its lower bound, bound {MAX_RATIO:g}")
    print(f"deciding: {decision_us:.1f} µs per shard, bound {MAX_DECISION_US:g}")
    allowed = (MAX_MEMORY[0] * shards + MAX_MEMORY[1] * arguments.workers) / 2**20
    print(f"memory with the simulation: grew by {growth:.1f} MiB, bound {allowed:.1f}")
    if ratio > MAX_RATIO or decision_us > MAX_DECISION_US or growth > allowed:
        sys.exit("a bound is missed")


if __name__ == "__main__":
    main()
