"""Which shard goes to which worker, and what follows when one is lost.

Pure: told what happens, it says what to do next. The Ray executor and the simulation of a large cluster
(`benchmarks/scale.py`) drive the same code; workers are whatever they use to name one.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, TypeVar

from harness.adapter import Resources
from harness.executors.trial_queue import TrialQueue
from harness.stages.shards import Outcome, Parts, Shard, ShardError, Work

W = TypeVar("W", bound=Hashable)

AHEAD = 2  # shards a worker has: one that runs and one that waits, so that it never waits for the driver
HANG_FACTOR = 20  # times as long as the trial's slowest shard so far, sample by sample: taken to hang …
LEAST_DEADLINE = 60.0  # … but never before so many seconds, which absorb a stall of the machine


@dataclass(frozen=True)
class Assignment(Generic[W]):
    """Send a shard to a worker, which predicts at most so many samples at once."""

    worker: W
    shard: Shard
    most: int


@dataclass
class _Flight:
    """A shard that a worker has; time counts from when it is the worker's first."""

    shard: Shard
    most: int
    loads: bool  # the worker has to load the model for it
    started: float = 0.0
    deadline: float = 0.0


@dataclass
class _Worker:
    node: str
    kind: Resources
    flights: deque[_Flight] = field(default_factory=deque)
    holds: str | None = None
    """The trial of its last shard."""


class Scheduler(Generic[W]):
    """Longest trial first; a worker stays with the model it holds; lost shards are tried again, then halved.

    A shard whose worker is lost is not to blame, or not yet: it is tried once more, then cut in two as long
    as it can be cut, so that in the end one sample is named. Parts of a batch come back as that batch.

    Args:
        kinds: what a worker needs, by trial id.
        deadline: seconds after which the first shard of a model is taken to hang, loading included.
    """

    def __init__(
        self,
        work: Iterable[Work],
        kinds: Mapping[str, Resources],
        clock: Callable[[], float],
        deadline: float,
    ) -> None:
        self._clock = clock
        self._deadline = deadline
        self._queues = {each.trial.id: TrialQueue(each, kinds[each.trial.id]) for each in work if each.gaps}
        self._workers: dict[W, _Worker] = {}
        self._idle: dict[W, None] = {}  # dicts as sets that keep their order
        self._unfilled: dict[W, None] = {}
        self._parts = Parts()
        self._deadlines: list[tuple[float, int, W]] = []
        self._tickets = count()
        self._avoided: Set[str] = frozenset()
        self._waiting: Counter[Resources] = Counter()
        self._members: Counter[Resources] = Counter()
        for queue in self._queues.values():
            self._waiting[queue.kind] += queue.waiting
        self._flights: Counter[Resources] = Counter()  # shards that workers have
        self.retries: Counter[str] = Counter()
        """Shards whose worker was lost, by trial id."""

    @property
    def busy(self) -> bool:
        """Whether anything is left to be done."""
        return any(self._flights.values()) or any(self._waiting.values())

    def waiting(self, kind: Resources) -> int:
        """Shards for workers of a kind that none has yet."""
        return self._waiting[kind]

    def joined(self, worker: W, node: str, kind: Resources) -> None:
        """A worker runs."""
        self._workers[worker] = _Worker(node, kind)
        self._members[kind] += 1
        self._idle[worker] = None

    def assign(self) -> Iterator[Assignment[W]]:
        """What to send now: to idle workers first, then one ahead while more wait than there are workers."""
        for pool, ahead in ((self._idle, False), (self._unfilled, True)):
            for worker in list(pool):
                state = self._workers[worker]
                left = self._waiting[state.kind]
                if left > (self._members[state.kind] if ahead else 0) and state.node not in self._avoided:
                    trial = self._choose(state)
                    if trial is not None:
                        yield self._send(worker, state, trial)

    def finished(self, worker: W, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """A worker's first shard is done. Returns what is final; parts of a batch wait for the others."""
        flight = self._land(worker)
        samples, seconds = flight.shard.stop - flight.shard.start, self._clock() - flight.started
        self._queues[flight.shard.trial.id].timed(samples, seconds, flight.loads)
        return [final for outcome in outcomes for final in self._parts.settle(outcome)]

    def refused(self, worker: W, error: str, elsewhere: Set[str]) -> list[Outcome]:
        """A worker could not load the model of its first shard; returns what is thereby given up.

        Args:
            elsewhere: nodes with room for such a worker, on which it may do better; none where it cannot.
        """
        flight = self._land(worker)
        state, trial = self._workers[worker], flight.shard.trial.id
        queue = self._queues[trial]
        queue.barred.add(state.node)
        queue.refusal = queue.refusal or error
        self._wait(flight.shard)
        if state.holds == trial:
            self._hold(state, None)
        if not elsewhere <= queue.barred:
            return []
        errors = [ShardError(self._take(queue), queue.refusal, 1) for _ in range(queue.waiting)]
        return [final for each in errors for final in self._parts.settle(each)]

    def lost(self, worker: W, reason: str, memory: bool = False) -> list[Outcome]:
        """A worker died or was killed; its first shard may be why, the ones behind it are not.

        Args:
            memory: it was killed because its machine ran out of memory: fewer samples at once from now on.
        """
        flights = self._workers[worker].flights
        flight = flights.popleft() if flights else None
        self.released(worker)
        if flight is None:
            return []
        self.retries[flight.shard.trial.id] += 1
        queue = self._queues[flight.shard.trial.id]
        self._flights[queue.kind] -= 1
        before = queue.waiting
        error = queue.lost(flight.shard, flight.most, reason, memory)
        self._waiting[queue.kind] += queue.waiting - before
        return self._parts.settle(error) if error else []

    def released(self, worker: W) -> None:
        """A worker is gone through no fault of its shards; they wait again."""
        state = self._workers.pop(worker)
        self._members[state.kind] -= 1
        self._idle.pop(worker, None)
        self._unfilled.pop(worker, None)
        self._hold(state, None)
        self._take_back(state)

    def owed(self, worker: W) -> int:
        """Of the shards that a worker was sent those whose answers count: not what was taken back."""
        return len(self._workers[worker].flights)

    def expired(self) -> list[tuple[W, float]]:
        """Workers whose first shard takes too long, and the seconds that it was given."""
        now, found = self._clock(), []
        while self._deadlines and self._deadlines[0][0] <= now:
            due, _, worker = heapq.heappop(self._deadlines)
            state = self._workers.get(worker)
            if state is not None and state.flights and state.flights[0].deadline == due:
                found.append((worker, due - state.flights[0].started))
        return found

    def demand(self, kind: Resources) -> int:
        """Shards for workers of a kind that are not done."""
        return self._waiting[kind] + self._flights[kind]

    def avoid(self, nodes: Set[str]) -> None:
        """Send nothing more to workers on these nodes."""
        self._avoided = nodes

    def useless(self, kind: Resources) -> Set[str]:
        """Nodes where a worker of a kind has nothing to do: to avoid, or nothing that waits loads there."""
        barred = [each.barred for each in self._queues.values() if each.waiting and each.kind == kind]
        return self._avoided | (frozenset.intersection(*map(frozenset, barred)) if barred else frozenset())

    def leaving(self, kind: Resources) -> list[W]:
        """Workers of a kind on such nodes that have finished what they had begun."""
        useless = self.useless(kind)
        return [worker for worker in self.idle(kind) if self._workers[worker].node in useless]

    def idle(self, kind: Resources) -> list[W]:
        """Workers of a kind without a shard."""
        return [worker for worker in self._idle if self._workers[worker].kind == kind]

    def _choose(self, worker: _Worker) -> str | None:
        """The trial that a worker should go on with: the one it holds, else the longest."""
        held = self._queues[worker.holds] if worker.holds is not None else None
        if held is not None and held.waiting and worker.node not in held.barred:
            return worker.holds
        best, most = None, 0.0
        for trial, queue in self._queues.items():
            if queue.waiting and queue.kind == worker.kind and worker.node not in queue.barred:
                seconds = queue.seconds()
                if seconds > most and queue.worth_loading():
                    best, most = trial, seconds
        return best

    def _send(self, worker: W, state: _Worker, trial: str) -> Assignment[W]:
        queue = self._queues[trial]
        flight = _Flight(self._take(queue), queue.most, loads=state.holds != trial)
        self._hold(state, trial)
        state.flights.append(flight)
        self._flights[state.kind] += 1
        self._place(worker, state)
        if len(state.flights) == 1:
            self._start(worker, flight)
        return Assignment(worker, flight.shard, flight.most)

    def _land(self, worker: W) -> _Flight:
        """Take a worker's first shard; the next one starts."""
        state = self._workers[worker]
        flight = state.flights.popleft()
        self._flights[state.kind] -= 1
        if state.node in self._avoided:
            self._take_back(state)
        self._place(worker, state)
        if state.flights:
            self._start(worker, state.flights[0])
        return flight

    def _take_back(self, state: _Worker) -> None:
        while state.flights:
            self._flights[state.kind] -= 1
            self._wait(state.flights.popleft().shard)

    def _start(self, worker: W, flight: _Flight) -> None:
        slowest = self._queues[flight.shard.trial.id].slowest
        allowed = self._deadline
        if slowest is not None and not flight.loads:
            expected = slowest * (flight.shard.stop - flight.shard.start)
            allowed = min(allowed, max(LEAST_DEADLINE, HANG_FACTOR * expected))
        flight.started = self._clock()
        flight.deadline = flight.started + allowed
        heapq.heappush(self._deadlines, (flight.deadline, next(self._tickets), worker))

    def _place(self, worker: W, state: _Worker) -> None:
        """Among the workers without a shard, with fewer than wanted, or neither."""
        for pool, wanted in (
            (self._idle, not state.flights),
            (self._unfilled, 0 < len(state.flights) < AHEAD),
        ):
            if wanted:
                pool[worker] = None
            else:
                pool.pop(worker, None)

    def _hold(self, worker: _Worker, trial: str | None) -> None:
        if worker.holds is not None:
            self._queues[worker.holds].holders -= 1
        if trial is not None:
            self._queues[trial].holders += 1
        worker.holds = trial

    def _take(self, queue: TrialQueue) -> Shard:
        self._waiting[queue.kind] -= 1
        return queue.take()

    def _wait(self, shard: Shard) -> None:
        queue = self._queues[shard.trial.id]
        self._waiting[queue.kind] += 1
        queue.put_back(shard)
