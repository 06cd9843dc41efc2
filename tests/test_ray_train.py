"""Training on a real local Ray: the plain loop's weights, lost workers, and error messages."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import ray
from ray.exceptions import WorkerCrashedError

from harness.adapter import Runtime
from harness.checkpoint import load, sha256
from harness.errors import InfrastructureError, UnavailableError, UsageError
from harness.executors.ray import train_alone, training_relay
from harness.executors.ray.executor import RayExecutor
from harness.executors.ray.train_together import _wait_for_capacity
from harness.executors.ray.training_relay import RelayReceiver, StateRelay, train_worker
from harness.executors.scheduling.cluster import Cluster, Node
from harness.recipe import CheckpointRef, Recipe
from harness.stages.data_parallel import Replica
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


def trained(
    executor: RayExecutor, folder: Path, workers: int | None, report: Any = print, **changes: Any
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    executor.train(reference(folder, recipe(**changes)), report, workers)
    return folder


def largest_difference(*folders: Path) -> float:
    first, second = (load(folder / "w.safetensors").tensors for folder in folders)
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def test_one_worker_gives_the_weights_of_the_plain_loop_to_the_byte(
    executor: RayExecutor, plain: Path, tmp_path: Path
) -> None:
    made = trained(executor, tmp_path, 1)
    assert sha256(made / "w.safetensors") == sha256(plain / "w.safetensors")
    assert sorted(path.name for path in made.iterdir()) == ["w.safetensors", "w.yaml"]


def test_two_workers_give_the_weights_of_one_although_one_is_killed(
    executor: RayExecutor, plain: Path, tmp_path: Path
) -> None:
    killed: list[int] = []
    lines: list[str] = []

    def kill_one(line: str) -> None:
        lines.append(line)
        if line.startswith("step 3/") and not killed:
            processes = psutil.process_iter(["cmdline"])
            workers = [process for process in processes if "RayTrainWorker" in str(process.info)]
            killed.append(len(workers))
            workers[0].kill()

    made = trained(executor, tmp_path, 2, kill_one)
    assert killed == [2]
    assert any(line.startswith("continuing at step") for line in lines)
    # Sums are in another order, and weights below 0.5 are stored in fp16: at most one step of fp16.
    assert largest_difference(made, plain) <= 2**-12


def test_without_ray_train_a_killed_process_is_replaced_by_one_that_continues(
    executor: RayExecutor, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_relay, "POLL_SECONDS", 0.01)  # step 6 is reported before the last step
    killed: list[psutil.Process] = []
    lines: list[str] = []

    def kill_it(line: str) -> None:
        lines.append(line)
        if line.startswith("step 6/") and not killed:  # the state of step 3 is saved by then
            killed.extend(p for p in psutil.process_iter(["cmdline"]) if "ray::Trainer" in str(p.info))
            killed[0].kill()

    made = trained(executor, tmp_path, None, kill_it)
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

    monkeypatch.setattr(train_alone, "_train_once", lose)
    monkeypatch.setattr(train_alone, "train_relayed", lambda *given: given[-1]("relay"))
    view: Any = None
    with pytest.raises(InfrastructureError, match="training w: WorkerCrashedError"):
        train_alone.train_alone(reference(tmp_path, recipe()), view, dict, lines.append)
    assert lines == ["training w: its process was lost; another one continues"] * 3


def test_a_cluster_without_capacity_is_an_error_at_once_and_a_busy_one_after_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    killed: list[object] = []
    actor = SimpleNamespace(ready=SimpleNamespace(remote=lambda: "ready"))
    actor_class = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda: actor))
    view: Any = SimpleNamespace(
        wait_for_head=lambda: None,
        refresh=lambda: None,
        kill=killed.append,
        cluster=Cluster((Node("a", "host", {"CPU": 8}, {"pool": "head"}),)),
    )
    monkeypatch.setattr(train_alone, "_Trainer", actor_class)
    monkeypatch.setattr(ray, "wait", lambda futures, timeout: ([], futures))
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 8.0})
    with pytest.raises(InfrastructureError, match=r"with 1 worker: each needs 1 CPU on one node; only 0 "):
        train_alone._start_trainer("w", view, dict)
    assert not killed
    view.cluster = Cluster((Node("a", "host", {"CPU": 8}, {}),))
    monkeypatch.setattr(train_alone, "START_DEADLINE_SECONDS", -1.0)
    with pytest.raises(
        InfrastructureError, match=r"training w: no worker could start within .* 8 CPUs, 0 GP"
    ):
        train_alone._start_trainer("w", view, dict)
    assert killed == [actor]


def test_training_continues_from_the_state_that_a_killed_driver_left(
    executor: RayExecutor, plain: Path, tmp_path: Path
) -> None:
    lines: list[str] = []
    (tmp_path / "w.state.pt").write_bytes(halfway(tmp_path / "half", recipe()))
    made = trained(executor, tmp_path, 1, lines.append)
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
        trained(executor, tmp_path, 2, lines.append, metric="coco")
    assert not list(tmp_path.iterdir())


class LocalActor:
    """A handle of a relay in this process."""

    def __init__(self, relay: StateRelay) -> None:
        self._relay = relay

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(self._relay, name))


def test_an_error_of_the_recipe_or_the_data_ends_all_workers_and_is_not_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[object] = []

    def no_data(*given: object, **settings: object) -> None:
        attempts.append(given)
        raise UnavailableError("no data on this node")

    monkeypatch.setattr("harness.executors.ray.training_relay.train", no_data)
    monkeypatch.setattr(ray, "get", lambda answer: answer)
    relay = StateRelay("w", None)
    given = reference(tmp_path, recipe()), LocalActor(relay), Replica(1, 2)
    with pytest.raises(UnavailableError, match="no data on this node"):
        train_worker(*given)
    train_worker(*given)
    assert len(attempts) == 1, "a restarted worker ends at once"
    assert str(relay.take_update().error) == "no data on this node"


def test_a_state_that_cannot_be_written_ends_the_training_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()
    monkeypatch.setattr(ray, "get", lambda answer: answer)
    monkeypatch.setattr(ray, "kill", lambda actor: ended.set())
    relay = StateRelay("w", None)
    relay.report("step 3")
    relay.save_state(b"state")
    lines: list[str] = []
    state_file = tmp_path / "missing" / "w.state.pt"
    with RelayReceiver(LocalActor(relay), state_file, lines.append) as result:
        assert ended.wait(20), "the relay is killed, which ends the workers"
    assert lines == ["step 3"]
    assert isinstance(result.error, InfrastructureError)
    assert "w.state.pt: FileNotFoundError" in str(result.error)


def test_too_many_workers_are_an_error_before_anything_starts(executor: RayExecutor, tmp_path: Path) -> None:
    cpus = int(ray.cluster_resources()["CPU"])
    with pytest.raises(
        InfrastructureError, match=f"with {cpus + 1} workers: each needs 1 CPU .* only {cpus} would fit"
    ):
        trained(executor, tmp_path, cpus + 1)


def test_workers_stay_off_requested_nodes_and_wait_if_the_other_nodes_are_too_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nodes(*names: str) -> Cluster:
        return Cluster(tuple(Node(name, "host", {"CPU": 1}, {}) for name in names))

    waited: list[float] = []
    monkeypatch.setattr("harness.executors.ray.train_together.time.sleep", waited.append)
    requests = [{"a": 1}, {"a": 2}, {"b": 1}]
    assert _wait_for_capacity(2, nodes("a", "b", "c"), lambda: requests[0]) == {"a"}
    assert not waited
    changing = iter([*requests, {}])
    assert not _wait_for_capacity(2, nodes("a", "b"), lambda: next(changing))
    assert len(waited) == 3
    monkeypatch.setattr("harness.executors.ray.train_together.START_DEADLINE_SECONDS", -1.0)
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 1.0})
    with pytest.raises(
        InfrastructureError, match=r"training: no worker could start within .* 1 CPUs, 0 GPUs"
    ):
        _wait_for_capacity(2, nodes("a", "b"), lambda: requests[0])
