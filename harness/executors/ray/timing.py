"""Timing on a Ray cluster: fresh processes that have a node, or a GPU, to themselves."""

import time
from collections.abc import Sequence

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.checkpoint import Checkpoint
from harness.errors import InfrastructureError, catch_all, describe
from harness.executors.ray.cluster_view import ClusterView
from harness.executors.ray.handles import ActorHandle, ObjectRef
from harness.executors.scheduling.cluster import (
    POOL_LABEL,
    TIMING_POOL,
    Node,
    prediction_selector,
    reservation,
)
from harness.executors.timing_worker import TimingWorker
from harness.scenarios.settings import Exclusive, SpeedSettings
from harness.stages.measure import Measurement
from harness.trial import Trial

NODE_DEADLINE_SECONDS = 7200.0  # for a node to become free, while others finish a shard or a timing
POLL_SECONDS = 1.0  # between checks of the cluster's nodes
NODE_DEATH_SECONDS = 30.0  # until Ray reports a node as dead after its processes died


class Timer:
    """An actor that has a node, or a GPU, to itself and times processes there."""

    def ready(self) -> str:
        """Return the node's id, once the actor runs."""
        return str(ray.get_runtime_context().get_node_id())

    def __init__(self) -> None:
        self._worker = TimingWorker()

    def measure(
        self, trial: Trial, checkpoint: Checkpoint | None, scenarios: Sequence[str], settings: SpeedSettings
    ) -> Measurement:
        with catch_all():  # SystemExit would end the actor as if it had been asked to
            return self._worker.measure(trial, checkpoint, scenarios, settings)


_Timer = ray.remote(max_restarts=0)(Timer)


def time_on(
    node: Node,
    exclusive: Exclusive,
    trial: Trial,
    checkpoint: ObjectRef | None,
    scenarios: Sequence[str],
    settings: SpeedSettings,
    view: ClusterView,
    held: dict[str, ActorHandle] | None,
) -> Measurement:
    """Time a trial on a node. The result records the node and the resources reserved on it.

    Args:
        held: The actor that holds a node of a local cluster until the next timing, by what it reserves. None
            if the node is released at once, because other runs may wait for it.
    """
    what = f"timing {trial.name} on node {node.name}"
    reserved = reservation(node, exclusive)
    others = {name: amount for name, amount in reserved.items() if name not in ("CPU", "GPU")}
    key = f"{node.id} {reserved}"
    actor = held.pop(key, None) if held is not None else None
    if actor is None:
        release(held or {}, view)
        actor = _Timer.options(
            num_cpus=reserved.get("CPU", 0),
            num_gpus=reserved.get("GPU", 0),
            resources=others or None,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
            name=f"time {trial.name}",
        ).remote()
    deadline = settings.deadline(len(scenarios))
    try:
        _wait(actor.ready.remote(), NODE_DEADLINE_SECONDS, f"{what}: it did not become free", view)
        pending = actor.measure.remote(trial, checkpoint, scenarios, settings)
        _wait(pending, deadline, f"{what}: no answer", view)
        measurement: Measurement = ray.get(pending)
        if held is not None:
            held[key] = actor
    except RayTaskError as error:
        raise InfrastructureError(f"{what}: {describe(error.cause)}") from error
    except RayError as error:
        raise InfrastructureError(f"{what}: {describe(error)}") from error
    finally:
        if not held:
            view.kill(actor)
    return measurement.on_node(node.name, reserved)


def release(held: dict[str, ActorHandle], view: ClusterView) -> None:
    """Kill the actor that holds a node, if there is one."""
    while held:
        view.kill(held.popitem()[1])


def request_timing_node(trial: Trial, on_gpu: bool, view: ClusterView) -> str:
    """Let the autoscaler start a node for timing, and return its id.

    The node is in the timing pool, or is a prediction node if the autoscaler adds none to that pool.
    """
    to_timing_pool = TIMING_POOL in view.cluster.autoscaled
    selector = {POOL_LABEL: TIMING_POOL} if to_timing_pool else prediction_selector(frozenset())
    device = "a GPU" if on_gpu else "a CPU"
    what = f"timing {trial.name}: no node with {device} and label {POOL_LABEL} {selector[POOL_LABEL]} started"
    actor = _Timer.options(num_cpus=1, num_gpus=int(on_gpu), label_selector=selector).remote()
    try:
        ready = actor.ready.remote()
        _wait(ready, NODE_DEADLINE_SECONDS, what, view)
        node_id = str(ray.get(ready))
    except RayError as error:
        raise InfrastructureError(f"{what}: {describe(error)}") from error
    finally:
        view.kill(actor)
    view.refresh(force=True)
    return node_id


def failed_with_node(failure: InfrastructureError, node_id: str | None, view: ClusterView) -> bool:
    """Return whether a timing failed because its node is gone.

    Args:
        node_id: None if the timing failed while it waited for a node to start.
    """
    error = failure.__cause__
    process_was_lost = isinstance(error, RayError) and not isinstance(error, RayTaskError)
    if node_id is None:
        return process_was_lost
    end = time.monotonic() + (NODE_DEATH_SECONDS if process_was_lost else 0.0)
    while any(node.id == node_id for node in view.cluster.nodes):
        if time.monotonic() >= end:
            return False
        time.sleep(POLL_SECONDS)
        view.refresh(force=True)
    return True


def _wait(pending: ObjectRef, seconds: float, failure: str, view: ClusterView) -> None:
    """Wait for a result while checking that the head answers; `failure` is the message of a timeout."""
    end = time.monotonic() + seconds
    while not ray.wait([pending], timeout=min(POLL_SECONDS, seconds))[0]:
        view.refresh()
        if time.monotonic() > end:
            raise InfrastructureError(f"{failure} within {seconds:g} s")
