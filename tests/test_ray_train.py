"""Training on a real local Ray: the plain loop's weights, lost workers, and error messages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import ray
from ray.exceptions import RayTaskError, WorkerCrashedError

from harness.adapter import Runtime
from harness.checkpoint import sha256
from harness.errors import InfrastructureError, UnavailableError, UsageError
from harness.executors.ray import training
from harness.executors.ray.executor import RayExecutor
from harness.executors.scheduling.cluster import Cluster, Node
from harness.recipe import CheckpointRef, Recipe
from harness.stages.train import train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def recipe(**changes: Any) -> Recipe:
    sizes = {"embedding_size": 16, "encoder_size": 16, "decoder_size": 16, "attention_size": 16}
    content = {
        "adapter": "attention", "task": "translation",
        "options": {"vocabulary": "word", "vocabulary_size": 300, "dropout": 0.0, **sizes},
        "dataset": {"name": "phrases", "options": {"size": 64, "max_tokens": 10}},
        "steps": 12, "batch_size": 8, "learning_rate": 1e-3, "warmup_steps": 3, "metric": "bleu",
        "validate_every": 3, "validation_size": 16,
    }  # fmt: skip
    return Recipe.model_validate(content | changes)


@pytest.fixture(scope="module")
def executor() -> Iterator[RayExecutor]:
    with RayExecutor(max_workers=2) as running:
        yield running


def reference(folder: Path, plan: Recipe) -> CheckpointRef:
    return CheckpointRef("w", folder / "w.safetensors", plan, missing=True)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with the weights that the training stage makes in this process."""
    folder = tmp_path_factory.mktemp("plain")
    train(recipe(), folder / "w.safetensors", Runtime(), report=[].append)
    return folder


def trained(executor: RayExecutor, folder: Path, report: Any = print, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    executor.train(reference(folder, recipe(**changes)), report)
    return folder


def test_a_killed_process_is_replaced_by_one_that_continues(
    executor: RayExecutor, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "POLL_SECONDS", 0.01)  # step 6 is reported before the last step
    killed: list[psutil.Process] = []
    lines: list[str] = []

    def kill_it(event: object) -> None:
        line = str(event)
        lines.append(line)
        if line.startswith("step 6/") and not killed:  # the state of step 3 is saved by then
            killed.extend(p for p in psutil.process_iter(["cmdline"]) if "ray::Trainer" in str(p.info))
            killed[0].kill()

    made = trained(executor, tmp_path, kill_it)
    assert len(killed) == 1
    assert "training w: its process was lost; another one continues" in lines
    assert any(line.startswith("continuing at step") for line in lines)
    assert sha256(made / "w.safetensors") == sha256(plain / "w.safetensors")
    assert sorted(path.name for path in made.iterdir()) == ["w.safetensors", "w.yaml"]


def test_a_training_ends_when_its_process_is_lost_too_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []

    def lose(*_: object) -> None:
        raise WorkerCrashedError

    monkeypatch.setattr(training, "_train_once", lose)
    view: Any = None
    with pytest.raises(InfrastructureError, match="training w: WorkerCrashedError"):
        training.train_checkpoint(reference(tmp_path, recipe()), view, dict, lines.append)
    assert lines == ["training w: its process was lost; another one continues"] * 3


def test_a_cluster_without_capacity_is_an_error_at_once_and_a_busy_one_after_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    killed: list[object] = []
    actor = SimpleNamespace(__ray_ready__=SimpleNamespace(remote=lambda: "ready"))
    actor_class = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda: actor))
    view: Any = SimpleNamespace(
        wait_for_head=lambda: None,
        refresh=lambda: None,
        kill=killed.append,
        cluster=Cluster((Node("a", "host", {"CPU": 8}, {"pool": "head"}),)),
    )
    monkeypatch.setattr(training, "_Trainer", actor_class)
    monkeypatch.setattr(ray, "wait", lambda futures, timeout: ([], futures))
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 8.0})
    with pytest.raises(
        InfrastructureError, match="training: a worker needs 1 CPU on one node; every node is"
    ):
        training._start_trainer("w", view, dict)
    assert not killed
    view.cluster = Cluster((Node("a", "host", {"CPU": 8}, {}),))
    monkeypatch.setattr(training, "START_DEADLINE_SECONDS", -1.0)
    with pytest.raises(
        InfrastructureError, match=r"training w: no worker could start within .* 8 CPUs, 0 GP"
    ):
        training._start_trainer("w", view, dict)
    assert killed == [actor]


def test_training_continues_from_the_state_that_a_killed_driver_left(
    executor: RayExecutor, plain: Path, tmp_path: Path
) -> None:
    lines: list[str] = []
    (tmp_path / "w.state.pt").write_bytes(halfway(tmp_path / "half", recipe()))
    made = trained(executor, tmp_path, lambda event: lines.append(str(event)))
    assert "continuing at step 6" in lines
    assert sha256(made / "w.safetensors") == sha256(plain / "w.safetensors")
    assert not (tmp_path / "w.state.pt").exists()


def halfway(folder: Path, plan: Recipe) -> bytes:
    class EnoughError(Exception):
        pass

    states: list[bytes] = []

    def keep(path: Path) -> None:
        states.append(path.read_bytes())
        if len(states) == 2:
            raise EnoughError

    with pytest.raises(EnoughError):
        train(plan, folder / "w.safetensors", Runtime(), report=[].append, on_state_saved=keep)
    return states[-1]


def test_a_wrong_recipe_is_an_error_at_once(executor: RayExecutor, tmp_path: Path) -> None:
    lines: list[str] = []
    with pytest.raises(UsageError, match="metric 'coco' is for detection, not translation"):
        trained(executor, tmp_path, lines.append, metric="coco")
    assert not list(tmp_path.iterdir())


class LocalTrainer:
    """A handle of a trainer in this process; a call that raises an error is an answer that does."""

    def __init__(self, *lines: str, state: bytes | None = None, error: Exception | None = None) -> None:
        self._events = [*lines, *([] if state is None else [state])]
        self._error = error

    def __getattr__(self, name: str) -> Any:
        answers = {"take_events": self._events, "train": self._error}
        return SimpleNamespace(remote=lambda *_: answers[name])


def get(answer: object) -> object:
    if isinstance(answer, Exception):
        raise answer
    return answer


@pytest.fixture
def view(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(ray, "wait", lambda futures, timeout: (futures, []))
    killed: list[object] = []
    return SimpleNamespace(refresh=lambda: None, kill=killed.append, killed=killed)


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        (UnavailableError("no data on this node"), "^no data on this node$"),
        (ValueError("odd"), "^training w: ValueError: odd$"),
    ],
)
def test_an_error_of_the_training_is_passed_on_and_not_retried(
    view: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: Exception, expected: str
) -> None:
    started: list[LocalTrainer] = []

    def start(*_: object) -> LocalTrainer:
        started.append(LocalTrainer(error=RayTaskError("train", "", cause)))
        return started[-1]

    monkeypatch.setattr(training, "_start_trainer", start)
    kind = UnavailableError if isinstance(cause, UnavailableError) else InfrastructureError
    with pytest.raises(kind, match=expected):
        training.train_checkpoint(reference(tmp_path, recipe()), view, dict, print)
    assert len(started) == 1
    assert view.killed == started


def test_a_state_that_cannot_be_written_ends_the_training_with_the_reason(
    view: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(futures: list[object], timeout: float) -> tuple[list[object], list[object]]:
        (tmp_path / "w.state.pt").mkdir()  # after the trainer has started without a state
        return futures, []

    monkeypatch.setattr(ray, "wait", wait)
    trainer = LocalTrainer("step 3", state=b"state")
    monkeypatch.setattr(training, "_start_trainer", lambda *_: trainer)
    with pytest.raises(UsageError, match=r"w\.state\.pt: cannot be written: Is a directory"):
        training.train_checkpoint(reference(tmp_path, recipe()), view, dict, print)
    assert view.killed == [trainer]
