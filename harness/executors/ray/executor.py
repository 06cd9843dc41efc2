"""The executor that runs stages on a Ray cluster.

It has its own actor pool, because `ray.util.ActorPool` loses the shard of a dying actor, and Ray Data
restarts for ever on a batch that kills its worker (docs/decisions/0002-own-actor-pool.md).
"""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from threading import current_thread, main_thread
from typing import Self

os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # `uv run` would add 3 s to the start of a worker
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's future default; silences its warning

import ray

from harness.errors import InfrastructureError, UsageError
from harness.executors.executor import FIRST_SHARD_DEADLINE_SECONDS, Executor
from harness.executors.ray.checkpoint_store import CheckpointStore
from harness.executors.ray.cluster_view import ClusterView
from harness.executors.ray.handles import ActorHandle
from harness.executors.ray.local import private_ray
from harness.executors.ray.prediction import PredictionRun
from harness.executors.ray.timing import failed_with_node, release, request_timing_node, time_on
from harness.executors.ray.timing_requests import ClusterTimingRequests
from harness.executors.scheduling.cluster import Node
from harness.recipe import CheckpointRef, Report
from harness.scenarios.settings import SpeedSettings
from harness.stages.measure import Measurement
from harness.stages.shards import Outcome, Work
from harness.trial import Trial


class RayExecutor(Executor):
    """Joins the cluster at `address`, or starts a local one.

    Args:
        max_workers: Maximum number of workers with the same resources; None for as many as fit on the
            cluster.
        first_deadline: Seconds after which a model's first shard counts as hanging, and its worker is killed.
    """

    name = "ray"

    def __init__(
        self,
        address: str | None = None,
        max_workers: int | None = None,
        first_deadline: float = FIRST_SHARD_DEADLINE_SECONDS,
    ) -> None:
        self._address = address
        self._max_workers = max_workers
        self._first_deadline = first_deadline
        self._checkpoints = CheckpointStore()
        self._timing_nodes: dict[bool, str] = {}  # whether on a GPU → node id, the same throughout a run
        self._held: dict[str, ActorHandle] = {}  # see `time_on`
        self.workers = 0

    def __enter__(self) -> Self:
        self._init_ray()
        self._view = ClusterView()
        # A local cluster has no other runs.
        self._requests = ClusterTimingRequests() if self._address else None
        cluster = self._view.cluster
        slots = int(cluster.gpus or sum(node.cpus for node in cluster.prediction_nodes))
        self.workers = min(self._max_workers or slots, slots)
        self._view.start_watchdog()
        return self

    def _init_ray(self) -> None:
        options: dict[str, object] = {} if self._address else {"include_dashboard": False}
        before = signal.getsignal(signal.SIGTERM)
        with ExitStack() as settings:
            if not self._address:
                settings.enter_context(private_ray())
            try:
                ray.init(
                    address=self._address or "local", log_to_driver=False, logging_level="error", **options
                )
            except Exception as error:  # Ray raises a bare Exception if a node does not start in time
                # Ray does not tell a client without a token that the head requires one.
                may_lack_token = self._address and "RAY_AUTH_MODE" not in os.environ
                hint = " (set RAY_AUTH_MODE=token if it requires tokens)" if may_lack_token else ""
                raise InfrastructureError(
                    f"Ray at {self._address or 'this machine'}: {error}{hint}"
                ) from error
            if current_thread() is main_thread():  # Ray's own handler would end the process as by an error
                signal.signal(signal.SIGTERM, signal.default_int_handler)
                settings.callback(signal.signal, signal.SIGTERM, before)
            self._settings = settings.pop_all()

    def __exit__(self, *_: object) -> None:
        try:
            if self._requests is not None:
                self._requests.withdraw()
            ray.shutdown()
        finally:
            self._view.close()
            self._settings.close()

    def check(self, trials: Sequence[Trial]) -> None:
        reason = self._view.cluster.why_infeasible(trials)
        if reason:
            raise InfrastructureError(reason)

    def train(self, reference: CheckpointRef, report: Report) -> None:
        from harness.executors.ray.training import train_checkpoint  # imports torch, which takes seconds

        requested_nodes = self._requests.requested_nodes if self._requests else dict[str, int]
        train_checkpoint(reference, self._view, requested_nodes, report)

    def predict(self, work: Sequence[Work]) -> Iterator[Outcome]:
        release(self._held, self._view)
        run = PredictionRun(
            work, self._view, self._checkpoints, self._requests, self._max_workers, self._first_deadline
        )
        self.retries = run.scheduler.retries
        yield from run.outcomes()

    def measure(self, trial: Trial, scenarios: Sequence[str], settings: SpeedSettings) -> Measurement:
        try:
            return self._measure(trial, scenarios, settings)
        except InfrastructureError as error:
            node_id = self._timing_nodes.get(self._view.cluster.runs_on_gpu(trial))
            if not failed_with_node(error, node_id, self._view):
                raise
        return self._measure(trial, scenarios, settings)  # once more, on another node

    def _measure(self, trial: Trial, scenarios: Sequence[str], settings: SpeedSettings) -> Measurement:
        self._view.wait_for_head()
        on_gpu = self._view.cluster.runs_on_gpu(trial)
        node = self._timing_node(trial, on_gpu)
        if self._requests is not None:
            self._requests.request(node.id)
        try:
            checkpoint = self._checkpoints.put(trial)
        except UsageError as error:
            raise InfrastructureError(f"timing {trial.name}: {error}") from error
        exclusive = settings.exclusive if on_gpu else "node"
        held = self._held if self._requests is None else None
        return time_on(node, exclusive, trial, checkpoint, scenarios, settings, self._view, held)

    def _timing_node(self, trial: Trial, on_gpu: bool) -> Node:
        """Return the node on which this run times; choose one if it has none that is alive."""
        living = {node.id: node for node in self._view.cluster.nodes}
        if self._timing_nodes.get(on_gpu) not in living:
            requested_nodes = self._requests.requested_nodes() if self._requests else {}
            node = self._view.cluster.timing_node(trial, requested_nodes)
            node_id = node.id if node else request_timing_node(trial, on_gpu, self._view)
            self._timing_nodes[on_gpu] = node_id
            living = {node.id: node for node in self._view.cluster.nodes}
        if self._timing_nodes[on_gpu] not in living:
            raise InfrastructureError(f"timing {trial.name}: the node that was started for it is gone again")
        return living[self._timing_nodes[on_gpu]]
