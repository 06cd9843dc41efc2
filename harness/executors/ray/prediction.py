"""Prediction on a pool of Ray actors: the scheduler decides, and this module carries it out."""

import time
from collections.abc import Iterator, Sequence

import ray
from ray.exceptions import ObjectStoreFullError, OutOfDiskError, OutOfMemoryError, RayError, RayTaskError

from harness.adapter import Resources
from harness.errors import HarnessError, UsageError, describe
from harness.executors.ray.checkpoint_store import CheckpointStore
from harness.executors.ray.cluster_view import ClusterView
from harness.executors.ray.handles import ObjectRef
from harness.executors.ray.pool import ActorPool, PoolWorker
from harness.executors.ray.timing_requests import ClusterTimingRequests
from harness.executors.scheduling.losses import Cause
from harness.executors.scheduling.scheduler import Scheduler
from harness.executors.scheduling.worker_pool import Assignment
from harness.executors.worker import LoadFailure
from harness.stages.shards import Outcome, Work

POLL_SECONDS = 0.5  # longest wait for an answer before deadlines are checked
GATHER_SECONDS_PER_WORKER = 5e-5  # to collect answers that come together; `ray.wait` takes 2e-6 per worker
RESIZE_SECONDS = 0.2  # between adjustments of the number of workers
MIN_REQUESTED_WORKERS = 8  # requested on an autoscaled cluster that has capacity for none


class PredictionRun:
    """The prediction of all pending work on a pool of workers.

    Args:
        requests: Other runs' requests for timing nodes, which this run leaves to them; None if the cluster
            has no other runs.
        max_workers: As for `RayExecutor`, like `first_deadline`.
    """

    def __init__(
        self,
        work: Sequence[Work],
        view: ClusterView,
        checkpoints: CheckpointStore,
        requests: ClusterTimingRequests | None,
        max_workers: int | None,
        first_deadline: float,
    ) -> None:
        needed = {part.trial.id: view.cluster.worker_resources(part.trial) for part in work}
        self._max_workers = max_workers
        self._view = view
        self._checkpoints = checkpoints
        self._requests = requests
        self._resources = frozenset(needed.values())
        self.scheduler: Scheduler[PoolWorker] = Scheduler(work, needed, time.monotonic, first_deadline)
        self.pool = ActorPool(view)

    def outcomes(self) -> Iterator[Outcome]:
        """Yield outcomes in any order until nothing is left."""
        resize_due = 0.0
        try:
            while self.scheduler.busy:
                if time.monotonic() >= resize_due:
                    yield from self.resize_pool()
                    resize_due = time.monotonic() + RESIZE_SECONDS
                for assignment in self.scheduler.assign():
                    self._send(assignment)
                yield from self._receive_ready()
                yield from self._lose_expired()
        finally:
            self.pool.close()

    def resize_pool(self) -> list[Outcome]:
        """Resize the pool to demand and free capacity, and return the shards that no node can load.

        Nodes that are requested for timing or cannot load the pending models are avoided.
        """
        self._view.refresh()
        cluster = self._view.cluster
        usable = {
            resources: {node.id for node in cluster.prediction_nodes if node.capacity(resources)}
            for resources in self._resources
        }
        given_up = self.scheduler.update_nodes({node.id for node in cluster.nodes}, usable)
        requested = frozenset(self._requests.latest_requested_nodes() if self._requests else ())
        in_flight = any(worker.answers for worker in self.pool.running)
        self.pool.check_progress(idle=not requested and not in_flight)
        self.scheduler.reserve_nodes(requested)
        self._release_idle_workers()
        for resources, size in self._pool_sizes().items():
            self.pool.resize(resources, size, self.scheduler.excluded_nodes(resources))
        return given_up

    def _release_idle_workers(self) -> None:
        """Release idle workers that are of no use on their node, or whose resources others need."""
        for resources in self._resources:
            self._release(self.scheduler.workers_to_release(resources))
        needed = {resources for resources in self._resources if self.scheduler.waiting(resources)}
        for resources in self._resources - needed if needed else ():
            self._release(self.scheduler.idle_workers(resources))

    def _release(self, workers: Sequence[PoolWorker]) -> None:
        for worker in workers:
            self.scheduler.release_worker(worker)
            self.pool.drop(worker)

    def _pool_sizes(self) -> dict[Resources, int]:
        """Return the target number of workers for each of the needed resources."""
        cluster = self._view.cluster
        demand = {resources: self.scheduler.demand(resources) for resources in self._resources}
        sizes = cluster.capacity(demand)
        for resources, size in sizes.items():
            if cluster.may_add_nodes(resources.gpu > 0):
                # Workers that do not fit would make the autoscaler start ever more nodes.
                sizes[resources] = min(demand[resources], 2 * size + MIN_REQUESTED_WORKERS)
        return {resources: min(size, self._max_workers or size) for resources, size in sizes.items()}

    def _send(self, assignment: Assignment[PoolWorker]) -> None:
        worker, shard = assignment.worker, assignment.shard
        try:
            checkpoint = self._checkpoints.put(shard.trial)
        except UsageError as error:  # received in turn, like an answer of the worker
            worker.answers.append(ray.put(LoadFailure(describe(error), everywhere=True)))
            return
        weights = [] if checkpoint is None else [checkpoint]
        predict = worker.actor.predict.options(name=f"{shard.trial.name} {shard.start}–{shard.stop}")
        worker.answers.append(predict.remote(shard, weights, assignment.batch_limit))

    def _receive_ready(self) -> Iterator[Outcome]:
        """Wait a moment for answers and started workers; yield the final outcomes."""
        owing = {worker.answers[0]: worker for worker in self.pool.running if worker.answers}
        for future in _wait_for_some([*owing, *self.pool.starting]):
            if future in self.pool.starting:
                for worker, node in self.pool.admit([future]):
                    self.scheduler.add_worker(worker, node, worker.resources)
            elif owing[future] in self.pool.running:
                yield from self._receive(owing[future])

    def _receive(self, worker: PoolWorker) -> list[Outcome]:
        """Receive a worker's next answer, or handle its loss."""
        try:
            answer: list[Outcome] | LoadFailure = ray.get(worker.answers.popleft())
        except RayError as error:  # the worker or its child died, or its answer could not be stored
            self.pool.drop(worker)
            cause = error.cause if isinstance(error, RayTaskError) else error
            kind = "" if isinstance(cause, HarnessError) else f"{type(cause).__name__}: "
            first_line, _, _ = str(cause).partition("\n")  # advice and process numbers follow
            return self.scheduler.lose_worker(worker, kind + first_line, _cause(error))
        if isinstance(answer, LoadFailure):
            final = self.scheduler.fail_to_load(worker, answer.error, answer.everywhere)
        else:
            final = self.scheduler.finish_shard(worker, answer)
        if not self.scheduler.outstanding(worker):
            worker.answers.clear()  # the shards that it was sent ahead were taken back
        return final

    def _lose_expired(self) -> Iterator[Outcome]:
        """End workers that exceeded their deadline; yield the outcomes that are final."""
        for worker, seconds in self.scheduler.expired():
            if ray.wait([worker.answers[0]], timeout=0)[0]:
                continue  # the answer came while this process was busy
            self.pool.drop(worker)
            yield from self.scheduler.lose_worker(worker, f"no answer within {seconds:g} s")


def _cause(error: RayError) -> Cause:
    if isinstance(error, OutOfMemoryError):
        return "memory"
    return "store" if isinstance(error, ObjectStoreFullError | OutOfDiskError) else "process"


def _wait_for_some(futures: list[ObjectRef]) -> list[ObjectRef]:
    """Wait up to POLL_SECONDS for the first future, then return all that are ready."""
    if not futures:
        time.sleep(POLL_SECONDS)
        return []
    if not ray.wait(futures, timeout=POLL_SECONDS)[0]:
        return []
    # Answers that come together are collected at once; meanwhile each worker has a shard ahead.
    time.sleep(GATHER_SECONDS_PER_WORKER * len(futures))
    ready: list[ObjectRef] = ray.wait(futures, num_returns=len(futures), timeout=0)[0]
    return ready
