"""Training on a cluster: in one process, on a node that is not requested for timing.

The driver fetches the state of the training after each validation and keeps it beside the weights, so the
cluster needs no shared storage. A process that replaces a lost one continues from this state, as the same
command does after the driver was killed.
"""

import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

import ray
from ray.exceptions import RayError, RayTaskError

from harness.errors import HarnessError, InfrastructureError, describe
from harness.executors.ray.cluster_view import ClusterView
from harness.executors.ray.handles import ActorHandle
from harness.executors.ray.pool import START_DEADLINE_SECONDS, busy_cluster
from harness.executors.scheduling.cluster import prediction_selector
from harness.files import write_bytes
from harness.recipe import CheckpointRef, Report, TrainingStep
from harness.stages.train import existing_provenance, train, training_runtime
from harness.stages.training_state import training_lock

MAX_LOST_PROCESSES = 3  # in one training
POLL_SECONDS = 0.5  # between updates, and between checks of the nodes that are requested for timing


class Trainer:
    """An actor that trains one checkpoint in one thread, and answers `take_events` in another."""

    def __init__(self) -> None:
        self._events: deque[TrainingStep | str | bytes] = deque()

    def train(self, reference: CheckpointRef, state: bytes | None) -> dict[str, bytes]:
        """Run the training stage, from the content of a state file if there is one.

        Returns:
            The finished checkpoint: file name → content, weights last.
        """
        assert reference.recipe is not None
        with tempfile.TemporaryDirectory() as folder:
            weights = Path(folder) / reference.weights.name
            if state is not None:
                weights.with_suffix(".state.pt").write_bytes(state)
            try:
                train(
                    reference.recipe,
                    weights,
                    training_runtime(),
                    report=self._events.append,
                    data=reference.data,
                    on_state_saved=lambda file: self._events.append(file.read_bytes()),
                )
            except (SystemExit, KeyboardInterrupt) as error:  # would end the actor as if it had been asked to
                raise RuntimeError(describe(error)) from error
            return {path.name: path.read_bytes() for path in (weights.with_suffix(".yaml"), weights)}

    def take_events(self) -> list[TrainingStep | str | bytes]:
        """Return the progress since the last call; bytes are the content of a state file."""
        return [self._events.popleft() for _ in range(len(self._events))]


_Trainer = ray.remote(max_restarts=0, max_concurrency=2)(Trainer)


def train_checkpoint(
    reference: CheckpointRef,
    view: ClusterView,
    requested_nodes: Callable[[], Mapping[str, int]],
    report: Report,
) -> None:
    """Train a missing checkpoint, and replace a lost process, unless another driver trains it meanwhile.

    Args:
        requested_nodes: Returns the nodes that are now requested for timing.
    """
    assert reference.recipe is not None
    with training_lock(reference.weights, report):
        if existing_provenance(reference.recipe, reference.weights) is not None:
            report(f"{reference.weights} was trained by another process meanwhile")
            return
        for lost in range(MAX_LOST_PROCESSES + 1):
            try:
                _train_once(reference, view, requested_nodes, report)
                return
            except RayTaskError as error:
                if isinstance(error.cause, HarnessError):  # the recipe is wrong, or the node lacks data
                    raise error.cause from error
                raise InfrastructureError(f"training {reference.name}: {describe(error.cause)}") from error
            except RayError as error:
                if lost == MAX_LOST_PROCESSES:
                    raise InfrastructureError(f"training {reference.name}: {describe(error)}") from error
                report(f"training {reference.name}: its process was lost; another one continues")


def _train_once(
    reference: CheckpointRef,
    view: ClusterView,
    requested_nodes: Callable[[], Mapping[str, int]],
    report: Report,
) -> None:
    """Train in one process, from the state on disk to the checkpoint on disk."""
    state_file = reference.weights.with_suffix(".state.pt")
    trainer = _start_trainer(reference.name, view, requested_nodes)
    try:
        state = state_file.read_bytes() if state_file.exists() else None
        pending = trainer.train.remote(reference, state)
        finished = False
        while not finished:
            finished = bool(ray.wait([pending], timeout=POLL_SECONDS)[0])
            view.refresh()
            for event in ray.get(trainer.take_events.remote()):
                if isinstance(event, bytes):
                    write_bytes(state_file, event)
                else:
                    report(event)
        files: dict[str, bytes] = ray.get(pending)
    finally:
        view.kill(trainer)
    for name, content in files.items():  # weights last: if they exist, the checkpoint is complete
        write_bytes(reference.weights.with_name(name), content)
    state_file.unlink(missing_ok=True)


def _start_trainer(
    name: str, view: ClusterView, requested_nodes: Callable[[], Mapping[str, int]]
) -> ActorHandle:
    """Start a trainer and return it once it runs.

    While it waits for capacity, it is restarted whenever the requested nodes change.
    """
    end = time.monotonic() + START_DEADLINE_SECONDS
    while True:
        view.wait_for_head()  # without it the next call would block for ever
        if reason := view.cluster.why_untrainable():
            raise InfrastructureError(reason)
        excluded, resources = requested_nodes().keys(), view.cluster.trainer_resources
        trainer = _Trainer.options(
            num_cpus=resources.cpu,
            num_gpus=resources.gpu,
            label_selector=prediction_selector(excluded),
            name=f"train {name}",
        ).remote()
        ready = trainer.__ray_ready__.remote()
        while requested_nodes().keys() == excluded:
            view.refresh()
            if ray.wait([ready], timeout=POLL_SECONDS)[0]:
                ray.get(ready)
                return trainer
            if time.monotonic() > end:
                view.kill(trainer)
                raise busy_cluster(f"training {name}")
        view.kill(trainer)
