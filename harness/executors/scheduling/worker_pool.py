"""The workers that run, and the shards that were sent to each of them. Pure."""

from collections import Counter, deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from harness.adapter import Resources
from harness.stages.shards import Shard

W = TypeVar("W", bound=Hashable)

SHARDS_PER_WORKER = 2  # one runs and one waits, so that a worker never waits for the driver


@dataclass
class Assignment(Generic[W]):
    """A shard sent to a worker, which predicts at most `batch_limit` samples at once.

    A worker's shards run one after the other: `started` and `deadline` (seconds of the scheduler's clock)
    are set when the shard becomes the worker's first.
    """

    worker: W
    shard: Shard
    batch_limit: int
    loads_model: bool  # whether the worker has to load the model for this shard
    started: float = 0.0
    deadline: float = 0.0


@dataclass
class WorkerState(Generic[W]):
    """A worker that runs, with its assignments in the order in which it works on them."""

    node: str
    resources: Resources
    assignments: deque[Assignment[W]] = field(default_factory=deque)
    model: str | None = None
    """Id of the trial whose model the worker has loaded or is about to load."""


class WorkerPool(Generic[W]):
    """All running workers, indexed by the number of their shards.

    Invariants:

    - A worker without a shard is in `idle`; one with fewer than SHARDS_PER_WORKER is in `partly_filled`.
    - `size` counts the workers by their resources, and `in_flight` counts the shards of these workers.
      `holders` counts, for each trial, the workers that hold its model.
    """

    def __init__(self) -> None:
        self._states: dict[W, WorkerState[W]] = {}
        self.idle: dict[W, None] = {}  # dictionaries serve as sets that keep their order
        self.partly_filled: dict[W, None] = {}
        self.size: Counter[Resources] = Counter()
        self.in_flight: Counter[Resources] = Counter()
        self.holders: Counter[str] = Counter()
        self.nodes: set[str] = set()
        """Every node on which a worker has ever run."""

    def __getitem__(self, worker: W) -> WorkerState[W]:
        return self._states[worker]

    def current(self) -> Iterator[Assignment[W]]:
        """Yield the current shard of every worker that has one."""
        for state in self._states.values():
            if state.assignments:
                yield state.assignments[0]

    def add(self, worker: W, node: str, resources: Resources) -> None:
        self._states[worker] = WorkerState(node, resources)
        self.nodes.add(node)
        self.size[resources] += 1
        self.idle[worker] = None

    def remove(self, worker: W) -> list[Shard]:
        """Remove a worker and return its remaining shards."""
        shards = self.take_back(worker)
        self.hold(worker, None)
        state = self._states.pop(worker)
        self.size[state.resources] -= 1
        del self.idle[worker]
        return shards

    def push(self, assignment: Assignment[W]) -> None:
        """Add a shard to the assignments of its worker."""
        state = self._states[assignment.worker]
        self.hold(assignment.worker, assignment.shard.trial.id)
        state.assignments.append(assignment)
        self.in_flight[state.resources] += 1
        self._index(assignment.worker, state)

    def pop_first(self, worker: W) -> Assignment[W]:
        """Remove and return a worker's current shard."""
        state = self._states[worker]
        assignment = state.assignments.popleft()
        self.in_flight[state.resources] -= 1
        self._index(worker, state)
        return assignment

    def take_back(self, worker: W) -> list[Shard]:
        """Remove and return all shards of a worker."""
        state = self._states[worker]
        shards = [assignment.shard for assignment in state.assignments]
        state.assignments.clear()
        self.in_flight[state.resources] -= len(shards)
        self._index(worker, state)
        return shards

    def hold(self, worker: W, trial_id: str | None) -> None:
        """Record which trial's model a worker holds; None for no model."""
        state = self._states[worker]
        if state.model == trial_id:
            return
        if state.model is not None:
            self.holders[state.model] -= 1
        if trial_id is not None:
            self.holders[trial_id] += 1
        state.model = trial_id

    def _index(self, worker: W, state: WorkerState[W]) -> None:
        shards = len(state.assignments)
        if shards:
            self.idle.pop(worker, None)
        else:
            self.idle[worker] = None
        if 0 < shards < SHARDS_PER_WORKER:
            self.partly_filled[worker] = None
        else:
            self.partly_filled.pop(worker, None)
