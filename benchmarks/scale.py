"""The scheduler on a simulated cluster: makespan, cost a shard and memory at 1,000 GPUs and a million shards.

    python benchmarks/scale.py [--workers 1000] [--shards 1000000] [--seed 0]

Ends with exit code 1 where a bound is missed; they are meant for the size that is the default.
The code that decides is the Ray executor's own; workers, nodes and the clock are simulated. Shards take
log-normal times; workers load a model whenever they change trials; workers and nodes die at random, some
hang, and come back later.
"""

from __future__ import annotations

import argparse
import heapq
import resource
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.adapter import Resources
from harness.executors.scheduling.scheduler import Scheduler
from harness.executors.scheduling.worker_pool import Assignment
from harness.rundir.trial_files import TrialSpec
from harness.stages.shards import Execution, Outcome, Shard, ShardResult, Work
from harness.trial import DatasetUse, Trial

GPU = Resources()
EXECUTION = Execution("", "", "", 16)
MOST_RATIO = 1.05  # of the makespan to its lower bound
MOST_DECIDING = 100.0  # µs a shard
MOST_MEMORY = 50, 20_000  # bytes a shard and a worker, the simulated ones included


@dataclass(frozen=True)
class Conditions:
    """What the simulated cluster is like; times in seconds."""

    workers: int = 1000
    on_a_node: int = 8
    shard: float = 10.0  # mean of a whole shard
    spread: float = 0.3  # standard deviation of its logarithm
    loading: float = 20.0
    starting: float = 30.0  # a worker that replaces a lost one
    worker_dies: float = 20_000.0  # mean time between failures
    node_dies: float = 200_000.0
    node_returns: float = 300.0
    hangs: float = 1e-5  # share of shards
    deadline: float = 900.0
    poison: frozenset[tuple[str, int]] = frozenset()  # (trial, sample) that kill their worker
    stuck: frozenset[tuple[str, int]] = frozenset()  # … that never end


@dataclass
class _Machine:
    node: int
    queue: deque[Shard] = field(default_factory=deque)
    model: str = ""
    version: int = 0  # of what it does now: events of an earlier one are void


class Simulation:
    """Workers that obey a scheduler on a virtual clock."""

    def __init__(self, work: list[Work], conditions: Conditions, seed: int = 0) -> None:
        self.now = 0.0
        self.conditions = conditions
        self.random = np.random.default_rng(seed)
        kinds = {each.trial.id: GPU for each in work}
        self.scheduler: Scheduler[int] = Scheduler(work, kinds, lambda: self.now, conditions.deadline)
        self.machines: dict[int, _Machine] = {}
        self.events: list[tuple[float, int, str, int, int]] = []
        self.tickets = 0
        self.useful = 0.0  # s of shards that were kept
        self.scheduling = 0.0  # s of real time spent deciding
        self.happened: Counter[str] = Counter()
        self._draws: Iterator[float] = iter(())
        self._lasted: dict[int, float] = {}

    def run(self) -> Iterator[Outcome]:
        """Outcomes until all is done."""
        for worker in range(self.conditions.workers):
            self._join(worker)
        self._assign()
        for node in range(-(-self.conditions.workers // self.conditions.on_a_node)):
            self._at(self.random.exponential(self.conditions.node_dies), "node dies", node)
        self._at(10.0, "look", 0)
        while self.scheduler.busy:
            self.now, _, what, who, version = heapq.heappop(self.events)
            machine = self.machines.get(who)
            found: list[Outcome] = []
            if what == "join":
                self._join(who)
            elif what == "look":
                for worker, _ in self._timed(self.scheduler.expired):
                    found += self._lose(worker, "hangs", self.conditions.starting)
                self._at(10.0, "look", 0)
            elif what == "node dies":
                members = [w for w, machine in self.machines.items() if machine.node == who]
                for worker in members:
                    found += self._lose(worker, "node dies", self.conditions.node_returns)
                self._at(self.random.exponential(self.conditions.node_dies), "node dies", who)
            elif machine is None or machine.version != version:
                continue
            elif what == "done":
                shard = machine.queue.popleft()
                self.useful += self._lasted.pop(who)
                result = ShardResult(shard, [""] * (shard.stop - shard.start), [], {}, EXECUTION)
                found = self._timed(self.scheduler.finish_shard, who, [result])
                self._begin(who, machine)
            elif what == "dies":
                found = self._lose(who, what, self.conditions.starting)
            self._assign()
            yield from found

    def _timed(self, decide: Any, *arguments: Any) -> Any:
        start = time.thread_time()
        outcome = decide(*arguments)
        self.scheduling += time.thread_time() - start
        return outcome

    def _at(self, delay: float, what: str, who: int, version: int = 0) -> None:
        self.tickets += 1
        heapq.heappush(self.events, (self.now + delay, self.tickets, what, who, version))

    def _join(self, worker: int) -> None:
        self.tickets += 1
        self.machines[worker] = _Machine(worker // self.conditions.on_a_node, version=self.tickets)
        self._timed(self.scheduler.add_worker, worker, f"node {worker // self.conditions.on_a_node}", GPU)
        self._at(self.random.exponential(self.conditions.worker_dies), "dies", worker, self.tickets)

    def _lose(self, worker: int, why: str, away: float) -> list[Outcome]:
        self.happened[why] += 1
        del self.machines[worker]
        self._lasted.pop(worker, None)
        self._at(away, "join", worker)
        found: list[Outcome] = self._timed(self.scheduler.lose_worker, worker, why)
        return found

    def _assign(self) -> None:
        assignments: list[Assignment[int]] = self._timed(lambda: list(self.scheduler.assign()))
        for assignment in assignments:
            machine = self.machines[assignment.worker]
            machine.queue.append(assignment.shard)
            if len(machine.queue) == 1:
                self._begin(assignment.worker, machine)

    def _begin(self, worker: int, machine: _Machine) -> None:
        if not machine.queue:
            return
        shard = machine.queue[0]
        name = shard.trial.id
        lasts = self._draw() * self.conditions.shard * (shard.stop - shard.start) / 64
        self._lasted[worker] = lasts
        loads = machine.model != name
        machine.model = name
        if self.random.random() < self.conditions.hangs or _has(shard, self.conditions.stuck):
            return
        delay = lasts + (self.conditions.loading if loads else 0.0)
        what = "dies" if _has(shard, self.conditions.poison) else "done"
        self._at(delay, what, worker, machine.version)

    def _draw(self) -> float:
        """A factor with mean 1."""
        value = next(self._draws, None)
        if value is None:
            spread = self.conditions.spread
            self._draws = iter(self.random.lognormal(-(spread**2) / 2, spread, 10_000).tolist())
            value = next(self._draws)
        return value


def _has(shard: Shard, samples: frozenset[tuple[str, int]]) -> bool:
    return any((shard.trial.id, at) in samples for at in range(shard.start, shard.stop)) if samples else False


def trial(name: str, samples: int, batch_size: int = 16) -> Trial:
    """A trial that nothing loads."""
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
    return Trial("simulated", name, spec, use, None, (), ())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--shards", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    shares = np.random.default_rng(arguments.seed).dirichlet(np.ones(100))  # 100 trials of unlike lengths
    sizes = [max(1, round(share * arguments.shards)) * 64 for share in shares]
    work = [Work(trial(f"trial-{i}", size), ((0, size),), 64) for i, size in enumerate(sizes)]
    simulation = Simulation(work, Conditions(workers=arguments.workers), arguments.seed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    shards = samples = 0
    for outcome in simulation.run():
        shards += 1
        samples += outcome.shard.stop - outcome.shard.start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert samples == sum(sizes), "every sample exactly once"
    ratio = simulation.now * arguments.workers / simulation.useful
    deciding = 1e6 * simulation.scheduling / shards
    lost = ", ".join(f"{count} × {what}" for what, count in simulation.happened.items())
    print(f"{shards:,} shards of {len(work)} trials on {arguments.workers:,} workers; workers lost: {lost}")
    print(f"makespan {simulation.now:,.0f} s: {ratio:.4f} of its lower bound, at most {MOST_RATIO:g} asked")
    print(f"deciding: {deciding:.1f} µs a shard, at most {MOST_DECIDING:g} asked")
    allowed = (MOST_MEMORY[0] * shards + MOST_MEMORY[1] * arguments.workers) / 2**20
    print(f"memory, simulation included: grew by {grown:.1f} MiB, at most {allowed:.1f} asked")
    if ratio > MOST_RATIO or deciding > MOST_DECIDING or grown > allowed:
        sys.exit("a bound is missed")


if __name__ == "__main__":
    main()
