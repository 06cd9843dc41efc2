"""The relay that passes the state of a training from its workers on the cluster to the driver's disk.

    worker ── save_state, report, finish, fail ──► StateRelay ── take_update ──► driver ──► NAME.state.pt
    worker ◄────────────── state ───────────────── (actor)

The relay is an actor on the driver's node, so the cluster needs no shared storage. Workers that replace lost
ones continue from the relay's state, and the same command continues from the driver's file.
"""

import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.checkpoint import read_metadata
from harness.errors import HarnessError, InfrastructureError, describe
from harness.executors.ray.cluster_view import ClusterView
from harness.executors.ray.handles import ActorHandle
from harness.files import write_bytes
from harness.recipe import CheckpointRef
from harness.stages.data_parallel import Replica
from harness.stages.train import train, training_runtime
from harness.stages.training_state import training_lock

MAX_LOST_WORKERS = 3  # in one training
POLL_SECONDS = 0.5  # between checks of the relay, and of the nodes that are requested for timing


@dataclass
class RelayUpdate:
    """Everything that the workers sent since the last update."""

    lines: list[str] = field(default_factory=list)
    state: bytes | None = None
    """Content of the newest state file."""
    files: dict[str, bytes] | None = None
    """The finished checkpoint: file name → content, weights last."""
    error: HarnessError | None = None


class StateRelay:
    """An actor that outlives the workers and keeps the newest state for them and updates for the driver."""

    def __init__(self, training: str, state: bytes | None) -> None:
        self._training = training
        self._state = state
        self._update = RelayUpdate()
        self._failed = False

    def __repr__(self) -> str:
        """Name the actor for Ray's dashboard."""
        return f"state of {self._training}"

    def state(self) -> bytes | None:
        """Return the content of the newest state file, or None at the start of the training."""
        return self._state

    def save_state(self, state: bytes) -> None:
        self._state = self._update.state = state

    def report(self, line: str) -> None:
        self._update.lines.append(line)

    def finish(self, files: dict[str, bytes]) -> None:
        self._update.files = files

    def fail(self, error: HarnessError) -> None:
        self._update.error = error
        self._failed = True

    def failed(self) -> bool:
        """Return whether a worker failed in a way that another attempt cannot repair."""
        return self._failed

    def take_update(self) -> RelayUpdate:
        """Return everything that was sent since the last call."""
        update, self._update = self._update, RelayUpdate()
        return update


def train_worker(reference: CheckpointRef, relay: ActorHandle, replica: Replica) -> None:
    """Run the training stage in a worker on its part of each batch, starting from the relay's state."""
    if ray.get(relay.failed.remote()):
        return  # the driver has the error; ending all restarted workers here prevents another attempt
    assert reference.recipe is not None
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / reference.weights.name
        state = ray.get(relay.state.remote())
        if state is not None:
            weights.with_suffix(".state.pt").write_bytes(state)

        def report(line: str) -> None:
            if replica.is_leader:
                relay.report.remote(line)

        def save_state(state_file: Path) -> None:
            ray.get(relay.save_state.remote(state_file.read_bytes()))

        try:
            train(
                reference.recipe,
                weights,
                training_runtime(),
                report=report,
                data=reference.data,
                replica=replica,
                on_state_saved=save_state,
            )
        except HarnessError as error:  # the recipe is wrong, or the node lacks data
            ray.get(relay.fail.remote(error))
            raise  # otherwise the other workers would wait for this one's gradients
        except (SystemExit, KeyboardInterrupt) as error:  # would end the actor as if it had been asked to
            raise RuntimeError(describe(error)) from error
        if replica.is_leader:
            # Weights are written last: if they exist, the checkpoint is complete.
            files = {path.name: path.read_bytes() for path in (weights.with_suffix(".yaml"), weights)}
            ray.get(relay.finish.remote(files))


def train_relayed(
    reference: CheckpointRef,
    view: ClusterView,
    report: Callable[[str], None],
    run_workers: Callable[[ActorHandle], None],
) -> None:
    """Train a missing checkpoint on the cluster, unless another process trains it meanwhile.

    Args:
        run_workers: Takes the relay, calls `train_worker` in workers, and returns when they have ended.

    Raises:
        HarnessError: The recipe is wrong, as in the training stage.
        InfrastructureError: From `run_workers`, or the state could not be written.
    """
    assert reference.recipe is not None
    with training_lock(reference.weights, report):
        metadata = read_metadata(reference.weights) if reference.weights.exists() else {}
        if metadata.get("recipe") == reference.recipe.hash:
            report(f"{reference.weights} was trained by another process meanwhile")
            return
        state_file = reference.weights.with_suffix(".state.pt")
        relay = _start_relay(reference.name, state_file)
        failure: InfrastructureError | None = None
        try:
            with RelayReceiver(relay, state_file, report) as result:
                try:
                    run_workers(relay)
                except InfrastructureError as error:
                    failure = error
        finally:
            view.kill(relay)
        if result.error is not None:
            raise result.error from failure
        if failure is not None:
            raise failure
        if result.files is None:
            raise InfrastructureError(f"training {reference.name}: the workers ended without a result")
        _write_checkpoint(reference, result.files)
        state_file.unlink(missing_ok=True)


def _start_relay(training: str, state_file: Path) -> ActorHandle:
    """Start a relay on this node with the state that an earlier driver saved."""
    state = state_file.read_bytes() if state_file.exists() else None
    this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(num_cpus=0)(StateRelay)
    return actor.options(scheduling_strategy=this_node).remote(training, state)


@dataclass
class RelayResult:
    """The outcome of a training, as far as it is known."""

    files: dict[str, bytes] | None = None
    """The finished checkpoint: file name → content, weights last."""
    error: HarnessError | None = None


class RelayReceiver:
    """A thread of the driver that receives updates while the main thread waits for the workers.

    It passes lines to `report` and writes states to `state_file`. The result is complete on exit.
    """

    def __init__(self, relay: ActorHandle, state_file: Path, report: Callable[[str], None]) -> None:
        self._relay = relay
        self._state_file = state_file
        self._report = report
        self._result = RelayResult()
        self._workers_ended = threading.Event()
        self._thread = threading.Thread(target=self._receive_until_workers_end, daemon=True)

    def __enter__(self) -> RelayResult:
        self._thread.start()
        return self._result

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._workers_ended.set()
        self._thread.join()

    def _receive_until_workers_end(self) -> None:
        last = False
        while not last:
            last = self._workers_ended.wait(POLL_SECONDS)
            try:
                self._receive()
            except RayError:  # the relay is lost, so the workers cannot continue either
                return
            except Exception as error:  # the disk is full, for example
                reason = InfrastructureError(f"{self._state_file}: {describe(error)}")
                self._result.error = self._result.error or reason
                ray.kill(self._relay)  # ends the workers, which can no longer save their state
                return

    def _receive(self) -> None:
        update: RelayUpdate = ray.get(self._relay.take_update.remote())
        self._result.files = update.files or self._result.files
        self._result.error = update.error or self._result.error
        for line in update.lines:
            self._report(line)
        if update.state is not None:
            temporary = self._state_file.with_name(f".{self._state_file.name}.new")
            temporary.write_bytes(update.state)
            temporary.replace(self._state_file)


def _write_checkpoint(reference: CheckpointRef, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        write_bytes(reference.weights.with_name(name), content)
