"""The Ray executor's actors and the order in which they get shards."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Any

import ray
from ray.exceptions import RayError

from harness.checkpoint import Checkpoint
from harness.errors import InfrastructureError, describe
from harness.plan import Trial
from harness.stages.predict import Predictor, Shard, ShardError, ShardResult

START_ATTEMPTS = 3  # workers in a row that die before they start
START_DEADLINE = 1800.0  # s without a worker before a busy cluster is given up


class Worker:
    """Holds one loaded model at a time."""

    def __init__(self) -> None:
        self._predictor: Predictor | None = None

    def ready(self) -> None:
        """Answers as soon as the cluster has given it a place and torch is imported, which takes seconds."""
        import torch  # noqa: F401

    def predict(self, shard: Shard, checkpoint: Checkpoint | None) -> ShardResult | ShardError:
        if self._predictor is None or self._predictor.trial.id != shard.trial.id:
            self._predictor = None  # release the last model before the next is loaded
            self._predictor = Predictor(shard.trial, checkpoint)
        return self._predictor.attempt(shard)


_Worker: Any = ray.remote(max_restarts=0)(Worker)


class Pool:
    """Workers: those that wait for a place on the cluster, and those that are free to take a shard.

    A shard is given only to a worker that runs, so that the time a worker waits for its place on a busy
    cluster is not taken for a hang.
    """

    def __init__(self, size: int, gpu: bool) -> None:
        self._options = {"num_cpus": 0, "num_gpus": 1} if gpu else {"num_cpus": 1, "num_gpus": 0}
        self._lost_at_start = 0
        self._waiting_since = time.monotonic()
        self._all: set[Any] = set()
        self.starting: dict[Any, Any] = {}
        self.free: list[Any] = []
        self.holds: dict[Any, str] = {}
        """Worker → id of the trial whose model it holds."""
        for _ in range(size):
            self._start()

    def admit(self, idle: bool) -> None:
        """Take in the workers that have started.

        Raises:
            InfrastructureError: workers die before they start, or, while no shard is under way (`idle`), the
                cluster gives no place for long.
        """
        for future in [future for future in self.starting if ray.wait([future], timeout=0)[0]]:
            worker = self.starting.pop(future)
            try:
                ray.get(future)
            except RayError as error:
                self._lost_at_start += 1
                if self._lost_at_start >= START_ATTEMPTS:
                    reason = f"{self._lost_at_start} workers died before they started"
                    raise InfrastructureError(f"Ray: {reason}: {describe(error)}") from error
                self.replace(worker)
            else:
                self._lost_at_start = 0
                self.free.append(worker)
        if not idle or self.free:
            self._waiting_since = time.monotonic()
        elif time.monotonic() - self._waiting_since > START_DEADLINE:
            free = {kind: ray.available_resources().get(kind, 0) for kind in ("CPU", "GPU")}
            raise InfrastructureError(
                f"Ray: no worker could start within {START_DEADLINE:g} s; the cluster is busy (free now: "
                f"{free['CPU']:g} CPUs, {free['GPU']:g} GPUs); the same command goes on from here"
            )

    def held_by_next(self) -> str | None:
        """Id of the trial whose model the next free worker holds."""
        return self.holds.get(self.free[-1])

    def take(self, trial: Trial) -> Any:
        worker = self.free.pop()
        self.holds[worker] = trial.id
        return worker

    def replace(self, worker: Any) -> None:
        """A worker that died or hangs leaves its place to a new one."""
        self.holds.pop(worker, None)
        self._all.discard(worker)
        ray.kill(worker)
        self._start()

    def close(self) -> None:
        for worker in self._all:
            ray.kill(worker)

    def _start(self) -> None:
        worker = _Worker.options(**self._options).remote()
        self._all.add(worker)
        self.starting[worker.ready.remote()] = worker


class ShardQueue:
    """Shards by trial; the longest trial first, and a worker stays with the model that it holds."""

    def __init__(self, work: Sequence[Shard]) -> None:
        self._by_trial: dict[str, deque[Shard]] = {}
        for shard in work:
            self._by_trial.setdefault(shard.trial.id, deque()).append(shard)

    def __bool__(self) -> bool:
        return any(self._by_trial.values())

    def take(self, held: str | None, all_held: Iterable[str]) -> Shard:
        waiting = {trial: shards for trial, shards in self._by_trial.items() if shards}
        if held not in waiting:
            busy = Counter(all_held)
            held = max(waiting, key=lambda trial: len(waiting[trial]) / (1 + busy[trial]))
        return waiting[held].popleft()

    def put_back(self, shard: Shard) -> None:
        self._by_trial[shard.trial.id].append(shard)
