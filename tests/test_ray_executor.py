"""The Ray executor, mostly on a local Ray: workers that die, hang or raise errors lose no shard."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import ray
from ray.exceptions import ActorDiedError, ObjectStoreFullError, OutOfDiskError, OutOfMemoryError
from small_suite import document, figures, planned, run_suite

from harness.adapter import Resources
from harness.driver.run import exit_code
from harness.errors import InfrastructureError, UsageError
from harness.executors.ray.checkpoint_store import CheckpointStore
from harness.executors.ray.executor import RayExecutor
from harness.executors.ray.local import AUTHENTICATION, private_ray
from harness.executors.ray.pool import PoolWorker
from harness.executors.ray.prediction import PredictionRun
from harness.executors.scheduling.cluster import Cluster, Node
from harness.executors.scheduling.losses import MAX_LOSSES
from harness.executors.worker import LoadFailure
from harness.recipe import CheckpointRef, Recipe, RecipeData
from harness.rundir.results import Results, TrialRecord
from harness.scenarios.settings import SpeedSettings
from harness.stages.predict import Predictor
from harness.stages.shards import Outcome, Shard, ShardError, ShardResult, Work

pytestmark = pytest.mark.timeout(300)
CPU = Resources(1, 0)

SMOKE = SpeedSettings(profile="smoke", threads=1, samples=2, exclusive="node")


@pytest.fixture(scope="module")
def ray_of_two() -> Iterator[RayExecutor]:
    with RayExecutor(max_workers=2) as executor:
        yield executor


@pytest.fixture
def one_worker(ray_of_two: RayExecutor, monkeypatch: pytest.MonkeyPatch) -> RayExecutor:
    monkeypatch.setattr(ray_of_two, "_max_workers", 1)
    return ray_of_two


def run_on(executor: RayExecutor, folder: Path, suite: dict[str, Any], **settings: Any) -> Results:
    return run_suite(folder, suite, executor=nullcontext(executor), **settings)


def prediction_run(view: Any, *work: Work) -> PredictionRun:
    """Return a prediction with at most one worker."""
    return PredictionRun(work, view, CheckpointStore(), None, max_workers=1, first_deadline=900.0)


def test_answers_to_shards_that_were_taken_back_are_not_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run requests the worker's node: the first shard counts, the one sent ahead goes elsewhere."""
    monkeypatch.setattr(ray, "get", lambda answer: answer)
    run = prediction_run(SimpleNamespace())
    scheduler: Any = SimpleNamespace(
        finish_shard=lambda worker, outcomes: outcomes, outstanding=lambda worker: 0
    )
    run.scheduler = scheduler
    worker = PoolWorker(None, CPU, deque([["first"], ["ahead"]]))
    assert (run._receive(worker), list(worker.answers)) == (["first"], [])


def test_an_error_at_joining_without_a_token_names_the_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(**options: Any) -> None:
        raise ConnectionError("Failed to connect to Ray cluster at head:1")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(
        InfrastructureError, match=r"head:1 \(set RAY_AUTH_MODE=token if it requires tokens\)$"
    ):
        RayExecutor("head:1").__enter__()
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(InfrastructureError, match=r"Ray cluster at head:1$"):
        RayExecutor("head:1").__enter__()


@pytest.mark.parametrize(
    ("chosen", "mode"),
    [
        ({}, "token"),
        ({"RAY_AUTH_MODE": "token"}, "token"),
        ({"RAY_AUTH_MODE": "disabled"}, "disabled"),
        ({"RAY_AUTH_TOKEN": "0123"}, "token"),
        ({"RAY_AUTH_TOKEN_PATH": "/of/the/user"}, "token"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_a_local_ray_has_a_random_token_unless_the_user_set_one(
    chosen: dict[str, str], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in AUTHENTICATION:
        monkeypatch.delenv(name, raising=False)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    tokens = set()
    for _ in range(2):
        with private_ray():
            during = {name: os.environ[name] for name in AUTHENTICATION if name in os.environ}
        assert during["RAY_AUTH_MODE"] == mode
        assert chosen.items() <= during.items()
        tokens.add(during.get("RAY_AUTH_TOKEN"))
        assert {name: os.environ[name] for name in AUTHENTICATION if name in os.environ} == chosen
    if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & chosen.keys():
        assert tokens == {chosen.get("RAY_AUTH_TOKEN")}
    else:
        assert [len(token or "") for token in tokens] == [64, 64], "two different tokens"


def test_a_local_ray_listens_on_loopback_only(ray_of_two: RayExecutor) -> None:
    own = psutil.Process()
    listeners = {
        (process.name(), connection.laddr.ip.removeprefix("::ffff:"))
        for process in [own, *own.children(recursive=True)]
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert {"gcs_server", "raylet"} <= {name for name, _ in listeners}
    assert {address for _, address in listeners} == {"127.0.0.1"}, listeners


def test_a_terminated_run_ends_like_an_interrupted_one(ray_of_two: RayExecutor) -> None:
    """Ray's own handler would call `sys.exit`, which looks like an internal error."""
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_local_ray_writes_no_token_and_refuses_other_tokens(tmp_path: Path) -> None:
    script = """
import os, subprocess, sys, ray
from harness.executors.ray.executor import RayExecutor
count = "import sys, ray._raylet as r; print(len(r.GcsClient(address=sys.argv[1]).get_all_node_info()))"
with RayExecutor():
    token, context = os.environ["RAY_AUTH_TOKEN"], ray.get_runtime_context()
    assert ray.get(ray.remote(lambda: os.environ["RAY_AUTH_TOKEN"]).remote()) == token
    folder = ray._private.worker._global_node.get_session_dir_path()
    assert subprocess.run(["grep", "-rqs", token, folder]).returncode == 1
    for given in (token, "0" * 64):
        environment = {**os.environ, "RAY_AUTH_TOKEN": given}
        command = [sys.executable, "-c", count, context.gcs_address]
        print(subprocess.run(command, env=environment, capture_output=True, text=True))
"""
    unset = {name: value for name, value in os.environ.items() if name not in AUTHENTICATION}
    command = [sys.executable, "-c", script]
    environment = unset | {"HOME": str(tmp_path)}
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    accepted, refused = output.splitlines()
    assert "stdout='1\\n'" in accepted
    assert "InvalidAuthToken" in refused
    assert not list(tmp_path.rglob("*token*"))


class FakeActorClass:
    """Fakes an actor class and keeps the options of each start."""

    def __init__(self) -> None:
        self.options_given: list[dict[str, Any]] = []

    def options(self, **options: Any) -> Any:
        self.options_given.append(options)
        number = len(self.options_given)
        ready = SimpleNamespace(remote=lambda: f"ready {number}")
        return SimpleNamespace(remote=lambda: SimpleNamespace(ready=ready, number=number))


def test_a_worker_whose_node_cannot_load_the_pending_trial_is_replaced_on_another_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    actors, killed = FakeActorClass(), list[Any]()
    monkeypatch.setattr("harness.executors.ray.pool._Worker", actors)
    (trial,) = planned(tmp_path, document(8, ok={"batch_size": 4})).trials
    nodes = tuple(Node(name, "host", {"CPU": cpus}, {}) for name, cpus in [("a", 1), ("b", 1), ("tiny", 0.5)])
    view: Any = SimpleNamespace(
        cluster=Cluster(nodes), refresh=lambda: None, head_answers=lambda: True, kill=killed.append
    )
    run = prediction_run(view, Work(trial, ((0, 8),), 4))

    def fail_to_load_on(node: str) -> list[Outcome]:
        """Start the only worker on a node that cannot load the model; return the shards that are given up."""
        run.resize_pool()
        monkeypatch.setattr(ray, "get", lambda answer: node if isinstance(answer, str) else answer)
        ((worker, worker_node),) = run.pool.admit(list(run.pool.starting))
        run.scheduler.add_worker(worker, worker_node, CPU)
        (assignment, *_) = run.scheduler.assign()
        assert assignment.worker is worker
        while run.scheduler.outstanding(worker):
            worker.answers.append(LoadFailure(f"no data on {node}"))
            assert run._receive(worker) == []
        return run.resize_pool()

    assert fail_to_load_on("a") == [], "node b may load it"
    errors = fail_to_load_on("b")
    assert [options["label_selector"].get("ray.io/node-id") for options in actors.options_given] == [
        None,
        "!in(a)",
    ]
    assert [actor.number for actor in killed] == [1]
    assert {getattr(error, "error", "") for error in errors} == {"no data on a"}


class TestTimingNode:
    """The choice of a node for timing."""

    @pytest.fixture
    def timed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, list[str]]]:
        """Time a trial on nodes that fail or die; return the result or error, and the tried nodes."""
        (trial,) = planned(tmp_path, document(4)).trials

        def measure(dies: dict[str, bool], error: Exception) -> tuple[Any, list[str]]:
            view: Any = SimpleNamespace(wait_for_head=lambda: None, cluster=None)
            living, tried_nodes = {"a": 4, "b": 2}, list[str]()

            def refresh(force: bool = True) -> None:
                nodes = [Node(name, "host", {"CPU": cpus}, {}) for name, cpus in living.items()]
                view.cluster = Cluster(tuple(nodes))

            def time_on(node: Node, *rest: Any) -> dict[str, Any]:
                tried_nodes.append(node.id)
                if node.id not in dies:
                    return {"node": node.id}
                if dies[node.id]:
                    del living[node.id]  # as the view shows after its next refresh
                raise InfrastructureError("no timing") from error

            view.refresh = refresh
            refresh()
            monkeypatch.setattr("harness.executors.ray.executor.time_on", time_on)
            monkeypatch.setattr("harness.executors.ray.timing.POLL_SECONDS", 0.0)
            monkeypatch.setattr("harness.executors.ray.timing.NODE_DEATH_SECONDS", 0.1)
            executor = RayExecutor()
            executor._view, executor._requests = view, None
            try:
                return executor.measure(trial, ["offline"], SMOKE), tried_nodes
            except InfrastructureError as failed:
                return str(failed), tried_nodes

        return measure

    def test_is_replaced_once_if_it_dies(self, timed: Callable[..., tuple[Any, list[str]]]) -> None:
        assert timed({"a": True}, ActorDiedError()) == ({"node": "b"}, ["a", "b"])
        assert timed({"a": True, "b": True}, ActorDiedError()) == ("no timing", ["a", "b"])

    def test_is_kept_if_only_the_timing_process_fails(
        self, timed: Callable[..., tuple[Any, list[str]]]
    ) -> None:
        assert timed({"a": False}, ActorDiedError()) == ("no timing", ["a"])
        assert timed({"a": False}, ValueError("the adapter's")) == ("no timing", ["a"])

    def test_that_was_started_and_is_gone_at_once_is_an_error(
        self, timed: Callable[..., tuple[Any, list[str]]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Cluster, "timing_node", lambda *_: None)
        monkeypatch.setattr("harness.executors.ray.executor.request_timing_node", lambda *_: "gone")
        failure, tried_nodes = timed({}, ActorDiedError())
        assert failure == "timing words/ok: the node that was started for it is gone again"
        assert tried_nodes == []


class FailingPrediction:
    """A prediction whose workers are lost with every shard that they are sent."""

    def __init__(self, work: Work) -> None:
        dropped: list[PoolWorker] = []
        self.run = prediction_run(SimpleNamespace(cluster=Cluster(())), work)
        self.run.pool.drop = dropped.append  # type: ignore[method-assign]
        self._dropped = dropped

    def lose_worker(self) -> tuple[tuple[int, int, int], list[Outcome]]:
        """Return what another worker is sent (start, stop, batch limit), and what is final after its loss."""
        worker = PoolWorker(None, CPU, deque(["an answer"]))
        self.run.scheduler.add_worker(worker, "node", CPU)
        sent = next(iter(self.run.scheduler.assign()))
        final = self.run._receive(worker)
        assert self._dropped[-1] is worker, "its process cannot be used any more"
        return (sent.shard.start, sent.shard.stop, sent.batch_limit), final


class TestErrorsOfRaysMemory:
    """Errors of Ray in place of answers, as the driver receives them."""

    @pytest.fixture
    def prediction(self, tmp_path: Path) -> FailingPrediction:
        (trial,) = planned(tmp_path, document(8, ok={"batch_size": 4})).trials
        return FailingPrediction(Work(trial, ((0, 8),), 8))

    @pytest.fixture
    def fail_with(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], None]:
        def raise_error(error: Exception) -> Any:
            raise error

        return lambda error: monkeypatch.setattr(ray, "get", lambda answer: raise_error(error))

    def test_a_machine_out_of_memory_halves_batches_until_one_sample_is_tried_alone(
        self, prediction: FailingPrediction, fail_with: Callable[[Exception], None]
    ) -> None:
        fail_with(OutOfMemoryError("Task was killed due to the node running low on memory.\nRefer to …"))
        losses = [prediction.lose_worker() for _ in range(3)]
        assert [sent for sent, _ in losses] == [(0, 8, 4), (0, 8, 2), (0, 8, 1)]
        assert [final for _, final in losses] == [[], [], []], "no sample is blamed yet"
        assert set(prediction.run.scheduler.retries.values()) == {3}
        first, second = self.remaining_errors(prediction)
        reason = "OutOfMemoryError: Task was killed due to the node running low on memory."
        assert first.error == f"worker lost 2 times with this sample alone: {reason}"
        assert second.error == f"not tried after 4 samples in a row without a prediction: {reason}"
        assert (first.culprits, second.culprits) == ((0, 1, 2, 3), ())

    @pytest.mark.parametrize("error_type", [ObjectStoreFullError, OutOfDiskError])
    def test_a_full_object_store_splits_shards_and_blames_no_sample(
        self,
        prediction: FailingPrediction,
        fail_with: Callable[[Exception], None],
        error_type: type[Exception],
    ) -> None:
        fail_with(error_type("no room for 3 GB"))
        losses = [prediction.lose_worker() for _ in range(4)]
        assert [sent for sent, _ in losses] == [(0, 8, 4), (0, 8, 4), (0, 4, 4), (0, 2, 4)]
        assert [final for _, final in losses] == [[], [], [], []]
        first, second = self.remaining_errors(prediction)
        reason = f"{error_type.__name__}: no room for 3 GB"
        assert first.error == f"worker lost {MAX_LOSSES} times: {reason}"
        assert second.error == f"not tried after 4 samples in a row without a prediction: {reason}"
        assert first.culprits == second.culprits == ()

    def remaining_errors(self, prediction: FailingPrediction) -> list[ShardError]:
        """Lose workers to the end; check that every batch comes once, as an error."""
        outcomes: list[Outcome] = []
        while prediction.run.scheduler.busy:
            outcomes += prediction.lose_worker()[1]
        assert [(outcome.shard.start, outcome.shard.stop) for outcome in outcomes] == [(0, 4), (4, 8)]
        errors = [outcome for outcome in outcomes if isinstance(outcome, ShardError)]
        assert len(errors) == 2
        return errors


class TestTwoWorkers:
    """One run with every kind of failure, since starting a worker takes seconds."""

    @pytest.fixture(scope="class")
    def trials(
        self, ray_of_two: RayExecutor, tmp_path_factory: pytest.TempPathFactory
    ) -> tuple[dict[str, TrialRecord], Results, Path]:
        folder = tmp_path_factory.mktemp("ray")
        dying = {"exit_once_at": 9, "marker": str(folder / "died")}
        suite = document(
            17,
            ok={"batch_size": [1, 4]},
            dying={"options": dying, "batch_size": 4},
            deadly={"options": {"exit_at": 16}, "batch_size": 4},  # the last shard, which cannot be split
            poison={"options": {"raise_at": 13}, "batch_size": 4},
        )
        results = run_on(ray_of_two, folder, suite, shard_size=4)
        return {trial.variant: trial for trial in results.trials}, results, folder

    def test_give_the_same_figures_as_one_process_to_the_last_digit(
        self, trials: tuple[dict[str, TrialRecord], Results, Path], tmp_path: Path
    ) -> None:
        inline = run_suite(tmp_path, document(17, ok={"batch_size": [1, 4]}), shard_size=64)
        on_ray = figures(trials[1])
        assert {name: on_ray[name] for name in figures(inline)} == figures(inline)

    def test_lose_no_sample_if_one_dies_once(
        self, trials: tuple[dict[str, TrialRecord], Results, Path]
    ) -> None:
        assert (trials[2] / "died").exists()
        assert (trials[0]["dying"].status, trials[0]["dying"].failures) == ("complete", [])
        assert trials[0]["dying"].metrics == trials[0]["ok[batch_size=4]"].metrics

    def test_name_a_sample_that_always_kills_its_worker(
        self, trials: tuple[dict[str, TrialRecord], Results, Path]
    ) -> None:
        deadly = trials[0]["deadly"]
        (failure,) = deadly.failures
        assert (deadly.status, failure.first, failure.last) == ("partial", 16, 16)
        assert (failure.attempts, failure.indices, failure.samples) == (2, [16], ["test-0000016"])
        assert failure.error.startswith(
            "worker lost 2 times with this sample alone: the adapter's process ended with exit code 1"
        )

    def test_record_an_error_of_the_adapter_at_once_with_its_message(
        self, trials: tuple[dict[str, TrialRecord], Results, Path]
    ) -> None:
        poison = trials[0]["poison"]
        (failure,) = poison.failures
        assert (poison.status, failure.first, failure.last) == ("partial", 12, 15)
        assert failure.samples == ["test-0000013"]
        assert (failure.attempts, failure.error) == (1, "RuntimeError: poison at 13")

    def test_are_recorded_with_the_run_which_is_incomplete(
        self, trials: tuple[dict[str, TrialRecord], Results, Path]
    ) -> None:
        assert (trials[1].run.executor, trials[1].run.workers) == ("ray", 2)
        assert exit_code(trials[1]) == 3


def test_one_worker_gives_one_outcome_per_shard_and_a_hanging_one_is_killed_at_the_deadline(
    one_worker: RayExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_worker, "_first_deadline", 6.0)
    stuck = {"options": {"hang_at": 9}, "batch_size": 1}
    ok, hanging = planned(tmp_path, document(12, ok={"batch_size": 4}, stuck=stuck)).trials
    work = [Work(ok, ((0, 12),), 4), Work(hanging, ((8, 10),), 1)]
    outcomes = list(one_worker.predict(work))
    expected = [shard for part in work for shard in part.shards()]
    assert Counter(where(outcome.shard) for outcome in outcomes) == Counter(map(where, expected))
    (error,) = [outcome for outcome in outcomes if isinstance(outcome, ShardError)]
    assert (error.shard.trial, error.culprits, error.attempts) == (hanging, (9,), 2)
    ended = re.fullmatch(r"worker lost 2 times with this sample alone: no answer within (\S+) s", error.error)
    assert ended and float(ended[1]) >= 6, "longer if loading was slow"
    predictor = Predictor(ok, None)
    results = [o for o in outcomes if isinstance(o, ShardResult) and o.shard.trial == ok]
    for result in results:
        (local,) = predictor.run_shard(result.shard)
        assert isinstance(local, ShardResult)
        assert (result.ids, result.predictions) == (local.ids, local.predictions)


def where(shard: Shard) -> tuple[str, int, int]:
    return shard.trial.id, shard.start, shard.stop


def test_waiting_for_capacity_on_a_busy_cluster_does_not_count_as_hanging(
    one_worker: RayExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_worker, "_first_deadline", 5.0)
    (trial,) = planned(tmp_path, document(4)).trials
    work = [Work(trial, ((0, 4),), 4)]
    busy = ray.remote(num_cpus=ray.cluster_resources()["CPU"])(lambda: time.sleep(9)).remote()
    with monkeypatch.context() as impatient:
        impatient.setattr("harness.executors.ray.pool.START_DEADLINE_SECONDS", 2.0)
        with pytest.raises(
            InfrastructureError, match="no worker could start within 2 s; the cluster is busy"
        ):
            list(one_worker.predict(work))
    (outcome,) = one_worker.predict(work)
    assert isinstance(outcome, ShardResult)
    ray.get(busy)


def test_training_stays_off_requested_nodes_and_a_wrong_recipe_is_a_usage_error(
    ray_of_two: RayExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(
        adapter="fake-translation",
        task="translation",
        dataset=RecipeData(name="phrases", options={"size": 4}),
        steps=1,
        batch_size=1,
        learning_rate=0.1,
        metric="bleu",
    )
    reference = CheckpointRef("w", tmp_path / "w.safetensors", recipe, missing=True)
    (node_id,) = (node.id for node in ray_of_two._view.cluster.nodes)
    requested = deque([{node_id: 1}] * 4)  # by another run that times on the only node for a while
    requests = SimpleNamespace(requested_nodes=lambda: requested.popleft() if requested else {})
    monkeypatch.setattr(ray_of_two, "_requests", requests)
    with pytest.raises(UsageError, match="adapter 'fake-translation' cannot be trained"):
        ray_of_two.train(reference, print)
    assert not list(tmp_path.iterdir())
    assert not requested, "it began only when the node was no longer requested"


def test_a_timing_that_exceeds_its_deadline_is_an_error(
    ray_of_two: RayExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SpeedSettings, "deadline", lambda self, scenarios: 8.0)
    (trial,) = planned(tmp_path, document(4, ok={"options": {"hang_at": 0}})).trials
    with pytest.raises(InfrastructureError, match=r"timing words/ok on node .*: no answer within 8 s"):
        ray_of_two.measure(trial, ["offline"], SMOKE)


@pytest.mark.slow
def test_a_sample_that_kills_its_worker_is_found_by_splitting_its_shard(
    ray_of_two: RayExecutor, tmp_path: Path
) -> None:
    suite = document(24, deadly={"options": {"exit_at": 13}, "batch_size": 4})
    (trial,) = run_on(ray_of_two, tmp_path, suite, shard_size=16).trials
    (failure,) = trial.failures
    assert (failure.first, failure.last, failure.samples) == (12, 15, ["test-0000013"])
    assert trial.reason is not None and trial.reason.startswith("4 of 24 predictions are missing")


@pytest.mark.slow
def test_timing_runs_in_a_process_of_its_own(ray_of_two: RayExecutor, tmp_path: Path) -> None:
    suite = document(8, ok={"batch_size": 4})
    suite["benchmarks"]["words"]["speed"] = ["single-stream"]
    suite["speed"] = {"samples": 4, "threads": 1}
    (trial,) = run_on(ray_of_two, tmp_path, suite).trials
    assert trial.speed["single-stream"].queries >= 11
    assert trial.cost.peak_memory_bytes is not None
