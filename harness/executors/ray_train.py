"""Training on a cluster with Ray Train: the training stage in each of several workers.

The newest state goes to the driver, which writes it where the weights will be, as it does with everything
else: the cluster needs no shared storage, workers that are lost go on from that state, and so does the same
command after the driver was lost.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # relative paths in recipes mean what they meant

import ray
import ray.train
import ray.train.torch
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.adapter import Resources
from harness.checkpoint import read_metadata
from harness.errors import HarnessError, InfrastructureError, describe
from harness.executors.cluster import Cluster, away_from
from harness.executors.executor import write_made
from harness.executors.inline import training_runtime
from harness.recipe import CheckpointRef
from harness.stages.data_parallel import Part
from harness.stages.train import train
from harness.stages.training_state import training_lock

LOST = 3  # times that a worker may be lost in one training
POLL = 0.5  # s between looks at what the workers say


@dataclass
class _News:
    """What the workers have said since they were last asked."""

    lines: list[str] = field(default_factory=list)
    state: bytes | None = None
    """The newest state file."""
    made: dict[str, bytes] | None = None
    """Name → content of what came out."""
    error: HarnessError | None = None


class Keeper:
    """Outlives the workers: hands them the newest state, and the driver whatever they say."""

    def __init__(self, training: str, state: bytes | None) -> None:
        self._training = training
        self._state = state
        self._news = _News()
        self._failed = False

    def __repr__(self) -> str:
        """As Ray's dashboard names it."""
        return f"state of {self._training}"

    def state(self) -> bytes | None:
        return self._state

    def say(self, line: str) -> None:
        self._news.lines.append(line)

    def keep(self, state: bytes) -> None:
        self._state = self._news.state = state

    def finish(self, made: dict[str, bytes]) -> None:
        self._news.made = made

    def fail(self, error: HarnessError) -> None:
        self._news.error = error
        self._failed = True

    def failed(self) -> bool:
        return self._failed

    def news(self) -> _News:
        news, self._news = self._news, _News()
        return news


def train_together(
    reference: CheckpointRef,
    workers: int,
    cluster: Cluster,
    claimed: Callable[[], Mapping[str, int]],
    report: Callable[[str], None],
) -> None:
    """Make a missing checkpoint with `workers` workers that share each batch.

    Args:
        claimed: the nodes on which others want to time, now; none of these is trained on.

    Raises:
        HarnessError: the recipe's fault, as of the training stage.
        InfrastructureError: the cluster has not that many places, or workers were lost too often.
    """
    assert reference.recipe is not None
    gpu = cluster.offers_gpus
    _check_room(workers, gpu, cluster)
    avoided = _left_to_timing(workers, gpu, cluster, claimed)
    with training_lock(reference.weights, report):
        made = reference.weights.exists() and read_metadata(reference.weights)
        if made and made.get("recipe") == reference.recipe.hash:
            report(f"{reference.weights} has been made meanwhile")
            return
        state_file = reference.weights.with_suffix(".state.pt")
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor: Any = ray.remote(num_cpus=0)(Keeper)
        state = state_file.read_bytes() if state_file.exists() else None
        keeper = actor.options(scheduling_strategy=here).remote(reference.name, state)
        with (
            tempfile.TemporaryDirectory(prefix="harness-train-") as notes,
            _relayed(keeper, state_file, report) as told,
        ):
            failure: ray.train.TrainingFailedError | None = None
            try:
                _trainer(reference, workers, gpu, away_from(avoided), keeper, notes).fit()
            except ray.train.TrainingFailedError as error:
                failure = error
        ray.kill(keeper)
        if told.error is not None:
            raise told.error from failure
        if failure is not None:
            reason = describe(failure)[:500]
            raise InfrastructureError(f"training {reference.name}: {reason}") from failure
        if told.made is None:
            raise InfrastructureError(f"training {reference.name}: the workers ended without a result")
        write_made(reference, told.made)
        state_file.unlink(missing_ok=True)


def _trainer(
    reference: CheckpointRef, workers: int, gpu: bool, place: dict[str, str], keeper: Any, notes: str
) -> ray.train.torch.TorchTrainer:
    """Ray Train writes notes of its own to a folder; checkpoints go through the keeper."""
    return ray.train.torch.TorchTrainer(
        _work,
        train_loop_config={"reference": reference, "keeper": keeper},
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=gpu,
            resources_per_worker={"CPU": 1, "GPU": int(gpu)},
            label_selector=place,
        ),
        run_config=RunConfig(
            name=f"train-{reference.name}",
            storage_path=notes,
            failure_config=FailureConfig(max_failures=LOST),
        ),
    )


def _work(config: dict[str, Any]) -> None:
    """One worker: the training stage with its part of each batch."""
    context = ray.train.get_context()
    reference: CheckpointRef = config["reference"]
    keeper = config["keeper"]
    if ray.get(keeper.failed.remote()):
        return  # the driver has been told why; started once more, all workers end and nothing is tried again
    part = Part(context.get_world_rank(), context.get_world_size())
    assert reference.recipe is not None
    if torch.cuda.is_available():  # workers on one node see all its GPUs
        torch.cuda.set_device(ray.train.torch.get_device())
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / reference.weights.name
        state = ray.get(keeper.state.remote())
        if state is not None:
            weights.with_suffix(".state.pt").write_bytes(state)

        def say(line: str) -> None:
            if part.leads:
                keeper.say.remote(line)

        def keep(state_file: Path) -> None:
            ray.get(keeper.keep.remote(state_file.read_bytes()))

        try:
            train(reference.recipe, weights, training_runtime(), report=say, part=part, kept=keep)
        except HarnessError as error:  # the recipe's fault, or the node has no data
            ray.get(keeper.fail.remote(error))
            raise  # else the others would wait for this one's gradients
        if part.leads:
            # The weights come last: where they are, everything is.
            made = {path.name: path.read_bytes() for path in (weights.with_suffix(".yaml"), weights)}
            ray.get(keeper.finish.remote(made))


@dataclass
class _Told:
    """What has come through from the workers."""

    thread: threading.Thread
    ended: threading.Event
    made: dict[str, bytes] | None = None
    error: HarnessError | None = None


@contextmanager
def _relayed(keeper: Any, state_file: Path, report: Callable[[str], None]) -> Iterator[_Told]:
    """Lines to `report` and states to the file, while the main thread waits for the trainer."""

    def relay() -> None:
        last = False
        while not last:
            last = told.ended.wait(POLL)
            try:
                _pass_on(ray.get(keeper.news.remote()), told, state_file, report)
            except Exception as error:  # a full disk, say, or the keeper is lost
                told.error = told.error or InfrastructureError(f"{state_file}: {describe(error)}")
                ray.kill(keeper)  # workers that cannot leave their state there end
                return

    told = _Told(threading.Thread(target=relay, daemon=True), threading.Event())
    told.thread.start()
    try:
        yield told
    finally:
        told.ended.set()
        told.thread.join()


def _pass_on(news: _News, told: _Told, state_file: Path, report: Callable[[str], None]) -> None:
    told.made = news.made or told.made
    told.error = news.error or told.error
    for line in news.lines:
        report(line)
    if news.state is not None:
        temporary = state_file.with_name(f".{state_file.name}.new")
        temporary.write_bytes(news.state)
        temporary.replace(state_file)


def _check_room(workers: int, gpu: bool, cluster: Cluster) -> None:
    """Ray would wait for ever."""
    room = _room(workers, gpu, cluster)
    if room < workers and not cluster.adds(gpu):
        kind = "CPU and a GPU" if gpu else "CPU"
        raise InfrastructureError(
            f"{workers} workers need a {kind} each; the Ray cluster has room for {room}"
        )


def _room(workers: int, gpu: bool, cluster: Cluster) -> int:
    """How many of the workers an empty cluster holds."""
    one = Resources(1.0, float(gpu))
    return cluster.capacity({one: workers})[one]


def _left_to_timing(
    workers: int, gpu: bool, cluster: Cluster, claimed: Callable[[], Mapping[str, int]]
) -> Set[str]:
    """The nodes on which others want to time, as soon as the rest has room."""
    while True:
        avoided = claimed().keys()
        rest = Cluster(tuple(node for node in cluster.nodes if node.id not in avoided))
        if not avoided or cluster.adds(gpu) or _room(workers, gpu, rest) >= workers:
            return avoided
        time.sleep(POLL)
