"""The actors that predict: started on free capacity, replaced when lost, released when idle."""

import os
import platform
import time
from collections import deque
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field
from uuid import uuid4

import ray
from ray.exceptions import RayError

from harness.adapter import Resources
from harness.errors import InfrastructureError, describe
from harness.executors.ray.cluster_view import ClusterView
from harness.executors.ray.handles import ActorHandle, ObjectRef
from harness.executors.scheduling.cluster import SLOT, WORKER_SLOT, node_name, prediction_selector
from harness.executors.worker import LoadFailure, PredictionWorker
from harness.stages.child import Child
from harness.stages.shards import Outcome, Shard

MAX_FAILED_STARTS = 3  # workers in a row that die before they run
START_DEADLINE_SECONDS = 1800.0  # without a worker until a busy cluster is given up


class Worker:
    """An actor that predicts, and holds one loaded model at a time."""

    def ready(self) -> str:
        """Return the node's id, once the actor runs and its children can start, which takes seconds."""
        with Child() as child:
            child.call(os.getpid, seconds=START_DEADLINE_SECONDS)
        node_id = str(ray.get_runtime_context().get_node_id())
        self._worker = PredictionWorker(node_name(platform.node(), node_id))
        return node_id

    def predict(
        self, shard: Shard, weights: Sequence[ObjectRef], batch_limit: int
    ) -> list[Outcome] | LoadFailure:
        """Return a shard's outcomes.

        The reference to the checkpoint is inside a list, so that Ray does not fetch it for every shard; the
        list is empty for an adapter without a checkpoint.
        """
        return self._worker.predict(
            shard, batch_limit, fetch=lambda: ray.get(weights[0]) if weights else None
        )


_Worker = ray.remote(max_restarts=0)(Worker)


@dataclass(eq=False)
class PoolWorker:
    """A worker's actor, with its outstanding answers in the order in which they will come."""

    actor: ActorHandle
    resources: Resources
    answers: deque[ObjectRef] = field(default_factory=deque)
    excluded_nodes: Set[str] = frozenset()
    """The nodes that were excluded when it was started."""


class ActorPool:
    """The workers that wait for Ray to start them, and those that run.

    Only running workers are given shards, so that waiting on a busy cluster does not count as hanging.
    Workers that do not fit wait in Ray's queue, and start when nodes join or other workers leave.
    """

    def __init__(self, view: ClusterView) -> None:
        self._view = view
        self.starting: dict[ObjectRef, PoolWorker] = {}
        self.running: set[PoolWorker] = set()
        self._failed_starts = 0
        self._idle_since = time.monotonic()

    def resize(self, resources: Resources, size: int, excluded_nodes: Set[str]) -> None:
        """Start workers with these resources until there are `size`, avoiding the excluded nodes.

        Workers that do not run yet and were requested with other excluded nodes are withdrawn first.
        """
        for future, worker in list(self.starting.items()):
            if worker.resources == resources and worker.excluded_nodes != excluded_nodes:
                del self.starting[future]
                self._view.kill(worker.actor)
        present = sum(worker.resources == resources for worker in [*self.running, *self.starting.values()])
        if present >= size or not self._view.head_answers():
            return
        options = {
            "num_cpus": resources.cpu,
            "num_gpus": resources.gpu,
            "resources": {SLOT: WORKER_SLOT} if self._view.cluster.offers_slots else None,
            "label_selector": prediction_selector(excluded_nodes),
        }
        for _ in range(size - present):
            name = f"predict {uuid4().hex[:8]}"  # as the dashboard lists it
            actor = _Worker.options(**options, name=name).remote()
            worker = PoolWorker(actor, resources, excluded_nodes=excluded_nodes)
            self.starting[worker.actor.ready.remote()] = worker

    def admit(self, ready: Iterable[ObjectRef]) -> list[tuple[PoolWorker, str]]:
        """Move workers from `starting` to `running`, and return them with their nodes' ids.

        Raises:
            InfrastructureError: MAX_FAILED_STARTS workers in a row died before they ran, and none runs.
        """
        admitted = []
        for future in ready:
            worker = self.starting.pop(future)
            try:
                node = ray.get(future)
            except RayError as error:
                self._failed_starts += 1
                if self._failed_starts >= MAX_FAILED_STARTS and not self.running:
                    reason = f"{self._failed_starts} workers died before they started"
                    raise InfrastructureError(f"Ray: {reason}: {describe(error)}") from error
                self._view.kill(worker.actor)
            else:
                self._failed_starts = 0
                self.running.add(worker)
                admitted.append((worker, node))
        return admitted

    def check_progress(self, idle: bool) -> None:
        """Give up a cluster on which nothing of this run has been in flight for a long time.

        `idle` says that nothing is in flight now, and that no other run requests a node.

        Raises:
            InfrastructureError: The pool has been idle for START_DEADLINE_SECONDS.
        """
        if not idle:
            self._idle_since = time.monotonic()
        elif time.monotonic() - self._idle_since > START_DEADLINE_SECONDS:
            raise busy_cluster("Ray")

    def drop(self, worker: PoolWorker) -> None:
        """End a worker that died, hangs or is not needed."""
        self.running.discard(worker)
        self._view.kill(worker.actor)

    def close(self) -> None:
        """End all workers. If the head does not answer, they end with it."""
        if self._view.head_answers():
            for worker in [*self.running, *self.starting.values()]:
                ray.kill(worker.actor)


def busy_cluster(what: str) -> InfrastructureError:
    """Return the error for something that has waited START_DEADLINE_SECONDS for a worker."""
    free = {name: ray.available_resources().get(name, 0) for name in ("CPU", "GPU")}
    return InfrastructureError(
        f"{what}: no worker could start within {START_DEADLINE_SECONDS:g} s; the cluster is busy (free now: "
        f"{free['CPU']:g} CPUs, {free['GPU']:g} GPUs); the same command resumes the run"
    )
