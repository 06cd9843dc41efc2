"""Training on a cluster in one process, away from nodes that somebody wants to time on.

The same as one worker of Ray Train, which takes half a minute to start and ends this process where the head
is gone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from harness.errors import HarnessError, InfrastructureError, describe
from harness.executors.ray.cluster_view import View
from harness.executors.ray.pool import START_DEADLINE, crowded
from harness.executors.ray.training_relay import LOST, POLL, keep_training, work
from harness.executors.scheduling.cluster import away_from
from harness.recipe import CheckpointRef
from harness.stages.data_parallel import ALONE


class Trainer:
    """A process that trains once."""

    def ready(self) -> None:
        """There is room for it."""

    def train(self, reference: CheckpointRef, keeper: Any) -> None:
        work(reference, keeper, ALONE)


_Trainer: Any = ray.remote(max_restarts=0)(Trainer)


def train_alone(
    reference: CheckpointRef,
    view: View,
    claimed: Callable[[], Mapping[str, int]],
    report: Callable[[str], None],
) -> None:
    """Make a missing checkpoint by the plain loop; a process that is lost is followed by another.

    Args:
        claimed: the nodes on which others want to time, now.

    Raises:
        HarnessError: the recipe's fault, as of the training stage.
        InfrastructureError: the cluster has no place for it, or has none for START_DEADLINE; processes were
            lost too often, the training failed, or the head is gone.
    """

    def fit(keeper: Any) -> None:
        for lost in range(LOST + 1):
            try:
                _train_once(reference, keeper, view, claimed)
                return
            except RayTaskError as error:
                if isinstance(error.cause, HarnessError):
                    return  # the keeper has told
                raise InfrastructureError(f"training {reference.name}: {describe(error.cause)}") from error
            except RayError as error:
                if lost == LOST:
                    raise InfrastructureError(f"training {reference.name}: {describe(error)}") from error
                report(f"training {reference.name}: its process was lost, another goes on")

    keep_training(reference, view, report, fit)


def _train_once(
    reference: CheckpointRef, keeper: Any, view: View, claimed: Callable[[], Mapping[str, int]]
) -> None:
    trainer = _placed(reference.name, view, claimed)
    try:
        pending = trainer.train.remote(reference, keeper)
        while not ray.wait([pending], timeout=POLL)[0]:
            view.refresh()
        ray.get(pending)
    finally:
        view.end(trainer)


def _placed(name: str, view: View, claimed: Callable[[], Mapping[str, int]]) -> Any:
    """A process that runs; as long as it only waits for room, it goes by who wants to time."""
    until = time.monotonic() + START_DEADLINE
    while True:
        view.wait_for_head()  # without one the next call would wait for ever
        if missing := view.cluster.missing_to_train(workers=1):
            raise InfrastructureError(missing)
        avoided, kind = claimed().keys(), view.cluster.trainer
        trainer = _Trainer.options(
            num_cpus=kind.cpu,
            num_gpus=kind.gpu,
            label_selector=away_from(avoided),
            name=f"train {name}",
        ).remote()
        ready = trainer.ready.remote()
        while claimed().keys() == avoided:
            view.refresh()
            if ray.wait([ready], timeout=POLL)[0]:
                ray.get(ready)
                return trainer
            if time.monotonic() > until:
                view.end(trainer)
                raise crowded(f"training {name}")
        view.end(trainer)
