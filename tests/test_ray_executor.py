"""Workers that die, hang or raise on a real local Ray: shards are tried again or recorded, never lost."""

from __future__ import annotations

import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError, ObjectStoreFullError, OutOfDiskError, OutOfMemoryError
from small_suite import document, figures, planned, run_suite

from harness.adapter import Resources
from harness.errors import InfrastructureError, UsageError
from harness.executors.ray.executor import RayExecutor
from harness.executors.ray.pool import Member, NotLoaded, Pool
from harness.executors.scheduling.cluster import Cluster, Node
from harness.executors.scheduling.scheduler import Scheduler
from harness.executors.scheduling.trial_queue import MOST_LOSSES
from harness.recipe import CheckpointRef, Recipe, RecipeData
from harness.run.driver import exit_code
from harness.rundir.results import Results, TrialRecord
from harness.stages.measure import SpeedSettings
from harness.stages.predict import Predictor
from harness.stages.shards import Outcome, Shard, ShardError, ShardResult, Work

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def ray_of_two() -> Iterator[RayExecutor]:
    with RayExecutor(workers=2) as executor:
        yield executor


@pytest.fixture
def one_worker(ray_of_two: RayExecutor, monkeypatch: pytest.MonkeyPatch) -> RayExecutor:
    monkeypatch.setattr(ray_of_two, "_wanted", 1)
    return ray_of_two


def run_on(executor: RayExecutor, folder: Path, suite: dict[str, Any], **settings: Any) -> Results:
    return run_suite(folder, suite, executor=nullcontext(executor), **settings)


def test_an_answer_to_what_was_taken_back_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another suite wants a worker's node: its first shard counts, the one sent ahead is done elsewhere."""
    monkeypatch.setattr("harness.executors.ray.executor.ray.get", lambda answer: answer)

    class Finished:
        def finished(self, worker: Any, answer: list[Any]) -> list[Any]:
            return answer

        def owed(self, worker: Any) -> int:
            return 0

    member = SimpleNamespace(answers=deque([["first"], ["ahead"]]))
    received = RayExecutor()._receive(SimpleNamespace(), Finished(), member)  # type: ignore[arg-type]
    assert (received, list(member.answers)) == (["first"], [])


def test_a_cluster_that_cannot_be_joined_may_want_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: Any) -> None:
        raise ConnectionError("Failed to connect to Ray cluster at head:1")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(
        InfrastructureError, match=r"head:1 \(set RAY_AUTH_MODE=token if it asks for tokens\)$"
    ):
        RayExecutor("head:1").__enter__()
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(InfrastructureError, match=r"Ray cluster at head:1$"):
        RayExecutor("head:1").__enter__()


def test_what_ends_a_job_is_answered_as_before_ray_was_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM: a copy of the run is made then, which Ray's own handler would not wait for."""

    def init(**options: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise ConnectionError("no cluster")

    monkeypatch.setattr(ray, "init", init)
    before = signal.signal(signal.SIGTERM, ours := lambda number, frame: None)
    try:
        with pytest.raises(InfrastructureError, match="no cluster"):
            RayExecutor("head:1").__enter__()
        assert signal.getsignal(signal.SIGTERM) is ours
    finally:
        signal.signal(signal.SIGTERM, before)


class Started:
    """In place of an actor's class: keeps with which options it was started."""

    def __init__(self) -> None:
        self.options_given: list[dict[str, Any]] = []

    def options(self, **options: Any) -> Any:
        self.options_given.append(options)
        number = len(self.options_given)
        ready = SimpleNamespace(remote=lambda: f"ready {number}")
        return SimpleNamespace(remote=lambda: SimpleNamespace(ready=ready, number=number))


def test_a_worker_whose_node_cannot_load_what_waits_makes_way_for_one_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, ended = Started(), list[Any]()
    monkeypatch.setattr("harness.executors.ray.pool._Worker", started)
    (trial,) = planned(tmp_path, document(8, ok={"batch_size": 4})).trials
    nodes = tuple(Node(name, "host", {"CPU": cpus}, {}) for name, cpus in [("a", 1), ("b", 1), ("tiny", 0.5)])
    view: Any = SimpleNamespace(
        cluster=Cluster(nodes), refresh=lambda: None, answering=lambda: True, end=ended.append
    )
    executor, pool, kind = RayExecutor(workers=1), Pool(view), Resources(1, 0)
    executor._view, executor._claims = view, None
    scheduler: Scheduler[Member] = Scheduler(
        [Work(trial, ((0, 8),), 4)], {trial.id: kind}, lambda: 0.0, 900.0
    )

    def refused_on(node: str) -> list[Outcome]:
        """The only worker comes up on a node and cannot load the model; what is given up after that."""
        executor._staff(pool, scheduler, {kind})
        (member,) = pool.starting.values()
        monkeypatch.setattr(ray, "get", lambda answer: node if isinstance(answer, str) else answer)
        ((member, where),) = pool.admit(list(pool.starting))
        scheduler.joined(member, where, kind)
        (assigned, *_) = scheduler.assign()
        assert assigned.worker is member
        while scheduler.owed(member):
            member.answers.append(NotLoaded(f"no data on {node}"))
            assert executor._receive(pool, scheduler, member) == []
        return executor._staff(pool, scheduler, {kind})

    assert refused_on("a") == [], "b may have it"
    errors = refused_on("b")
    assert [each["label_selector"].get("ray.io/node-id") for each in started.options_given] == [
        None,
        "!in(a)",
    ]
    assert [actor.number for actor in ended] == [1]
    assert {getattr(each, "error", "") for each in errors} == {"no data on a"}


class TestTimingNode:
    """A node that dies while it times."""

    @pytest.fixture
    def timed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, list[str]]]:
        """Time on nodes a and b, each of which fails and perhaps dies; also where it was tried."""
        (trial,) = planned(tmp_path, document(4)).trials

        def measured(dies: dict[str, bool], error: Exception) -> tuple[Any, list[str]]:
            view: Any = SimpleNamespace(wait_for_head=lambda: None, cluster=None)
            living, tried = {"a": 4, "b": 2}, list[str]()

            def refresh(at_once: bool = True) -> None:
                nodes = [Node(name, "host", {"CPU": cpus}, {}) for name, cpus in living.items()]
                view.cluster = Cluster(tuple(nodes))

            def time_on(node: Node, *rest: Any) -> dict[str, Any]:
                tried.append(node.id)
                if node.id not in dies:
                    return {"node": node.id}
                if dies[node.id]:
                    del living[node.id]  # as the view shows at its next look
                raise InfrastructureError("no timing") from error

            view.refresh = refresh
            refresh()
            monkeypatch.setattr("harness.executors.ray.executor.time_on", time_on)
            monkeypatch.setattr("harness.executors.ray.timing.POLL", 0.0)
            monkeypatch.setattr("harness.executors.ray.timing.NODE_DEATH", 0.1)
            executor = RayExecutor()
            executor._view, executor._claims = view, None
            try:
                return executor.measure(trial, ["offline"], SpeedSettings("smoke", 1, 2)), tried
            except InfrastructureError as failed:
                return str(failed), tried

        return measured

    def test_that_dies_is_replaced_once(self, timed: Callable[..., tuple[Any, list[str]]]) -> None:
        assert timed({"a": True}, ActorDiedError()) == ({"node": "b"}, ["a", "b"])
        assert timed({"a": True, "b": True}, ActorDiedError()) == ("no timing", ["a", "b"])

    def test_whose_process_alone_fails_is_not(self, timed: Callable[..., tuple[Any, list[str]]]) -> None:
        assert timed({"a": False}, ActorDiedError()) == ("no timing", ["a"])
        assert timed({"a": False}, ValueError("the adapter's")) == ("no timing", ["a"])

    def test_that_started_for_it_and_is_gone_at_once_is_told(
        self, timed: Callable[..., tuple[Any, list[str]]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Cluster, "timing_node", lambda *_: None)
        monkeypatch.setattr("harness.executors.ray.executor.summon", lambda *_: "gone")
        failure, tried = timed({}, ActorDiedError())
        assert (failure, tried) == ("timing words/ok: the node that came for it is gone again", [])


class Doomed:
    """A pool whose workers end with whatever they are sent."""

    def __init__(self, executor: RayExecutor, work: Work) -> None:
        kind = Resources(1, 0)
        self._executor = executor
        self.scheduler: Scheduler[Any] = Scheduler([work], {work.trial.id: kind}, lambda: 0.0, 900.0)
        self.dropped: list[Any] = []
        self._kind = kind

    def drop(self, member: Any) -> None:
        self.dropped.append(member)

    def step(self) -> tuple[tuple[int, int, int], list[Outcome]]:
        """What one more worker is sent (first, end, at once), and what is final after its end."""
        member: Any = Member(None, self._kind, deque(["an answer"]))
        self.scheduler.joined(member, "node", self._kind)
        sent = next(iter(self.scheduler.assign()))
        final = self._executor._receive(self, self.scheduler, member)  # type: ignore[arg-type]
        assert self.dropped[-1] is member, "its process is of no use any more"
        return (sent.shard.start, sent.shard.stop, sent.most), final


class TestErrorsOfRaysMemory:
    """Answers that Ray could not give, as the driver receives them."""

    @pytest.fixture
    def pool(self, tmp_path: Path) -> Doomed:
        (trial,) = planned(tmp_path, document(8, ok={"batch_size": 4})).trials
        return Doomed(RayExecutor(), Work(trial, ((0, 8),), 8))

    @pytest.fixture
    def failing(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], None]:
        def get(error: Exception) -> Any:
            raise error

        return lambda error: monkeypatch.setattr(ray, "get", lambda answer: get(error))

    def test_a_machine_out_of_memory_has_batches_halved_until_one_sample_is_tried_alone(
        self, pool: Doomed, failing: Callable[[Exception], None]
    ) -> None:
        failing(OutOfMemoryError("Task was killed due to the node running low on memory.\nRefer to …"))
        steps = [pool.step() for _ in range(3)]
        assert [sent for sent, _ in steps] == [(0, 8, 4), (0, 8, 2), (0, 8, 1)]
        assert [final for _, final in steps] == [[], [], []], "nobody is blamed as long as it can be halved"
        assert set(pool.scheduler.retries.values()) == {3}
        first, second = self.ends_without_predictions(pool)
        told = "OutOfMemoryError: Task was killed due to the node running low on memory."
        assert first.error == f"worker lost 2 times with this sample alone: {told}"
        assert second.error == f"not tried after 4 samples in a row without a prediction: {told}"
        assert (first.culprits, second.culprits) == ((0, 1, 2, 3), ())

    @pytest.mark.parametrize("kind", [ObjectStoreFullError, OutOfDiskError])
    def test_a_full_object_store_has_shards_tried_again_in_parts_and_blames_nobody(
        self, pool: Doomed, failing: Callable[[Exception], None], kind: type[Exception]
    ) -> None:
        failing(kind("no room for 3 GB"))
        steps = [pool.step() for _ in range(4)]
        assert [sent for sent, _ in steps] == [(0, 8, 4), (0, 8, 4), (0, 4, 4), (0, 2, 4)]
        assert [final for _, final in steps] == [[], [], [], []]
        first, second = self.ends_without_predictions(pool)
        assert first.error == f"worker lost {MOST_LOSSES} times: {kind.__name__}: no room for 3 GB"
        assert (
            second.error
            == f"not tried after 4 samples in a row without a prediction: {kind.__name__}: no room for 3 GB"
        )
        assert first.culprits == second.culprits == ()

    def ends_without_predictions(self, pool: Doomed) -> list[ShardError]:
        """Every batch comes once, as an error: none is ever an empty prediction."""
        outcomes: list[Outcome] = []
        while pool.scheduler.busy:
            outcomes += pool.step()[1]
        assert [(each.shard.start, each.shard.stop) for each in outcomes] == [(0, 4), (4, 8)]
        errors = [outcome for outcome in outcomes if isinstance(outcome, ShardError)]
        assert len(errors) == 2
        return errors


class TestTwoWorkers:
    """One run in which everything goes wrong at once; starting a worker takes seconds."""

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
            deadly={"options": {"exit_at": 16}, "batch_size": 4},  # the last shard: nothing to halve
            poison={"options": {"raise_at": 13}, "batch_size": 4},
        )
        results = run_on(ray_of_two, folder, suite, shard_size=4)
        return {trial.variant: trial for trial in results.trials}, results, folder

    def test_give_the_figures_of_one_process_to_the_last_digit(
        self, trials: tuple[dict[str, TrialRecord], Results, Path], tmp_path: Path
    ) -> None:
        inline = run_suite(tmp_path, document(17, ok={"batch_size": [1, 4]}), shard_size=64)
        on_ray = figures(trials[1])
        assert {name: on_ray[name] for name in figures(inline)} == figures(inline)

    def test_one_that_dies_once_costs_nothing_but_time(
        self, trials: tuple[dict[str, TrialRecord], Results, Path]
    ) -> None:
        assert (trials[2] / "died").exists()
        assert (trials[0]["dying"].status, trials[0]["dying"].failures) == ("complete", [])
        assert trials[0]["dying"].metrics == trials[0]["ok[batch_size=4]"].metrics

    def test_a_sample_that_always_kills_its_worker_is_named(
        self, trials: tuple[dict[str, TrialRecord], Results, Path]
    ) -> None:
        deadly = trials[0]["deadly"]
        (failure,) = deadly.failures
        assert (deadly.status, failure.first, failure.last) == ("partial", 16, 16)
        assert (failure.attempts, failure.indices, failure.samples) == (2, [16], ["test-0000016"])
        assert failure.error.startswith(
            "worker lost 2 times with this sample alone: ActorDiedError: The actor died unexpectedly"
        )
        assert len(failure.error) < 200, "Ray's lines of advice are left out"

    def test_an_adapters_own_error_is_recorded_at_once_with_its_message(
        self, trials: tuple[dict[str, TrialRecord], Results, Path]
    ) -> None:
        poison = trials[0]["poison"]
        (failure,) = poison.failures
        assert (poison.status, failure.first, failure.last) == ("partial", 12, 15)
        assert failure.samples == ["test-0000013"]
        assert (failure.attempts, failure.error) == (1, "RuntimeError: poison at 13")

    def test_the_run_is_one_of_the_executor_and_incomplete(
        self, trials: tuple[dict[str, TrialRecord], Results, Path]
    ) -> None:
        assert (trials[1].run.executor, trials[1].run.workers) == ("ray", 2)
        assert exit_code(trials[1]) == 3


def test_one_worker_gives_one_outcome_a_shard_and_a_hanging_one_is_killed_at_the_deadline(
    one_worker: RayExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_worker, "_deadline", 6.0)
    stuck = {"options": {"hang_at": 9}, "batch_size": 1}
    ok, hanging = planned(tmp_path, document(12, ok={"batch_size": 4}, stuck=stuck)).trials
    work = [Work(ok, ((0, 12),), 4), Work(hanging, ((8, 10),), 1)]
    outcomes = list(one_worker.predict(work))
    expected = [shard for each in work for shard in each.shards()]
    assert Counter(where(outcome.shard) for outcome in outcomes) == Counter(map(where, expected))
    (error,) = [outcome for outcome in outcomes if isinstance(outcome, ShardError)]
    assert (error.shard.trial, error.culprits, error.attempts) == (hanging, (9,), 2)
    assert error.error == "worker lost 2 times with this sample alone: no answer within 6 s"
    by_start = {o.shard.start: o for o in outcomes if isinstance(o, ShardResult) and o.shard.trial == ok}
    predictor = Predictor(ok, None)
    for start, outcome in by_start.items():
        assert (outcome.ids, outcome.predictions) == predictor.predict(start, start + 4)


def where(shard: Shard) -> tuple[str, int, int]:
    return shard.trial.id, shard.start, shard.stop


def test_waiting_for_a_place_on_a_busy_cluster_is_no_hang(
    one_worker: RayExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_worker, "_deadline", 5.0)
    (trial,) = planned(tmp_path, document(4)).trials
    work = [Work(trial, ((0, 4),), 4)]
    busy = ray.remote(num_cpus=ray.cluster_resources()["CPU"])(lambda: time.sleep(9)).remote()
    with monkeypatch.context() as impatient:
        impatient.setattr("harness.executors.ray.pool.START_DEADLINE", 2.0)
        with pytest.raises(
            InfrastructureError, match="no worker could start within 2 s; the cluster is busy"
        ):
            list(one_worker.predict(work))
    (outcome,) = one_worker.predict(work)
    assert isinstance(outcome, ShardResult)
    ray.get(busy)


def test_training_keeps_off_nodes_to_time_on_and_a_wrong_recipe_is_the_users_error(
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
    (here,) = (node.id for node in ray_of_two._view.cluster.nodes)
    wanted = deque([{here: 1}] * 4)  # by another suite that times on the only node, for a while
    claims = SimpleNamespace(look=lambda: wanted.popleft() if wanted else {})
    monkeypatch.setattr(ray_of_two, "_claims", claims)
    with pytest.raises(UsageError, match="adapter 'fake-translation' cannot be trained"):
        ray_of_two.train(reference, print)
    assert not list(tmp_path.iterdir())
    assert not wanted, "it began only when the node was free"


def test_a_timing_that_does_not_answer_is_given_up(
    ray_of_two: RayExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SpeedSettings, "deadline", lambda self, scenarios: 8.0)
    (trial,) = planned(tmp_path, document(4, ok={"options": {"hang_at": 0}})).trials
    with pytest.raises(InfrastructureError, match=r"timing words/ok on node .*: no answer within 8 s"):
        ray_of_two.measure(trial, ["offline"], SpeedSettings("smoke", 1, 2))


@pytest.mark.slow
def test_a_sample_that_kills_its_worker_is_found_by_halving_its_shard(
    ray_of_two: RayExecutor, tmp_path: Path
) -> None:
    suite = document(24, deadly={"options": {"exit_at": 13}, "batch_size": 4})
    (trial,) = run_on(ray_of_two, tmp_path, suite, shard_size=16).trials
    (failure,) = trial.failures
    assert (failure.first, failure.last, failure.samples) == (12, 15, ["test-0000013"])
    assert trial.reason is not None and trial.reason.startswith("4 of 24 predictions are missing")


@pytest.mark.slow
def test_timing_runs_in_a_worker_of_its_own(ray_of_two: RayExecutor, tmp_path: Path) -> None:
    suite = document(8, ok={"batch_size": 4})
    suite["benchmarks"]["words"]["speed"] = ["single-stream"]
    suite["speed"] = {"samples": 4, "threads": 1}
    (trial,) = run_on(ray_of_two, tmp_path, suite).trials
    assert trial.speed["single-stream"].queries >= 11
    assert trial.cost.peak_memory_bytes is not None
