"""Assignment of shards to workers, and the handling of lost workers.

The scheduler is pure: the caller reports events and receives decisions. The Ray executor and the simulation
of a large cluster (`benchmarks/scale.py`) drive the same code; a worker is any hashable value.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Generic

from harness.adapter import Resources
from harness.executors.scheduling.backlog import Backlog
from harness.executors.scheduling.losses import MAX_FAILED_IN_A_ROW, Cause, Loss
from harness.executors.scheduling.worker_pool import Assignment, W, WorkerPool, WorkerState
from harness.stages.shards import BatchAssembler, Outcome, Work


class Scheduler(Generic[W]):
    """Assigns shards to workers, longest trial first.

    - A worker stays with the model that it holds while more of that trial is pending.
    - When a worker is lost, its shard is tried once more, because the shard might not be the cause. After
      another loss it is split in two, repeatedly, until a single sample is identified. The parts of a batch
      are returned as that batch.
    - A worker that cannot load a model excludes its node for that trial, except for workers there that
      already hold the model.

    Args:
        resources: Resources that a worker needs, by trial id.
        clock: Returns seconds.
        first_deadline: Seconds after which a model's first shard counts as hanging, loading included.
    """

    def __init__(
        self,
        work: Iterable[Work],
        resources: Mapping[str, Resources],
        clock: Callable[[], float],
        first_deadline: float,
    ) -> None:
        self._clock = clock
        self._first_deadline = first_deadline
        self._backlog = Backlog(work, resources)
        self._workers: WorkerPool[W] = WorkerPool()
        self._batches = BatchAssembler()
        self._reserved_nodes: Set[str] = frozenset()
        self._dead_nodes: Set[str] = frozenset()
        self.retries: Counter[str] = Counter()
        """Shards whose worker was lost, by trial id."""

    @property
    def busy(self) -> bool:
        """Return whether anything is pending or in flight."""
        return any(self._workers.in_flight.values()) or any(self._backlog.waiting.values())

    def waiting(self, resources: Resources) -> int:
        """Return the number of unassigned shards for workers with these resources."""
        return self._backlog.waiting[resources]

    def demand(self, resources: Resources) -> int:
        """Return the number of unfinished shards for workers with these resources."""
        return self._backlog.waiting[resources] + self._workers.in_flight[resources]

    def outstanding(self, worker: W) -> int:
        """Return the number of a worker's outstanding results, not counting shards that were taken back."""
        return len(self._workers[worker].assignments)

    def idle_workers(self, resources: Resources) -> list[W]:
        """Return the workers with these resources that have no shard."""
        return [worker for worker in self._workers.idle if self._workers[worker].resources == resources]

    def add_worker(self, worker: W, node: str, resources: Resources) -> None:
        """Record that a worker has started."""
        self._workers.add(worker, node, resources)

    def release_worker(self, worker: W) -> None:
        """Remove a worker whose shards did not cause its end; they become pending again."""
        state = self._workers[worker]
        if state.model is not None:  # its memory is free, so another worker may now load the model there
            self._backlog[state.model].load_errors.pop(state.node, None)
        self._backlog.put_back(self._workers.remove(worker))

    def assign(self) -> Iterator[Assignment[W]]:
        """Yield the shards to send now.

        Idle workers come first. Busy ones get a shard ahead while more shards are pending than there are
        workers.
        """
        for workers, ahead in ((self._workers.idle, False), (self._workers.partly_filled, True)):
            for worker in list(workers):
                state = self._workers[worker]
                kept_for_others = self._workers.size[state.resources] if ahead else 0
                if self._backlog.waiting[state.resources] <= kept_for_others:
                    continue
                if state.node in self._reserved_nodes:
                    continue
                trial_id = self._choose_trial(state)
                if trial_id is not None:
                    yield self._assign(worker, state, trial_id)

    def finish_shard(self, worker: W, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Record the outcomes of a worker's first shard, and return those that are final.

        Parts of a batch wait for the other parts.
        """
        assignment = self._workers[worker].assignments[0]
        shard, seconds = assignment.shard, self._clock() - assignment.started
        queue = self._backlog[shard.trial.id]
        queue.losses.record_success()
        queue.pace.record(shard.stop - shard.start, seconds, assignment.loads_model)
        self._pop_first(worker)  # after the pace is recorded: the next shard's deadline follows from it
        return self._settle(outcomes)

    def fail_to_load(self, worker: W, error: str, everywhere: bool = False) -> list[Outcome]:
        """Record that a worker could not load the model of its first shard, which becomes pending again.

        Args:
            everywhere: Whether no worker on any node could load it; the trial is then given up.
        """
        shard = self._pop_first(worker).shard
        state = self._workers[worker]
        self._backlog[shard.trial.id].load_errors[state.node] = error
        self._backlog.put_back([shard])
        if state.model == shard.trial.id:
            self._workers.hold(worker, None)
        return self._settle(self._backlog.give_up(shard.trial.id, error)) if everywhere else []

    def lose_worker(self, worker: W, reason: str, cause: Cause = "process") -> list[Outcome]:
        """Record that a worker died or was killed; only its first shard may be the cause.

        Args:
            cause: "memory" halves the number of samples predicted at once. "store" blames no sample, but a
                smaller part of the shard may fit.

        Returns:
            The final outcomes: shards that are given up.
        """
        state = self._workers[worker]
        assignment = self._workers.pop_first(worker) if state.assignments else None
        self.release_worker(worker)
        if assignment is None:
            return []
        trial_id = assignment.shard.trial.id
        self.retries[trial_id] += 1
        queue = self._backlog[trial_id]
        queue.load_errors.pop(state.node, None)  # its memory is free, as in `release_worker`
        hung = self._clock() >= assignment.deadline
        loss = Loss(assignment.shard, assignment.batch_limit, state.node, reason, cause, hung)
        error = queue.record_loss(loss, self._dead_nodes)
        final = self._settle([error] if error else [])
        if queue.losses.exhausted:
            stopped = f"not tried after {MAX_FAILED_IN_A_ROW} samples in a row without a prediction: {reason}"
            final += self._settle(self._backlog.give_up(trial_id, stopped))
        return final

    def update_nodes(self, living: Set[str], usable: Mapping[Resources, Set[str]]) -> list[Outcome]:
        """Record which nodes are alive, and which of them have room for a worker with given resources.

        A trial is given up, with errors, if no worker holds its model and no usable node can load it.
        """
        self._dead_nodes = self._workers.nodes - living
        final: list[Outcome] = []
        for trial_id, error in self._backlog.unloadable(usable, self._workers.holders):
            final += self._settle(self._backlog.give_up(trial_id, error))
        return final

    def reserve_nodes(self, nodes: Set[str]) -> None:
        """Assign nothing more to workers on these nodes, which replace the nodes reserved before."""
        self._reserved_nodes = nodes

    def excluded_nodes(self, resources: Resources) -> Set[str]:
        """Return the nodes that are reserved, or on which no pending trial can be loaded."""
        return self._reserved_nodes | self._backlog.excluded_nodes(resources)

    def workers_to_release(self, resources: Resources) -> list[W]:
        """Return the idle workers on excluded nodes, except those whose model has more pending shards."""
        excluded = self.excluded_nodes(resources)
        idle = {worker: self._workers[worker] for worker in self.idle_workers(resources)}
        return [
            worker
            for worker, state in idle.items()
            if state.node in self._reserved_nodes
            or (state.node in excluded and not self._backlog.has_pending(state.model))
        ]

    def expired(self) -> list[tuple[W, float]]:
        """Return the workers whose first shard exceeded its deadline, with the seconds allowed."""
        now, expired = self._clock(), []
        for assignment in self._workers.current():
            if assignment.deadline <= now:
                self._set_deadline(assignment)  # other shards may have shown since that the trial is slow
            if assignment.deadline <= now:
                expired.append((assignment.worker, assignment.deadline - assignment.started))
        return expired

    def _choose_trial(self, state: WorkerState[W]) -> str | None:
        if self._backlog.has_pending(state.model):
            return state.model
        return self._backlog.longest(state.resources, state.node, self._workers.holders)

    def _assign(self, worker: W, state: WorkerState[W], trial_id: str) -> Assignment[W]:
        queue = self._backlog[trial_id]
        loads_model = state.model != trial_id
        assignment = Assignment(worker, queue.take(), queue.batch_limit, loads_model)
        self._workers.push(assignment)
        if len(state.assignments) == 1:
            self._start(assignment)
        return assignment

    def _pop_first(self, worker: W) -> Assignment[W]:
        """Remove a worker's first shard, and start the next or, on a reserved node, take the rest back."""
        finished = self._workers.pop_first(worker)
        state = self._workers[worker]
        if state.node in self._reserved_nodes:
            self._backlog.put_back(self._workers.take_back(worker))
        if state.assignments:
            self._start(state.assignments[0])
        return finished

    def _start(self, assignment: Assignment[W]) -> None:
        assignment.started = self._clock()
        self._set_deadline(assignment)

    def _set_deadline(self, assignment: Assignment[W]) -> None:
        """Set or extend the deadline of a shard that has started, from its trial's pace so far."""
        shard = assignment.shard
        queue = self._backlog[shard.trial.id]
        allowed = queue.pace.allowed_seconds(
            shard.stop - shard.start, assignment.loads_model, shard in queue.losses, self._first_deadline
        )
        assignment.deadline = max(assignment.deadline, assignment.started + allowed)

    def _settle(self, outcomes: Iterable[Outcome]) -> list[Outcome]:
        """Return the final outcomes: those whose batches are complete."""
        return [final for outcome in outcomes for final in self._batches.add(outcome)]
