"""Which shard goes to which worker, and what follows when one is lost.

Pure: told what happens, it says what to do next. The Ray executor and the simulation of a large cluster
(`benchmarks/scale.py`) drive the same code; workers are whatever they use to name one.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import count
from typing import Generic, Literal, TypeVar

from harness.adapter import Resources
from harness.executors.scheduling.trial_queue import IN_A_ROW, TrialQueue
from harness.executors.scheduling.worker_state import Flight, WorkerState
from harness.stages.shards import Outcome, Parts, Shard, ShardError, Work

W = TypeVar("W", bound=Hashable)

Cause = Literal["process", "memory", "store"]  # what failed: itself, its machine's memory, Ray's object store
AHEAD = 2  # shards a worker has: one that runs and one that waits, so that it never waits for the driver


@dataclass(frozen=True)
class Assignment(Generic[W]):
    """Send a shard to a worker, which predicts at most so many samples at once."""

    worker: W
    shard: Shard
    most: int


class Scheduler(Generic[W]):
    """Longest trial first; a worker stays with the model it holds; lost shards are tried again, then halved.

    A shard whose worker is lost is not to blame, or not yet: it is tried once more, then cut in two as long
    as it can be cut, so that in the end one sample is named. Parts of a batch come back as that batch.
    A worker that could not load a model bars its node for others, not for those there that have it.

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
        self._workers: dict[W, WorkerState] = {}
        self._idle: dict[W, None] = {}  # dicts as sets that keep their order
        self._unfilled: dict[W, None] = {}
        self._parts = Parts()
        self._deadlines: list[tuple[float, int, W]] = []
        self._tickets = count()
        self._avoided: Set[str] = frozenset()
        self._nodes: set[str] = set()  # where workers ever were
        self._gone: Set[str] = frozenset()  # those of them that are no more
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
        self._workers[worker] = WorkerState(node, kind)
        self._nodes.add(node)
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
        flight = self._workers[worker].flights[0]
        samples, seconds = flight.shard.stop - flight.shard.start, self._clock() - flight.started
        self._queues[flight.shard.trial.id].timed(samples, seconds, flight.loads)
        self._land(worker)  # now that the next one's deadline follows from it
        return [final for outcome in outcomes for final in self._parts.settle(outcome)]

    def refused(self, worker: W, error: str, everywhere: bool = False) -> None:
        """A worker could not load the model of its first shard, or no worker can: see `saw`."""
        flight = self._land(worker)
        state, trial = self._workers[worker], flight.shard.trial.id
        queue = self._queues[trial]
        queue.refused(state.node, error, everywhere)
        self._wait(flight.shard)
        if state.holds == trial:
            self._hold(state, None)

    def saw(self, living: Set[str], room: Mapping[Resources, Set[str]]) -> list[Outcome]:
        """Which nodes there are now, and which have room for a worker of each kind.

        Returns what is given up: trials whose model no worker has, and none could load where there is room.
        """
        self._gone = self._nodes - living
        hopeless = [each for each in self._queues.values() if each.hopeless(room.get(each.kind, frozenset()))]
        return [final for queue in hopeless for final in self._give_up(queue, queue.refusal or "")]

    def lost(self, worker: W, reason: str, cause: Cause = "process") -> list[Outcome]:
        """A worker died or was killed; its first shard may be why, the ones behind it are not.

        Args:
            cause: its machine ran out of memory: fewer samples at once from now on. The object store had no
                room for its answer: a smaller part may have, and no sample is to blame.
        """
        state = self._workers[worker]
        flight = state.flights.popleft() if state.flights else None
        self.released(worker)
        if flight is None:
            return []
        self.retries[flight.shard.trial.id] += 1
        queue = self._queues[flight.shard.trial.id]
        queue.barred.discard(state.node)  # as above
        self._flights[queue.kind] -= 1
        before, error = queue.waiting, None
        if cause == "memory" and flight.most > 1:
            queue.fewer(flight.shard, flight.most)
        else:
            node, hung = None if cause == "store" else state.node, self._clock() >= flight.deadline
            error = queue.lost(flight.shard, node, reason, hung, self._gone)
        self._waiting[queue.kind] += queue.waiting - before
        found = self._parts.settle(error) if error else []
        if queue.stopped:
            told = f"not tried after {IN_A_ROW} samples in a row without a prediction: {reason}"
            found += self._give_up(queue, told)
        return found

    def released(self, worker: W) -> None:
        """A worker is gone through no fault of its shards; they wait again."""
        state = self._workers.pop(worker)
        if state.holds is not None:
            self._queues[state.holds].barred.discard(state.node)  # one more may fit there now
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
            if state is None or not state.flights or state.flights[0].deadline != due:
                continue
            flight = state.flights[0]
            self._limit(worker, flight)  # others may have shown meanwhile that it is slow and does not hang
            if flight.deadline <= now:
                found.append((worker, flight.deadline - flight.started))
        return found

    def demand(self, kind: Resources) -> int:
        """Shards for workers of a kind that are not done."""
        return self._waiting[kind] + self._flights[kind]

    def avoid(self, nodes: Set[str]) -> None:
        """Send nothing more to workers on these nodes."""
        self._avoided = nodes

    def useless(self, kind: Resources) -> Set[str]:
        """Nodes where one more worker of a kind would be idle: to avoid, or barred for all that waits."""
        barred = [each.barred for each in self._queues.values() if each.waiting and each.kind == kind]
        return self._avoided | (frozenset.intersection(*map(frozenset, barred)) if barred else frozenset())

    def leaving(self, kind: Resources) -> list[W]:
        """Workers of a kind on such nodes that are done, but those who hold a model of which more waits."""
        useless, avoided = self.useless(kind), self._avoided
        on_useless = [(w, self._workers[w]) for w in self.idle(kind) if self._workers[w].node in useless]
        return [w for w, state in on_useless if state.node in avoided or not self._goes_on(state)]

    def idle(self, kind: Resources) -> list[W]:
        """Workers of a kind without a shard."""
        return [worker for worker in self._idle if self._workers[worker].kind == kind]

    def _choose(self, worker: WorkerState) -> str | None:
        """The trial that a worker should go on with: the one it holds, else the longest."""
        if self._goes_on(worker):
            return worker.holds
        best, most = None, 0.0
        for trial, queue in self._queues.items():
            if queue.waiting and queue.kind == worker.kind and worker.node not in queue.barred:
                seconds = queue.seconds()
                if seconds > most and queue.worth_loading():
                    best, most = trial, seconds
        return best

    def _goes_on(self, worker: WorkerState) -> bool:
        """Whether there is more of the trial that it holds."""
        return worker.holds is not None and self._queues[worker.holds].waiting > 0

    def _send(self, worker: W, state: WorkerState, trial: str) -> Assignment[W]:
        queue = self._queues[trial]
        flight = Flight(self._take(queue), queue.most, loads=state.holds != trial)
        self._hold(state, trial)
        state.flights.append(flight)
        self._flights[state.kind] += 1
        self._place(worker, state)
        if len(state.flights) == 1:
            self._start(worker, flight)
        return Assignment(worker, flight.shard, flight.most)

    def _land(self, worker: W) -> Flight:
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

    def _take_back(self, state: WorkerState) -> None:
        while state.flights:
            self._flights[state.kind] -= 1
            self._wait(state.flights.popleft().shard)

    def _start(self, worker: W, flight: Flight) -> None:
        flight.started = self._clock()
        self._limit(worker, flight)

    def _limit(self, worker: W, flight: Flight) -> None:
        """Give a shard that has begun a deadline, from what is known of its trial by now."""
        queue = self._queues[flight.shard.trial.id]
        allowed = queue.allowed(flight.shard, flight.loads, self._deadline)
        flight.deadline = max(flight.deadline, flight.started + allowed)
        if flight.deadline > self._clock():
            heapq.heappush(self._deadlines, (flight.deadline, next(self._tickets), worker))

    def _place(self, worker: W, state: WorkerState) -> None:
        """Among the workers without a shard, with fewer than wanted, or neither."""
        for pool, wanted in (
            (self._idle, not state.flights),
            (self._unfilled, 0 < len(state.flights) < AHEAD),
        ):
            if wanted:
                pool[worker] = None
            else:
                pool.pop(worker, None)

    def _hold(self, worker: WorkerState, trial: str | None) -> None:
        if worker.holds is not None:
            self._queues[worker.holds].holders -= 1
        if trial is not None:
            self._queues[trial].holders += 1
        worker.holds = trial

    def _give_up(self, queue: TrialQueue, reason: str) -> list[Outcome]:
        """All that waits of a trial."""
        errors = [ShardError(self._take(queue), reason, 1) for _ in range(queue.waiting)]
        return [final for each in errors for final in self._parts.settle(each)]

    def _take(self, queue: TrialQueue) -> Shard:
        self._waiting[queue.kind] -= 1
        return queue.take()

    def _wait(self, shard: Shard) -> None:
        queue = self._queues[shard.trial.id]
        self._waiting[queue.kind] += 1
        queue.put_back(shard)
