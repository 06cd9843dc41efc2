"""Training on a cluster in one process, avoiding the nodes that are requested for timing.

The result equals the result of one worker of Ray Train. Ray Train is not used because it takes half a minute
to start, and ends this process if the head is gone.
"""

import time
from collections.abc import Callable, Mapping

import ray
from ray.exceptions import RayError, RayTaskError

from harness.errors import HarnessError, InfrastructureError, describe
from harness.executors.ray.cluster_view import ClusterView
from harness.executors.ray.handles import ActorHandle
from harness.executors.ray.pool import START_DEADLINE_SECONDS, busy_cluster
from harness.executors.ray.training_relay import (
    MAX_LOST_WORKERS,
    POLL_SECONDS,
    train_relayed,
    train_worker,
)
from harness.executors.scheduling.cluster import prediction_selector
from harness.recipe import CheckpointRef
from harness.stages.data_parallel import SINGLE


class Trainer:
    """An actor that trains one checkpoint."""

    def ready(self) -> None:
        """Return once the actor runs."""

    def train(self, reference: CheckpointRef, relay: ActorHandle) -> None:
        train_worker(reference, relay, SINGLE)


_Trainer = ray.remote(max_restarts=0)(Trainer)


def train_alone(
    reference: CheckpointRef,
    view: ClusterView,
    requested_nodes: Callable[[], Mapping[str, int]],
    report: Callable[[str], None],
) -> None:
    """Train a missing checkpoint with the plain loop, replacing a process that is lost.

    Args:
        requested_nodes: Returns the nodes that are now requested for timing.

    Raises:
        HarnessError: The recipe is wrong, as in the training stage.
        InfrastructureError: A process does not fit on the cluster or could not start in time, processes were
            lost too often, the training failed, or the head is gone.
    """

    def run_workers(relay: ActorHandle) -> None:
        for lost in range(MAX_LOST_WORKERS + 1):
            try:
                _train_once(reference, relay, view, requested_nodes)
                return
            except RayTaskError as error:
                if isinstance(error.cause, HarnessError):
                    return  # the relay has the error
                raise InfrastructureError(f"training {reference.name}: {describe(error.cause)}") from error
            except RayError as error:
                if lost == MAX_LOST_WORKERS:
                    raise InfrastructureError(f"training {reference.name}: {describe(error)}") from error
                report(f"training {reference.name}: its process was lost; another one continues")

    train_relayed(reference, view, report, run_workers)


def _train_once(
    reference: CheckpointRef,
    relay: ActorHandle,
    view: ClusterView,
    requested_nodes: Callable[[], Mapping[str, int]],
) -> None:
    trainer = _start_trainer(reference.name, view, requested_nodes)
    try:
        pending = trainer.train.remote(reference, relay)
        while not ray.wait([pending], timeout=POLL_SECONDS)[0]:
            view.refresh()
        ray.get(pending)
    finally:
        view.kill(trainer)


def _start_trainer(
    name: str, view: ClusterView, requested_nodes: Callable[[], Mapping[str, int]]
) -> ActorHandle:
    """Start a trainer and return it once it runs.

    While it waits for capacity, it is restarted whenever the requested nodes change.
    """
    end = time.monotonic() + START_DEADLINE_SECONDS
    while True:
        view.wait_for_head()  # without it the next call would block for ever
        if reason := view.cluster.why_untrainable(workers=1):
            raise InfrastructureError(reason)
        excluded, resources = requested_nodes().keys(), view.cluster.trainer_resources
        trainer = _Trainer.options(
            num_cpus=resources.cpu,
            num_gpus=resources.gpu,
            label_selector=prediction_selector(excluded),
            name=f"train {name}",
        ).remote()
        ready = trainer.ready.remote()
        while requested_nodes().keys() == excluded:
            view.refresh()
            if ray.wait([ready], timeout=POLL_SECONDS)[0]:
                ray.get(ready)
                return trainer
            if time.monotonic() > end:
                view.kill(trainer)
                raise busy_cluster(f"training {name}")
        view.kill(trainer)
