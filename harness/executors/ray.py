"""A pool of Ray actors for predictions, one whole node at a time for timing.

The pool is our own rather than `ray.util.ActorPool`, which loses the shard that a dying actor held, or
Ray Data, which restarts for ever on a poison batch (docs/decisions/0002-own-actor-pool.md).
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # else every worker starts through `uv run`: 3 s
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the coming default; silences its warning

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.util.queue import Empty, Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.checkpoint import Checkpoint
from harness.errors import HarnessError, InfrastructureError, UsageError, describe
from harness.executors.executor import Executor
from harness.executors.inline import training_runtime
from harness.executors.ray_pool import Pool, ShardQueue
from harness.plan import Trial
from harness.recipe import CheckpointRef, Recipe
from harness.stages.measure import SpeedSettings, measure
from harness.stages.predict import Shard, ShardError, ShardResult
from harness.stages.train import train

ATTEMPTS = 3  # of a shard whose worker died or hung; an adapter's own exception is not tried again
SHARD_DEADLINE = 900.0  # s, loading included, queueing not; a worker that takes longer is taken to hang
POLL = 0.5  # s between looks at deadlines


@ray.remote(max_retries=0, max_calls=1)
def _measure(
    trial: Trial, checkpoint: Checkpoint | None, scenarios: Sequence[str], settings: SpeedSettings
) -> dict[str, Any]:
    return measure(trial, checkpoint, scenarios, settings)


@ray.remote(max_retries=0, max_calls=1)
def _train(recipe: Recipe, weights: Path, lines: Queue) -> dict[str, bytes]:
    train(recipe, weights, training_runtime(), report=lines.put)
    # The weights come last: where they are, everything is.
    return {path.name: path.read_bytes() for path in (weights.with_suffix(".yaml"), weights)}


@dataclass
class _Flight:
    """A shard on its way."""

    worker: Any
    shard: Shard
    deadline: float


class RayExecutor(Executor):
    """Joins the cluster at `address`, or starts a local one.

    Args:
        workers: how many at most; as many as the cluster has slots if not given.
        deadline: seconds after which a shard's worker is taken to hang and killed.
    """

    name = "ray"

    def __init__(
        self, address: str | None = None, workers: int | None = None, deadline: float = SHARD_DEADLINE
    ) -> None:
        self._address = address
        self._wanted = workers
        self._deadline = deadline
        self._checkpoints: dict[str | None, Any] = {}
        self._timing_nodes: dict[bool, dict[str, Any]] = {}
        self.workers = 0

    def __enter__(self) -> Self:
        options: dict[str, Any] = {} if self._address else {"include_dashboard": False}
        try:
            ray.init(address=self._address or "local", log_to_driver=False, logging_level="error", **options)
        except (ConnectionError, RayError, ValueError, RuntimeError) as error:
            raise InfrastructureError(f"Ray at {self._address or 'this machine'}: {error}") from error
        resources = ray.cluster_resources()
        self._gpus = int(resources.get("GPU", 0))
        slots = self._gpus or int(resources.get("CPU", 0))
        if slots < 1:
            ray.shutdown()
            raise InfrastructureError(f"the Ray cluster at {self._address} has no CPU and no GPU to offer")
        self.workers = min(self._wanted or slots, slots)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ray.shutdown()

    def train(self, reference: CheckpointRef, report: Callable[[str], None]) -> None:
        lines = Queue()
        task = _train.options(num_cpus=1, num_gpus=min(1, self._gpus), name=f"train {reference.name}")
        pending = task.remote(reference.recipe, reference.weights, lines)
        finished = False
        while not finished:
            finished = bool(ray.wait([pending], timeout=POLL)[0])
            for line in _drain(lines):
                report(line)
        lines.shutdown()
        try:
            made = ray.get(pending)
        except RayTaskError as error:
            if isinstance(error.cause, UsageError):
                raise error.cause from None  # the recipe's fault, not the cluster's
            raise InfrastructureError(f"training {reference.name}: {describe(error.cause)}") from error
        except RayError as error:
            raise InfrastructureError(f"training {reference.name}: {describe(error)}") from error
        reference.weights.parent.mkdir(parents=True, exist_ok=True)
        for name, content in made.items():
            path = reference.weights.with_name(name)
            if not path.exists():
                temporary = path.with_name(f".{name}.{os.getpid()}")
                temporary.write_bytes(content)
                temporary.replace(path)

    def predict(self, work: Sequence[Shard]) -> Iterator[ShardResult | ShardError]:
        queue = ShardQueue(work)
        pool = Pool(min(self.workers, len(work)), gpu=self._gpus > 0)
        attempts: Counter[tuple[str, int]] = Counter()
        flying: dict[Any, _Flight] = {}
        try:
            while queue or flying:
                pool.admit(idle=not flying)
                while pool.free and queue:
                    shard = queue.take(pool.held_by_next(), pool.holds.values())
                    try:
                        checkpoint = self._checkpoint(shard.trial)
                    except HarnessError as error:
                        yield ShardError(shard, describe(error), 1)
                        continue
                    worker = pool.take(shard.trial)
                    attempts[shard.trial.id, shard.start] += 1
                    future = worker.predict.remote(shard, checkpoint)
                    flying[future] = _Flight(worker, shard, time.monotonic() + self._deadline)
                awaited = [*flying, *pool.starting]
                for future in ray.wait(awaited, timeout=POLL)[0] if awaited else []:
                    if future not in flying:
                        continue  # a worker that has started: admitted above
                    flight = flying.pop(future)
                    outcome = self._outcome(future, flight)
                    if isinstance(outcome, _Lost):
                        pool.replace(flight.worker)
                        yield from self._again(flight.shard, outcome.reason, attempts, queue)
                    else:
                        pool.free.append(flight.worker)
                        yield outcome
                for future in [f for f, flight in flying.items() if flight.deadline < time.monotonic()]:
                    flight = flying.pop(future)
                    pool.replace(flight.worker)
                    reason = f"no answer within {self._deadline:g} s"
                    yield from self._again(flight.shard, reason, attempts, queue)
        finally:
            pool.close()

    def measure(self, trial: Trial, scenarios: Sequence[str], settings: SpeedSettings) -> dict[str, Any]:
        node = self._node_to_time_on(trial)
        # All of a node: nothing that Ray schedules can run beside it (num_gpus alone is not exclusive).
        task = _measure.options(
            num_cpus=node["Resources"].get("CPU", 0),
            num_gpus=node["Resources"].get("GPU", 0),
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            name=f"time {trial.name}",
        )
        deadline = settings.deadline(len(scenarios))
        what = f"timing {trial.name} on node {node['NodeManagerHostname']}"
        try:
            pending = task.remote(trial, self._checkpoint(trial), scenarios, settings)
            measured: dict[str, Any] = ray.get(pending, timeout=deadline)
        except RayTaskError as error:
            raise InfrastructureError(f"{what}: {describe(error.cause)}") from error
        except GetTimeoutError as error:
            ray.cancel(pending, force=True)
            reason = f"no answer within {deadline:g} s, waiting for the whole node included"
            raise InfrastructureError(f"{what}: {reason}") from error
        except (RayError, UsageError) as error:
            raise InfrastructureError(f"{what}: {describe(error)}") from error
        return measured

    def _node_to_time_on(self, trial: Trial) -> dict[str, Any]:
        """The node of most CPUs that has what the trial's device needs; the same one throughout a run."""
        needs_gpu = trial.spec.device == "cuda" or (trial.spec.device == "auto" and self._gpus > 0)
        if needs_gpu not in self._timing_nodes:
            fitting = [
                node
                for node in ray.nodes()
                if node["Alive"] and node["Resources"].get("GPU" if needs_gpu else "CPU", 0) >= 1
            ]
            if not fitting:
                kind = "GPU" if needs_gpu else "CPU"
                raise InfrastructureError(f"timing {trial.name}: no node of the Ray cluster has a {kind}")
            by_size = sorted(fitting, key=lambda node: (-node["Resources"].get("CPU", 0), node["NodeID"]))
            self._timing_nodes[needs_gpu] = by_size[0]
        return self._timing_nodes[needs_gpu]

    def _checkpoint(self, trial: Trial) -> Any:
        """The weights in the object store: read once, fetched once a node."""
        if trial.checkpoint is None:
            return None
        digest = trial.spec.checkpoint
        if digest not in self._checkpoints:
            self._checkpoints[digest] = ray.put(trial.load_checkpoint())
        return self._checkpoints[digest]

    def _outcome(self, future: Any, flight: _Flight) -> ShardResult | ShardError | _Lost:
        try:
            result: ShardResult | ShardError = ray.get(future, timeout=self._deadline)
        except RayTaskError as error:
            return ShardError(flight.shard, describe(error.cause), 1)
        except (RayActorError, GetTimeoutError, RayError) as error:
            what, _, _ = str(error).partition("\n")  # lines of advice and process numbers follow
            return _Lost(f"{type(error).__name__}: {what}")
        return result

    @staticmethod
    def _again(
        shard: Shard, reason: str, attempts: Counter[tuple[str, int]], queue: ShardQueue
    ) -> Iterator[ShardError]:
        tried = attempts[shard.trial.id, shard.start]
        if tried < ATTEMPTS:
            queue.put_back(shard)
        else:
            yield ShardError(shard, f"worker lost {tried} times: {reason}", tried)


@dataclass(frozen=True)
class _Lost:
    """The worker is gone; the shard is not to blame, or not yet."""

    reason: str


def _drain(lines: Queue) -> Iterator[str]:
    while True:
        try:
            yield lines.get_nowait()
        except Empty:
            return
