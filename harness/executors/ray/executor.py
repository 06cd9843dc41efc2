"""Predictions on a pool of Ray actors, timing on a node of its own; the scheduler decides, this obeys.

The pool is our own rather than `ray.util.ActorPool`, which loses the shard that a dying actor held, or
Ray Data, which restarts for ever on a poison batch (docs/decisions/0002-own-actor-pool.md).
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # else every worker starts through `uv run`: 3 s
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the coming default; silences its warning

import ray
from ray.exceptions import ObjectStoreFullError, OutOfDiskError, OutOfMemoryError, RayError, RayTaskError

from harness.adapter import Resources
from harness.errors import InfrastructureError, UsageError, describe
from harness.executors.executor import Executor
from harness.executors.ray.cluster_view import View
from harness.executors.ray.pool import Member, NotLoaded, Pool
from harness.executors.ray.timing import lost_with_node, summon, time_on
from harness.executors.ray.timing_requests import ClusterClaims
from harness.executors.scheduling.scheduler import Assignment, Cause, Scheduler
from harness.recipe import CheckpointRef
from harness.stages.measure import SpeedSettings
from harness.stages.shards import Outcome, Work
from harness.trial import Trial

SHARD_DEADLINE = 900.0  # s, loading included, queueing not; a worker that takes longer is taken to hang
POLL = 0.5  # s between looks at deadlines
GATHER = 5e-5  # s a worker; looking takes 2e-6 s a worker (benchmarks/driver_loop.py)
LEAST_ASKED = 8  # workers that are asked for on an autoscaled cluster that has room for none
STAFFING = 0.2  # s between looks at how many workers there should be


class RayExecutor(Executor):
    """Joins the cluster at `address`, or starts a local one.

    Args:
        workers: how many at most, of each kind; as many as the cluster has room for if not given.
        deadline: seconds after which a model's first shard is taken to hang, and its worker killed.
    """

    name = "ray"

    def __init__(
        self, address: str | None = None, workers: int | None = None, deadline: float = SHARD_DEADLINE
    ) -> None:
        self._address = address
        self._wanted = workers
        self._deadline = deadline
        self._checkpoints: dict[str | None, Any] = {}
        self._timing_nodes: dict[bool, str] = {}
        self.workers = 0

    def __enter__(self) -> Self:
        options: dict[str, Any] = {} if self._address else {"include_dashboard": False}
        ours = signal.getsignal(signal.SIGTERM)  # Ray puts one in its place that ends the process at once
        try:
            ray.init(address=self._address or "local", log_to_driver=False, logging_level="error", **options)
        except Exception as error:  # a node that does not start in time is a bare Exception of Ray's
            # A head asks for tokens wherever it finds one when it starts; a client is told that it fails.
            asks = self._address and "RAY_AUTH_MODE" not in os.environ
            hint = " (set RAY_AUTH_MODE=token if it asks for tokens)" if asks else ""
            raise InfrastructureError(f"Ray at {self._address or 'this machine'}: {error}{hint}") from error
        finally:
            if callable(ours) and threading.current_thread() is threading.main_thread():  # no other may
                signal.signal(signal.SIGTERM, ours)
        self._view = View()
        # Nobody else can be on a cluster that was started here.
        self._claims = ClusterClaims() if self._address else None
        gpus = self._view.cluster.gpus
        slots = int(gpus or sum(node.resources.get("CPU", 0) for node in self._view.cluster.packed))
        self.workers = min(self._wanted or slots, slots)
        self._view.watch()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._claims is not None:
                self._claims.release()
            ray.shutdown()
        finally:
            self._view.close()

    def check(self, trials: Sequence[Trial]) -> None:
        missing = self._view.cluster.missing(trials)
        if missing:
            raise InfrastructureError(missing)

    def train(
        self, reference: CheckpointRef, report: Callable[[str], None], workers: int | None = None
    ) -> None:
        claimed = self._claims.look if self._claims else dict[str, int]
        if workers is None:
            from harness.executors.ray.train_alone import train_alone  # imports torch, which takes seconds

            train_alone(reference, self._view, claimed, report)
        else:
            from harness.executors.ray.train_together import train_together  # takes seconds more

            train_together(reference, workers, self._view, claimed, report)

    def predict(self, work: Sequence[Work]) -> Iterator[Outcome]:
        kinds = {each.trial.id: self._view.cluster.kind(each.trial) for each in work}
        scheduler: Scheduler[Member] = Scheduler(work, kinds, time.monotonic, self._deadline)
        self.retries = scheduler.retries
        pool = Pool(self._view)
        due = 0.0
        try:
            while scheduler.busy:
                if time.monotonic() >= due:
                    yield from self._staff(pool, scheduler, set(kinds.values()))
                    due = time.monotonic() + STAFFING
                for assignment in scheduler.assign():
                    self._send(assignment)
                owing = {member.answers[0]: member for member in pool.running if member.answers}
                for future in _ready([*owing, *pool.starting]):
                    if future in pool.starting:
                        for member, node in pool.admit([future]):
                            scheduler.joined(member, node, member.kind)
                    elif owing[future] in pool.running:
                        yield from self._receive(pool, scheduler, owing[future])
                for member, seconds in scheduler.expired():
                    if ray.wait([member.answers[0]], timeout=0)[0]:
                        continue  # it came while this process was busy
                    pool.drop(member)
                    yield from scheduler.lost(member, f"no answer within {seconds:g} s")
        finally:
            pool.close()

    def _staff(self, pool: Pool, scheduler: Scheduler[Member], kinds: set[Resources]) -> list[Outcome]:
        """As many workers as there is work and room for, none where others want to time or nothing loads.

        Returns what is given up because it can be loaded nowhere.
        """
        self._view.refresh()
        living = {node.id for node in self._view.cluster.nodes}
        packed = self._view.cluster.packed
        room = {kind: {node.id for node in packed if node.room(kind)} for kind in kinds}
        given_up = scheduler.saw(living, room)
        claimed = self._claims.claimed().keys() if self._claims else frozenset[str]()
        pool.check(idle=not claimed and not any(member.answers for member in pool.running))
        scheduler.avoid(frozenset(claimed))
        for member in [each for kind in kinds for each in scheduler.leaving(kind)]:
            scheduler.released(member)
            pool.drop(member)
        demand = {kind: scheduler.demand(kind) for kind in kinds}
        short = {kind for kind in kinds if scheduler.waiting(kind)}
        for kind in kinds - short if short else ():  # it has nothing left to do, others may use the room
            for member in scheduler.idle(kind):
                scheduler.released(member)
                pool.drop(member)
        wanted = self._view.cluster.capacity(demand)
        for kind, number in wanted.items():
            if self._view.cluster.adds(kind.gpu > 0):  # those without room make nodes start, ever more
                wanted[kind] = min(demand[kind], 2 * number + LEAST_ASKED)
        for kind, number in wanted.items():
            pool.resize(kind, min(number, self._wanted or number), scheduler.useless(kind))
        return given_up

    def _send(self, assignment: Assignment[Member]) -> None:
        member, shard = assignment.worker, assignment.shard
        try:
            weights = [] if shard.trial.checkpoint is None else [self._checkpoint(shard.trial)]
        except UsageError as error:  # an answer like the worker's own, when its turn comes
            member.answers.append(ray.put(NotLoaded(describe(error), everywhere=True)))
            return
        method = member.actor.predict.options(name=f"{shard.trial.name} {shard.start}–{shard.stop}")
        member.answers.append(method.remote(shard, weights, assignment.most))

    def _receive(self, pool: Pool, scheduler: Scheduler[Member], member: Member) -> list[Outcome]:
        """A worker's next answer, or its end."""
        try:
            answer: list[Outcome] | NotLoaded = ray.get(member.answers.popleft())
        except RayError as error:  # of a task: its GPU cannot be used any more, or its answer not be stored
            pool.drop(member)
            told = error.cause if isinstance(error, RayTaskError) else error
            what, _, _ = str(told).partition("\n")  # lines of advice and process numbers follow
            return scheduler.lost(member, f"{type(told).__name__}: {what}", _cause(error))
        if isinstance(answer, NotLoaded):
            scheduler.refused(member, answer.error, answer.everywhere)
            final = []
        else:
            final = scheduler.finished(member, answer)
        if not scheduler.owed(member):
            member.answers.clear()  # what it was sent ahead has been taken back; others will do it
        return final

    def measure(self, trial: Trial, scenarios: Sequence[str], settings: SpeedSettings) -> dict[str, Any]:
        try:
            return self._measure(trial, scenarios, settings)
        except InfrastructureError as error:
            timed_on = self._timing_nodes.get(self._view.cluster.on_gpu(trial))
            if not lost_with_node(error, timed_on, self._view):
                raise
        return self._measure(trial, scenarios, settings)  # once more, on another node

    def _measure(self, trial: Trial, scenarios: Sequence[str], settings: SpeedSettings) -> dict[str, Any]:
        self._view.wait_for_head()
        cluster = self._view.cluster
        on_gpu = cluster.on_gpu(trial)
        living = {node.id for node in cluster.nodes}
        if self._timing_nodes.get(on_gpu) not in living:  # the same one throughout a run
            claims = self._claims.look() if self._claims else {}
            found = cluster.timing_node(trial, claims)
            self._timing_nodes[on_gpu] = found.id if found else summon(trial, on_gpu, self._view)
        node = next((n for n in self._view.cluster.nodes if n.id == self._timing_nodes[on_gpu]), None)
        if node is None:
            raise InfrastructureError(f"timing {trial.name}: the node that came for it is gone again")
        if self._claims is not None:
            self._claims.hold(node.id)
        try:
            checkpoint = self._checkpoint(trial)
        except UsageError as error:
            raise InfrastructureError(f"timing {trial.name}: {error}") from error
        exclusive = settings.exclusive if on_gpu else "node"
        return time_on(node, exclusive, trial, checkpoint, scenarios, settings, self._view)

    def _checkpoint(self, trial: Trial) -> Any:
        """The weights in the object store: read once, fetched once a node.

        Raises:
            UsageError: the file cannot be read, or is no longer the one that was planned.
            InfrastructureError: the object store has no room for it.
        """
        if trial.checkpoint is None:
            return None
        digest = trial.spec.checkpoint
        if digest not in self._checkpoints:
            loaded = trial.load_checkpoint()
            try:
                self._checkpoints[digest] = ray.put(loaded)
            except (ObjectStoreFullError, OutOfDiskError) as error:
                raise InfrastructureError(
                    f"{trial.name}: Ray's object store has no room for {trial.checkpoint.weights.name}: "
                    "start Ray with a larger --object-store-memory, or free disk space for what it spills"
                ) from error
        return self._checkpoints[digest]


def _cause(error: RayError) -> Cause:
    if isinstance(error, OutOfMemoryError):
        return "memory"
    return "store" if isinstance(error, ObjectStoreFullError | OutOfDiskError) else "process"


def _ready(futures: list[Any]) -> list[Any]:
    """Those that are there, waiting a moment for the first."""
    if not futures:
        time.sleep(POLL)
        return []
    if not ray.wait(futures, timeout=POLL)[0]:
        return []
    time.sleep(GATHER * len(futures))  # those that come together are looked for once; each has a shard ahead
    ready: list[Any] = ray.wait(futures, num_returns=len(futures), timeout=0)[0]
    return ready
