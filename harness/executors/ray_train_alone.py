"""Training on a cluster by the plain loop, in one process, away from nodes that somebody wants to time on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.queue import Empty, Queue

from harness.errors import InfrastructureError, UsageError, describe
from harness.executors.cluster import away_from
from harness.executors.inline import training_runtime
from harness.executors.ray_view import View
from harness.recipe import CheckpointRef, Recipe

POLL = 0.5  # s between looks at what is said, and at who wants to time


class Trainer:
    """A process that trains once."""

    def ready(self) -> None:
        """There is room for it."""

    def train(self, recipe: Recipe, weights: Path, lines: Queue) -> dict[str, bytes]:
        from harness.stages.train import train  # imports torch, which takes seconds

        train(recipe, weights, training_runtime(), report=lines.put)
        # The weights come last: where they are, everything is.
        return {path.name: path.read_bytes() for path in (weights.with_suffix(".yaml"), weights)}


_Trainer: Any = ray.remote(max_restarts=0)(Trainer)


def train_alone(
    reference: CheckpointRef,
    gpus: int,
    claimed: Callable[[], Mapping[str, int]],
    view: View,
    report: Callable[[str], None],
) -> dict[str, bytes]:
    """Name → content of the files that come out, the weights last.

    Args:
        claimed: the nodes on which others want to time, now.

    Raises:
        UsageError: the recipe's fault.
        InfrastructureError: the process died, the training failed, or the cluster's head is gone.
    """
    lines = Queue()
    trainer = None
    try:
        trainer = _placed(reference.name, gpus, claimed, view)
        pending = trainer.train.remote(reference.recipe, reference.weights, lines)
        finished = False
        while not finished:
            view.refresh()
            finished = bool(ray.wait([pending], timeout=POLL)[0])
            for line in _drain(lines):
                report(line)
        made: dict[str, bytes] = ray.get(pending)
    except RayTaskError as error:
        if isinstance(error.cause, UsageError):
            raise error.cause from None  # the recipe's fault, not the cluster's
        raise InfrastructureError(f"training {reference.name}: {describe(error.cause)}") from error
    except RayError as error:
        raise InfrastructureError(f"training {reference.name}: {describe(error)}") from error
    finally:
        view.end(lines.actor)
        if trainer is not None:
            view.end(trainer)
    return made


def _placed(name: str, gpus: int, claimed: Callable[[], Mapping[str, int]], view: View) -> Any:
    """A process that runs; as long as it only waits for room, it goes by who wants to time."""
    while True:
        avoided = claimed().keys()
        trainer = _Trainer.options(
            num_cpus=1, num_gpus=gpus, label_selector=away_from(avoided), name=f"train {name}"
        ).remote()
        ready = trainer.ready.remote()
        while claimed().keys() == avoided:
            view.refresh()
            if ray.wait([ready], timeout=POLL)[0]:
                ray.get(ready)
                return trainer
        view.end(trainer)


def _drain(lines: Queue) -> Iterator[str]:
    while True:
        try:
            yield lines.get_nowait()
        except Empty:
            return
