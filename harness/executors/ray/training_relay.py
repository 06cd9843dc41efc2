"""A training on the cluster whose state the driver keeps.

The newest state goes to the driver, which writes it where the weights will be, as it does with everything
else: the cluster needs no shared storage, workers that are lost go on from that state, and so does the same
command after the driver was lost.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.checkpoint import read_metadata
from harness.errors import HarnessError, InfrastructureError, describe
from harness.executors.executor import write_made
from harness.executors.ray.cluster_view import View
from harness.recipe import CheckpointRef
from harness.stages.data_parallel import Part
from harness.stages.train import train, training_runtime
from harness.stages.training_state import training_lock

LOST = 3  # times that a worker may be lost in one training
POLL = 0.5  # s between looks at what the workers say, and at who wants to time


@dataclass
class News:
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
        self._news = News()
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

    def news(self) -> News:
        news, self._news = self._news, News()
        return news


def work(reference: CheckpointRef, keeper: Any, part: Part) -> None:
    """In one worker: the training stage with its part of each batch, from the newest state on."""
    if ray.get(keeper.failed.remote()):
        return  # the driver has been told why; started once more, all workers end and nothing is tried again
    assert reference.recipe is not None
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


def keep_training(
    reference: CheckpointRef, view: View, report: Callable[[str], None], fit: Callable[[Any], None]
) -> None:
    """Make a missing checkpoint, unless another process does so meanwhile.

    Args:
        fit: given a keeper, has workers do `work` and returns when they have ended.

    Raises:
        HarnessError: the recipe's fault, as of the training stage.
        InfrastructureError: as `fit`, or the state cannot be kept.
    """
    assert reference.recipe is not None
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
        failure: InfrastructureError | None = None
        try:
            with relayed(keeper, state_file, report) as told:
                try:
                    fit(keeper)
                except InfrastructureError as error:
                    failure = error
        finally:
            view.end(keeper)
        if told.error is not None:
            raise told.error from failure
        if failure is not None:
            raise failure
        if told.made is None:
            raise InfrastructureError(f"training {reference.name}: the workers ended without a result")
        write_made(reference, told.made)
        state_file.unlink(missing_ok=True)


@dataclass
class Told:
    """What has come through from the workers."""

    thread: threading.Thread
    ended: threading.Event
    made: dict[str, bytes] | None = None
    error: HarnessError | None = None


@contextmanager
def relayed(keeper: Any, state_file: Path, report: Callable[[str], None]) -> Iterator[Told]:
    """Lines to `report` and states to the file, while the main thread waits for the workers."""

    def relay() -> None:
        last = False
        while not last:
            last = told.ended.wait(POLL)
            try:
                _pass_on(ray.get(keeper.news.remote()), told, state_file, report)
            except RayError:  # the keeper is lost, with the head say: so the workers cannot go on either
                return
            except Exception as error:  # a full disk, say
                told.error = told.error or InfrastructureError(f"{state_file}: {describe(error)}")
                ray.kill(keeper)  # workers that cannot leave their state there end
                return

    told = Told(threading.Thread(target=relay, daemon=True), threading.Event())
    told.thread.start()
    try:
        yield told
    finally:
        told.ended.set()
        told.thread.join()


def _pass_on(news: News, told: Told, state_file: Path, report: Callable[[str], None]) -> None:
    told.made = news.made or told.made
    told.error = news.error or told.error
    for line in news.lines:
        report(line)
    if news.state is not None:
        temporary = state_file.with_name(f".{state_file.name}.new")
        temporary.write_bytes(news.state)
        temporary.replace(state_file)
