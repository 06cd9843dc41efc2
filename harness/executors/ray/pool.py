"""The Ray executor's actors that predict: started where there is room, replaced, released."""

from __future__ import annotations

import platform
import time
from collections import deque
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import ray
from ray.exceptions import RayError

from harness.adapter import Resources
from harness.errors import InfrastructureError, describe
from harness.executors.ray.cluster_view import View
from harness.executors.scheduling.cluster import SLOT, WORKER_SLOT, away_from, node_name
from harness.stages.predict import Predictor
from harness.stages.shards import Outcome, Shard

START_ATTEMPTS = 3  # workers in a row that die before they start
START_DEADLINE = 1800.0  # s without a worker before a busy cluster is given up


@dataclass(frozen=True)
class NotLoaded:
    """A worker's answer where it could not load a model: other nodes may have the data, or more memory."""

    error: str
    everywhere: bool = False  # no node can


class Worker:
    """Holds one loaded model at a time."""

    def __init__(self) -> None:
        self._predictor: Predictor | None = None

    def ready(self) -> str:
        """The node's id, once the cluster has given a place and torch is imported, which takes seconds."""
        import torch  # noqa: F401

        node = str(ray.get_runtime_context().get_node_id())
        self._node = node_name(platform.node(), node)
        return node

    def predict(self, shard: Shard, weights: Sequence[Any], most: int) -> list[Outcome] | NotLoaded:
        """A shard's outcomes.

        Args:
            weights: a reference to the checkpoint in a list, so that Ray does not unpack it for every shard;
                empty for an adapter without one.
        """
        if self._predictor is None or self._predictor.trial.id != shard.trial.id:
            self._predictor = None  # release the last model before the next is loaded
            checkpoint = ray.get(weights[0]) if weights else None
            try:
                self._predictor = Predictor(shard.trial, checkpoint, self._node)
            except Exception as error:
                return NotLoaded(describe(error))
        return self._predictor.attempt(shard, most)


_Worker: Any = ray.remote(max_restarts=0)(Worker)


@dataclass(eq=False)
class Member:
    """An actor, and the answers that it owes, in the order in which they will come."""

    actor: Any
    kind: Resources
    answers: deque[Any] = field(default_factory=deque)
    avoided: Set[str] = frozenset()  # nodes away from which it was to be started


class Pool:
    """Actors that wait for a place on the cluster, and those that run.

    A shard is given only to one that runs, so that waiting for a place on a busy cluster is not taken for a
    hang. Those that find no room wait in Ray's queue: when nodes join or others leave, they start.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        self.starting: dict[Any, Member] = {}
        self.running: set[Member] = set()
        self._lost_at_start = 0
        self._waiting_since = time.monotonic()

    def resize(self, kind: Resources, number: int, avoided: Set[str]) -> None:
        """Start what is missing of so many workers of a kind, away from nodes to avoid.

        Those without a place are withdrawn where the nodes to avoid are others now.
        """
        for future, member in list(self.starting.items()):
            if member.kind == kind and member.avoided != avoided:
                del self.starting[future]
                self._view.end(member.actor)
        present = sum(member.kind == kind for member in [*self.running, *self.starting.values()])
        if present >= number or not self._view.answering():
            return
        for _ in range(number - present):
            options = _options(kind, self._view.cluster.slotted, avoided)
            member = Member(_Worker.options(**options).remote(), kind, avoided=avoided)
            self.starting[member.actor.ready.remote()] = member

    def admit(self, ready: Iterable[Any]) -> list[tuple[Member, str]]:
        """Those of the actors in `starting` that run by now, with their nodes' ids.

        Raises:
            InfrastructureError: workers die before they start, and none runs.
        """
        admitted = []
        for future in ready:
            member = self.starting.pop(future)
            try:
                node = ray.get(future)
            except RayError as error:
                self._lost_at_start += 1
                if self._lost_at_start >= START_ATTEMPTS and not self.running:
                    reason = f"{self._lost_at_start} workers died before they started"
                    raise InfrastructureError(f"Ray: {reason}: {describe(error)}") from error
                self._view.end(member.actor)
            else:
                self._lost_at_start = 0
                self.running.add(member)
                admitted.append((member, node))
        return admitted

    def check(self, idle: bool) -> None:
        """Give up a cluster on which nothing of ours has run for long.

        Raises:
            InfrastructureError: while no shard was under way (`idle`).
        """
        if not idle:
            self._waiting_since = time.monotonic()
        elif time.monotonic() - self._waiting_since > START_DEADLINE:
            raise crowded("Ray")

    def drop(self, member: Member) -> None:
        """End a worker that died, hangs or is not needed."""
        self.running.discard(member)
        self._view.end(member.actor)

    def close(self) -> None:
        """End all; where the head does not answer they end with it."""
        if self._view.answering():
            for member in [*self.running, *self.starting.values()]:
                ray.kill(member.actor)


def crowded(what: str) -> InfrastructureError:
    """The error where something has waited for a worker until START_DEADLINE."""
    free = {kind: ray.available_resources().get(kind, 0) for kind in ("CPU", "GPU")}
    return InfrastructureError(
        f"{what}: no worker could start within {START_DEADLINE:g} s; the cluster is busy (free now: "
        f"{free['CPU']:g} CPUs, {free['GPU']:g} GPUs); the same command goes on from here"
    )


def _options(kind: Resources, slotted: bool, avoided: Set[str]) -> dict[str, Any]:
    """How Ray is to place a worker."""
    return {
        "num_cpus": kind.cpu,
        "num_gpus": kind.gpu,
        "resources": {SLOT: WORKER_SLOT} if slotted else None,
        "label_selector": away_from(avoided),
        "name": f"predict {uuid4().hex[:8]}",  # as the dashboard lists it
    }
