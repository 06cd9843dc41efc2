"""A pool of Ray actors for predictions, one whole node at a time for timing.

The pool is our own rather than `ray.util.ActorPool`, which loses the shard that a dying actor held, or
Ray Data, which restarts for ever on a poison batch (docs/decisions/0002-own-actor-pool.md).
"""

from __future__ import annotations

import os
import time
from collections import Counter, deque
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

from harness.checkpoint import Checkpoint, CheckpointRef, Recipe
from harness.errors import InfrastructureError, describe
from harness.executors.executor import Executor
from harness.executors.inline import training_runtime
from harness.plan import Trial
from harness.stages.measure import SpeedSettings, measure
from harness.stages.predict import Predictor, Shard, ShardError, ShardResult
from harness.stages.train import train

ATTEMPTS = 3  # of a shard whose worker died or hung; an adapter's own exception is not tried again
SHARD_DEADLINE = 900.0  # s, loading included; a worker that takes longer is taken to hang
POLL = 0.5  # s between looks at deadlines


class Worker:
    """Holds one loaded model at a time."""

    def __init__(self) -> None:
        self._predictor: Predictor | None = None

    def predict(self, shard: Shard, checkpoint: Checkpoint | None) -> ShardResult | ShardError:
        if self._predictor is None or self._predictor.trial.id != shard.trial.id:
            self._predictor = None  # release the last model before the next is loaded
            self._predictor = Predictor(shard.trial, checkpoint)
        return self._predictor.attempt(shard)


_Worker: Any = ray.remote(max_restarts=0)(Worker)


@ray.remote(max_retries=0, max_calls=1)
def _measure(
    trial: Trial, checkpoint: Checkpoint | None, scenarios: Sequence[str], settings: SpeedSettings
) -> dict[str, Any]:
    return measure(trial, checkpoint, scenarios, settings)


@ray.remote(max_retries=0, max_calls=1)
def _train(recipe: Recipe, weights: Path, lines: Queue) -> dict[str, bytes]:
    train(recipe, weights, training_runtime(), report=lines.put)
    return {path.name: path.read_bytes() for path in (weights, weights.with_suffix(".yaml"))}


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
        self._checkpoints: dict[Path, Any] = {}
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
            raise InfrastructureError(f"training {reference.name}: {describe(error.cause)}") from error
        except RayError as error:
            raise InfrastructureError(f"training {reference.name}: {describe(error)}") from error
        reference.weights.parent.mkdir(parents=True, exist_ok=True)
        for name, content in made.items():
            path = reference.weights.with_name(name)
            if not path.exists():
                path.write_bytes(content)

    def predict(self, work: Sequence[Shard]) -> Iterator[ShardResult | ShardError]:
        queue = _Queue(work)
        attempts: Counter[tuple[str, int]] = Counter()
        free: list[Any] = [None] * min(self.workers, len(work))  # None: to be started when there is work
        holds: dict[Any, str] = {}
        flying: dict[Any, _Flight] = {}
        try:
            while queue or flying:
                while free and queue:
                    worker = free.pop()
                    if worker is None:
                        worker = self._start_worker()
                    shard = queue.take(holds.get(worker), holds.values())
                    holds[worker] = shard.trial.id
                    attempts[shard.trial.id, shard.start] += 1
                    future = worker.predict.remote(shard, self._checkpoint(shard.trial))
                    flying[future] = _Flight(worker, shard, time.monotonic() + self._deadline)
                for future in ray.wait(list(flying), timeout=POLL)[0]:
                    flight = flying.pop(future)
                    outcome = self._outcome(future, flight)
                    if isinstance(outcome, _Lost):
                        self._drop(flight.worker, holds, free)
                        yield from self._again(flight.shard, outcome.reason, attempts, queue)
                    else:
                        free.append(flight.worker)
                        yield outcome
                for future in [f for f, flight in flying.items() if flight.deadline < time.monotonic()]:
                    flight = flying.pop(future)
                    self._drop(flight.worker, holds, free)
                    reason = f"no answer within {self._deadline:g} s"
                    yield from self._again(flight.shard, reason, attempts, queue)
        finally:
            for worker in [*filter(None, free), *(flight.worker for flight in flying.values())]:
                ray.kill(worker)

    def measure(self, trial: Trial, scenarios: Sequence[str], settings: SpeedSettings) -> dict[str, Any]:
        # Every CPU of a node: nothing that Ray schedules can run beside it (num_gpus alone is not exclusive).
        node = max(ray.nodes(), key=lambda node: node["Resources"].get("CPU", 0))["Resources"]
        task = _measure.options(
            num_cpus=node.get("CPU", 1), num_gpus=min(1, node.get("GPU", 0)), name=f"time {trial.name}"
        )
        try:
            return ray.get(task.remote(trial, self._checkpoint(trial), scenarios, settings))
        except RayTaskError as error:
            raise InfrastructureError(f"timing {trial.name}: {describe(error.cause)}") from error
        except RayError as error:
            raise InfrastructureError(f"timing {trial.name}: {describe(error)}") from error

    def _checkpoint(self, trial: Trial) -> Any:
        """The weights in the object store: read once, fetched once a node."""
        if trial.checkpoint is None:
            return None
        path = trial.checkpoint.weights
        if path not in self._checkpoints:
            self._checkpoints[path] = ray.put(trial.load_checkpoint())
        return self._checkpoints[path]

    def _start_worker(self) -> Any:
        return _Worker.options(num_cpus=0 if self._gpus else 1, num_gpus=1 if self._gpus else 0).remote()

    @staticmethod
    def _drop(worker: Any, holds: dict[Any, str], free: list[Any]) -> None:
        """A worker that died or hangs leaves its place to a new one."""
        holds.pop(worker, None)
        ray.kill(worker)
        free.append(None)

    def _outcome(self, future: Any, flight: _Flight) -> ShardResult | ShardError | _Lost:
        try:
            result: ShardResult = ray.get(future, timeout=self._deadline)
        except RayTaskError as error:
            return ShardError(flight.shard, describe(error.cause), 1)
        except (RayActorError, GetTimeoutError, RayError) as error:
            what, _, _ = str(error).partition("\n")  # lines of advice and process numbers follow
            return _Lost(f"{type(error).__name__}: {what}")
        return result

    @staticmethod
    def _again(
        shard: Shard, reason: str, attempts: Counter[tuple[str, int]], queue: _Queue
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


class _Queue:
    """Shards by trial; the longest trial first, and a worker stays with the model that it holds."""

    def __init__(self, work: Sequence[Shard]) -> None:
        self._by_trial: dict[str, deque[Shard]] = {}
        for shard in work:
            self._by_trial.setdefault(shard.trial.id, deque()).append(shard)

    def __bool__(self) -> bool:
        return any(self._by_trial.values())

    def take(self, held: str | None, all_held: Sequence[str] | Any) -> Shard:
        waiting = {trial: shards for trial, shards in self._by_trial.items() if shards}
        if held not in waiting:
            busy = Counter(all_held)
            held = max(waiting, key=lambda trial: len(waiting[trial]) / (1 + busy[trial]))
        return waiting[held].popleft()

    def put_back(self, shard: Shard) -> None:
        self._by_trial[shard.trial.id].append(shard)


def _drain(lines: Queue) -> Iterator[str]:
    while True:
        try:
            yield lines.get_nowait()
        except Empty:
            return
