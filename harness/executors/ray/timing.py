"""Timing on a Ray cluster: one fresh process that has a node, or a GPU, to itself."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.checkpoint import Checkpoint
from harness.errors import InfrastructureError, describe
from harness.executors.ray.cluster_view import View
from harness.executors.scheduling.cluster import POOL, TIMING, Node, away_from, reservation
from harness.stages.measure import SpeedSettings, measure
from harness.suite.profiles import Exclusive
from harness.trial import Trial

PLACE_DEADLINE = 7200.0  # s that a trial waits for its node; others finish a shard or a timing meanwhile
POLL = 1.0  # s
NODE_DEATH = 30.0  # s until Ray knows that a node is dead whose processes are


class Timer:
    """A process that times and ends."""

    def ready(self) -> str:
        """The node's id, as soon as there is room."""
        return str(ray.get_runtime_context().get_node_id())

    def measure(
        self, trial: Trial, checkpoint: Checkpoint | None, scenarios: Sequence[str], settings: SpeedSettings
    ) -> dict[str, Any]:
        return measure(trial, checkpoint, scenarios, settings)


_Timer: Any = ray.remote(max_restarts=0)(Timer)


def time_on(
    node: Node,
    exclusive: Exclusive,
    trial: Trial,
    checkpoint: Any,
    scenarios: Sequence[str],
    settings: SpeedSettings,
    view: View,
) -> dict[str, Any]:
    """What `measure` returns, with where it was measured and what was reserved for it.

    Args:
        checkpoint: in the object store, or None.

    Raises:
        InfrastructureError: the node is not to be had, the process died or hung, the adapter raised an error,
            or the cluster's head is gone.
    """
    what = f"timing {trial.name} on node {node.name}"
    reserved = reservation(node, exclusive)
    others = {name: amount for name, amount in reserved.items() if name not in ("CPU", "GPU")}
    actor = _Timer.options(
        num_cpus=reserved.get("CPU", 0),
        num_gpus=reserved.get("GPU", 0),
        resources=others or None,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
        name=f"time {trial.name}",
    ).remote()
    deadline = settings.deadline(len(scenarios))
    try:
        _wait(actor.ready.remote(), PLACE_DEADLINE, f"{what}: it did not become free", view)
        pending = actor.measure.remote(trial, checkpoint, scenarios, settings)
        measured: dict[str, Any] = _wait(pending, deadline, f"{what}: no answer", view)
    except RayTaskError as error:
        raise InfrastructureError(f"{what}: {describe(error.cause)}") from error
    except RayError as error:
        raise InfrastructureError(f"{what}: {describe(error)}") from error
    finally:
        view.end(actor)
    for scenario in measured["scenarios"].values():
        scenario["timed_on"] |= {"node": node.name, "reserved": reserved}
    return measured


def summon(trial: Trial, on_gpu: bool, view: View) -> str:
    """Have the autoscaler start a node of the timing pool, or one for predictions if it adds no such; its id.

    Raises:
        InfrastructureError: none came.
    """
    place = {POOL: TIMING} if TIMING in view.cluster.grows else away_from(frozenset())
    needed = "a GPU" if on_gpu else "a CPU"
    what = f"timing {trial.name}: no node with {needed} and label {POOL} {place[POOL]} came"
    actor = _Timer.options(num_cpus=1, num_gpus=int(on_gpu), label_selector=place).remote()
    try:
        node = str(_wait(actor.ready.remote(), PLACE_DEADLINE, what, view))
    except RayError as error:
        raise InfrastructureError(f"{what}: {describe(error)}") from error
    finally:
        view.end(actor)
    view.refresh(at_once=True)
    return node


def lost_with_node(failure: InfrastructureError, node: str | None, view: View) -> bool:
    """Whether a timing failed because the node that it was on, by its id, is no more."""
    error = failure.__cause__
    lost = isinstance(error, RayError) and not isinstance(error, RayTaskError)
    if node is None:  # the one that started for it, before it was known here
        return lost
    end = time.monotonic() + (NODE_DEATH if lost else 0.0)
    while any(each.id == node for each in view.cluster.nodes):
        if time.monotonic() >= end:
            return False
        time.sleep(POLL)
        view.refresh(at_once=True)
    return True


def _wait(pending: Any, seconds: float, failure: str, view: View) -> Any:
    """The answer, or its error."""
    end = time.monotonic() + seconds
    while not ray.wait([pending], timeout=min(POLL, seconds))[0]:
        view.refresh()
        if time.monotonic() > end:
            raise InfrastructureError(f"{failure} within {seconds:g} s")
    return ray.get(pending)
