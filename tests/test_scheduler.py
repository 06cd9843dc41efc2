"""Decisions of the Ray executor on a simulated cluster with a virtual clock; nothing sleeps, no Ray."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from harness.adapter import Resources
from harness.executors.scheduling.losses import LOSSES_BEFORE_SPLIT, MAX_FAILED_IN_A_ROW, MAX_LOSSES
from harness.executors.scheduling.scheduler import Scheduler
from harness.executors.scheduling.worker_pool import SHARDS_PER_WORKER, Assignment
from harness.stages.shards import Outcome, Shard, ShardError, ShardResult, Work


def _benchmark(name: str) -> ModuleType:
    path = Path(__file__).parent.parent / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


scale = _benchmark("scale")
GPU, CPU = Resources(1, 1), Resources(1, 0)


def work(size: int, name: str = "a", shard_size: int = 8, batch_size: int = 4) -> Work:
    return Work(scale.trial(name, size, batch_size), ((0, size),), shard_size)


class Desk:
    """A scheduler under the test's hands: workers are letters, time is set."""

    def __init__(self, *works: Work, kinds: dict[str, Resources] | None = None) -> None:
        self.now = 0.0
        self.trial = works[0].trial
        of_trial = {each.trial.id: (kinds or {}).get(each.trial.spec.adapter, GPU) for each in works}
        self.scheduler: Scheduler[str] = Scheduler(works, of_trial, lambda: self.now, 900.0)

    def join(self, workers: str, node: str = "n", kind: Resources = GPU) -> None:
        for worker in workers:
            self.scheduler.add_worker(worker, node, kind)

    def sent(self) -> list[tuple[str, int, int]]:
        return [(a.worker, a.shard.start, a.shard.stop) for a in self.assigned()]

    def assigned(self) -> list[Assignment[str]]:
        return list(self.scheduler.assign())

    def saw(self, *nodes: str) -> list[Outcome]:
        """These nodes live and have room."""
        return self.scheduler.update_nodes({*nodes}, {GPU: {*nodes}})

    def finish(self, worker: str, shard: Shard, seconds: float = 1.0) -> list[Outcome]:
        self.now += seconds
        return self.scheduler.finish_shard(worker, [result(shard)])


def result(shard: Shard, most: int = 4) -> ShardResult:
    execution = scale.Execution("n", "", "", most)
    return ShardResult(shard, [str(i) for i in range(shard.start, shard.stop)], [], {}, execution)


def covered(outcomes: list[Outcome], name: str) -> list[int]:
    """How often each sample of a trial came back."""
    mine = [outcome.shard for outcome in outcomes if outcome.shard.trial.spec.adapter == name]
    counts = np.zeros(max(shard.stop for shard in mine), int)
    for shard in mine:
        counts[shard.start : shard.stop] += 1
    return counts.tolist()


@pytest.mark.parametrize("seed", range(40))
def test_whatever_fails_every_sample_comes_back_once_and_workers_are_kept_busy(seed: int) -> None:
    random = np.random.default_rng(seed)
    sizes = {f"trial-{i}": int(n) for i, n in enumerate(random.integers(1, 20_000, random.integers(1, 8)))}
    works = [
        work(n, name, shard_size=64, batch_size=int(random.choice([1, 16, 24]))) for name, n in sizes.items()
    ]
    workers = int(random.integers(1, 40))
    conditions = scale.Conditions(
        workers=workers,
        on_a_node=int(random.integers(1, 9)),
        loading=float(random.uniform(0, 30)),
        worker_dies=float(random.choice([500, 5_000])),
        node_dies=float(random.choice([2_000, 50_000])),
        hangs=float(random.choice([0, 0.003])),
    )
    simulation = scale.Simulation(works, conditions, seed)
    outcomes = list(simulation.run())
    for name, size in sizes.items():
        assert covered(outcomes, name) == [1] * size
    wrongly_blamed = [outcome for outcome in outcomes if isinstance(outcome, ShardError)]
    assert not wrongly_blamed, "workers that die at random are no sample's fault"


@pytest.mark.parametrize("seed", range(10))
def test_without_failures_the_makespan_is_near_its_lower_bound(seed: int) -> None:
    random = np.random.default_rng(seed)
    works = [work(int(n), f"trial-{i}", 64, 16) for i, n in enumerate(random.integers(1, 60_000, 6))]
    quiet = scale.Conditions(
        workers=int(random.integers(1, 12)), loading=5, worker_dies=1e12, node_dies=1e12, hangs=0
    )
    simulation = scale.Simulation(works, quiet, seed)
    assert all(isinstance(outcome, ShardResult) for outcome in simulation.run())
    # Beyond the ideal: a model loaded a few times, and at the end the longest shards (four deviations).
    longest = 10 * np.exp(4 * quiet.spread)
    assert simulation.now <= simulation.useful / quiet.workers + 6 * quiet.loading + 2 * longest


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("at", [0, 5, 18])
def test_a_sample_that_kills_its_worker_is_named_and_costs_its_batch_only(at: int, batch_size: int) -> None:
    given = work(19, shard_size=8, batch_size=batch_size)
    calm = scale.Conditions(workers=3, worker_dies=1e12, node_dies=1e12, hangs=0)
    poisoned = scale.Conditions(**{**calm.__dict__, "poison": frozenset({(given.trial.id, at)})})
    simulation = scale.Simulation([given], poisoned)
    outcomes = list(simulation.run())
    assert covered(outcomes, "a") == [1] * 19
    (error,) = [outcome for outcome in outcomes if isinstance(outcome, ShardError)]
    first = at // batch_size * batch_size
    assert (error.culprits, error.shard.start, error.shard.stop) == (
        (at,),
        first,
        min(first + batch_size, 19),
    )
    assert error.error == "worker lost 2 times with this sample alone: dies"
    assert simulation.happened["dies"] <= LOSSES_BEFORE_SPLIT + 4 + LOSSES_BEFORE_SPLIT, "halved, not tried one by one"


def test_a_worker_has_a_shard_ahead_while_more_wait_than_there_are_workers() -> None:
    desk = Desk(work(40))  # five shards of 8
    desk.join("xy")
    assert desk.sent() == [("x", 0, 8), ("y", 8, 16), ("x", 16, 24)]
    assert SHARDS_PER_WORKER == 2


def test_what_waited_behind_a_lost_shard_is_not_to_blame() -> None:
    desk = Desk(work(32))
    desk.join("x")
    assert desk.sent() == [("x", 0, 8), ("x", 8, 16)]
    desk.scheduler.lose_worker("x", "died")
    desk.join("xy")
    assert desk.sent()[:2] == [("x", 8, 16), ("y", 0, 8)]
    desk.scheduler.lose_worker("y", "died")
    desk.scheduler.lose_worker("x", "died")
    desk.join("uvwxyz")
    pieces = sorted((start, stop) for _, start, stop in desk.sent())
    assert pieces == [(0, 4), (4, 8), (8, 16), (16, 24), (24, 32)], "twice the first, once the other"


def test_a_worker_without_a_shard_that_dies_blames_nobody() -> None:
    desk = Desk(work(8))
    desk.join("xy")
    desk.assigned()
    assert desk.scheduler.lose_worker("y", "died") == []
    assert not desk.scheduler.retries


def test_parts_of_a_batch_come_back_as_the_batch_with_the_number_at_once() -> None:
    desk = Desk(work(4, shard_size=4))
    for _ in range(LOSSES_BEFORE_SPLIT):
        desk.join("x")
        desk.assigned()
        desk.scheduler.lose_worker("x", "died")
    desk.join("xy")
    (first, second) = desk.assigned()
    assert desk.finish(first.worker, first.shard) == []
    (whole,) = desk.finish(second.worker, second.shard)
    assert isinstance(whole, ShardResult)
    assert (whole.shard.start, whole.shard.stop, whole.ids) == (0, 4, ["0", "1", "2", "3"])
    assert whole.execution.batch_size == 2


def test_short_memory_halves_what_is_predicted_at_once_and_blames_nobody() -> None:
    desk = Desk(work(64, batch_size=4))
    most = []
    for _ in range(4):
        desk.join("x")
        most.append(desk.assigned()[0].batch_limit)
        desk.scheduler.lose_worker("x", "out of memory", "memory")
    assert most == [4, 2, 1, 1]


def test_two_workers_that_ran_out_of_memory_at_once_halve_it_once() -> None:
    desk = Desk(work(64))
    desk.join("xy")
    desk.assigned()
    desk.scheduler.lose_worker("x", "out of memory", "memory")
    desk.scheduler.lose_worker("y", "out of memory", "memory")
    desk.join("z")
    assert desk.assigned()[0].batch_limit == 2


def test_a_hanging_worker_is_found_at_its_deadline_which_follows_from_what_was_timed() -> None:
    desk = Desk(work(800))
    desk.join("x")
    loading, second = desk.assigned()
    assert desk.finish("x", loading.shard, seconds=100) == [result(loading.shard)]
    assert desk.scheduler.expired() == []
    desk.now += 899
    assert desk.scheduler.expired() == []
    desk.finish("x", second.shard, seconds=0.5)  # 899.5 s for 8 samples: the slowest so far
    (third, *_) = desk.assigned()
    desk.now += 900
    assert desk.scheduler.expired() == [], "three times the slowest so far"
    desk.now += 3 * 899.5 - 900
    assert desk.scheduler.expired() == [("x", 3 * 899.5)]
    desk.scheduler.lose_worker("x", "hangs")
    desk.join("y")
    again = desk.assigned()[0]
    assert again.shard != third.shard, "a lost one goes to the end"


def test_quick_shards_are_given_less_time_to_hang() -> None:
    desk = Desk(work(800))
    desk.join("x")
    first, second = desk.assigned()
    desk.finish("x", first.shard, seconds=100)
    desk.finish("x", second.shard, seconds=10)
    desk.assigned()
    desk.now += 199
    assert desk.scheduler.expired() == []
    desk.now += 1
    assert desk.scheduler.expired() == [("x", 200)], "20 times the slowest, loading aside"


class TestLoading:
    def test_a_trial_that_a_node_cannot_load_goes_to_another(self) -> None:
        desk = Desk(work(8))
        desk.join("x", "bad")
        assert desk.sent() == [("x", 0, 8)]
        desk.scheduler.fail_to_load("x", "other data here")
        assert desk.saw("bad", "good") == []
        assert desk.sent() == []
        desk.join("y", "good")
        assert desk.sent() == [("y", 0, 8)]

    def test_a_worker_where_nothing_that_waits_can_be_loaded_is_to_leave(self) -> None:
        desk = Desk(work(8), work(4, "b"))
        desk.join("x", "bad")
        sent = desk.assigned()
        assert [each.shard.trial.spec.adapter for each in sent] == ["a"], "one ahead only where more wait"
        desk.scheduler.fail_to_load("x", "no data here")
        assert (desk.scheduler.excluded_nodes(GPU), desk.scheduler.workers_to_release(GPU)) == (frozenset(), []), "b may load"
        (other,) = desk.assigned()
        desk.scheduler.finish_shard("x", [result(other.shard)])
        assert (desk.scheduler.excluded_nodes(GPU), desk.scheduler.workers_to_release(GPU)) == ({"bad"}, ["x"])
        assert desk.scheduler.excluded_nodes(CPU) == frozenset()

    def test_the_first_error_is_the_one_that_is_told(self) -> None:
        desk = Desk(work(8))
        desk.join("x", "first")
        desk.join("y", "second")
        desk.assigned()
        desk.scheduler.fail_to_load("x", "out of memory")
        assert desk.saw("first", "second") == []
        desk.assigned()
        desk.scheduler.fail_to_load("y", "no data")
        (error,) = desk.saw("first", "second")
        assert isinstance(error, ShardError) and error.error == "out of memory"
        assert not desk.scheduler.busy

    @pytest.mark.parametrize("everywhere", [False, True])
    def test_one_that_no_node_can_load_is_given_up_as_a_whole(self, everywhere: bool) -> None:
        desk = Desk(work(16), work(8, "b"))
        desk.join("x", "bad")
        desk.assigned()
        while desk.scheduler.outstanding("x"):
            desk.scheduler.fail_to_load("x", "other data here", everywhere)
        errors = desk.saw("bad", *(["good"] if everywhere else []))
        assert covered(errors, "a") == [1] * 16
        assert {(type(error), getattr(error, "error", "")) for error in errors} == {
            (ShardError, "other data here")
        }
        assert [each.shard.trial.spec.adapter for each in desk.assigned()] == ["b"]

    def test_a_node_that_dies_leaves_none_that_could_load_it(self) -> None:
        desk = Desk(work(8))
        desk.join("x", "bad")
        desk.assigned()
        desk.scheduler.fail_to_load("x", "no data")
        assert desk.saw("bad", "good") == []
        assert desk.saw() == [], "others may come while there is none"
        (error,) = desk.saw("bad")
        assert isinstance(error, ShardError) and error.error == "no data"

    @pytest.mark.parametrize("at_first", [False, True])
    def test_where_one_copy_does_not_fit_the_others_go_on(self, at_first: bool) -> None:
        """Four workers share a GPU on which three have room."""
        desk = Desk(work(80))
        desk.join("ab")
        desk.assigned()
        if at_first:
            desk.scheduler.fail_to_load("b", "out of memory")
            assert desk.saw("n") == [], "the other one is loading still"
        desk.finish("a", Shard(desk.trial, 0, 8))
        desk.assigned()
        desk.scheduler.fail_to_load("b", "out of memory")
        assert desk.saw("n") == []
        while desk.scheduler.outstanding("b"):
            desk.scheduler.fail_to_load("b", "out of memory")
        assert (desk.scheduler.excluded_nodes(GPU), desk.scheduler.workers_to_release(GPU)) == ({"n"}, ["b"])
        assert {worker for worker, _, _ in desk.sent()} <= {"a"}
        desk.scheduler.release_worker("b")
        assert desk.scheduler.excluded_nodes(GPU) == {"n"}, "no other one is started there"
        outcomes = []
        while desk.scheduler.busy:
            assert desk.scheduler.workers_to_release(GPU) == []
            desk.assigned()
            assignment = desk.scheduler._workers["a"].assignments[0]
            outcomes += desk.finish("a", assignment.shard)
        assert len(outcomes) == 9 and all(isinstance(each, ShardResult) for each in outcomes)

    def test_room_that_a_lost_worker_leaves_is_for_another(self) -> None:
        desk = Desk(work(8 * 4))
        desk.join("ab")
        desk.assigned()
        desk.finish("a", Shard(desk.trial, 0, 8))
        while desk.scheduler.outstanding("b"):
            desk.scheduler.fail_to_load("b", "out of memory")
        desk.scheduler.release_worker("b")
        desk.assigned()
        desk.scheduler.lose_worker("a", "died")
        assert (desk.saw("n"), desk.scheduler.excluded_nodes(GPU)) == ([], frozenset())
        desk.join("c")
        assert desk.assigned()
        while desk.scheduler.outstanding("c"):
            desk.scheduler.fail_to_load("c", "no memory still")
        errors = desk.saw("n")
        assert covered(errors, "a")[8:] == [1] * 24
        assert {getattr(each, "error", "") for each in errors} == {"out of memory"}
        assert not desk.scheduler.busy

    def test_an_idle_worker_does_not_load_a_model_for_what_its_holders_do_sooner(self) -> None:
        desk = Desk(work(40))
        desk.join("x")
        first, second = desk.assigned()
        desk.finish("x", first.shard, seconds=60)
        desk.finish("x", second.shard, seconds=1)
        desk.scheduler.release_worker("x")
        desk.join("x")
        third, fourth = desk.assigned()
        desk.finish("x", third.shard, seconds=60)  # a shard takes 1 s, so that loading took 59
        desk.join("y")
        assert desk.sent() == []
        desk.finish("x", fourth.shard)
        assert desk.sent() == [("x", 32, 40)]


class TestBlame:
    """Whose fault a lost worker is."""

    def lose(self, desk: Desk, node: str, cause: Any = "process") -> tuple[int, list[Outcome]]:
        """One worker comes up on a node and ends with what it is sent; how many samples that was."""
        desk.join("x", node)
        sent = desk.assigned()[0]
        return sent.shard.stop - sent.shard.start, desk.scheduler.lose_worker("x", "died", cause)

    def test_a_sample_on_nodes_that_died_is_not_to_blame(self) -> None:
        desk = Desk(work(1))
        for number in range(5):
            assert self.lose(desk, f"spot-{number}") == (1, [])
            desk.saw("steady")  # the node is gone, as is seen a while after
        assert self.lose(desk, "steady") == (1, [])
        (error,) = self.lose(desk, "steady")[1]
        assert isinstance(error, ShardError) and error.culprits == (0,)
        assert error.error == "worker lost 2 times with this sample alone: died"

    def test_a_shard_on_nodes_that_died_is_not_cut_nor_tried_for_ever(self) -> None:
        desk = Desk(work(4, shard_size=4))
        sizes, outcomes = list[int](), list[Outcome]()
        while desk.scheduler.busy:
            size, found = self.lose(desk, f"spot-{len(sizes)}")
            outcomes += found
            sizes.append(size)
            desk.saw()
        assert sizes[:10] == [4] * MAX_LOSSES + [2] * 2, "then cut, and each part has its own tries"
        (error,) = outcomes
        assert isinstance(error, ShardError) and error.culprits == ()
        assert error.error == f"worker lost {MAX_LOSSES} times: died"

    def test_a_full_object_store_has_a_shard_cut_and_names_no_sample(self) -> None:
        desk = Desk(work(2, shard_size=2, batch_size=2))
        sizes, outcomes = list[int](), list[Outcome]()
        while desk.scheduler.busy:
            size, found = self.lose(desk, "steady", "store")
            outcomes += found
            sizes.append(size)
        assert sizes == [2] * LOSSES_BEFORE_SPLIT + [1] * 2 * MAX_LOSSES
        (error,) = outcomes
        assert isinstance(error, ShardError) and error.culprits == ()
        assert error.error == f"worker lost {MAX_LOSSES} times: died"

    @pytest.mark.parametrize(
        ("how", "workers", "most", "hours"),
        [("poison", 1, 22, 0.4), ("poison", 2, 36, 0.3), ("stuck", 1, 20, 5.2), ("stuck", 2, 24, 3.1)],
    )
    def test_a_trial_each_of_whose_samples_kills_or_hangs_its_worker_is_stopped(
        self, how: str, workers: int, most: int, hours: float
    ) -> None:
        given = work(64_000, shard_size=64, batch_size=16)
        bad = frozenset((given.trial.id, at) for at in range(64_000))
        calm = {"worker_dies": 1e12, "node_dies": 1e12, "hangs": 0.0, "workers": workers}
        simulation = scale.Simulation([given], scale.Conditions(**{**calm, how: bad}))
        outcomes = list(simulation.run())
        assert covered(outcomes, "a") == [1] * 64_000
        assert (simulation.happened.total() <= most, simulation.now <= 3600 * hours) == (True, True)
        errors = [outcome for outcome in outcomes if isinstance(outcome, ShardError)]
        assert sum(len(error.culprits) for error in errors) == MAX_FAILED_IN_A_ROW
        assert any(
            each.error.startswith(f"not tried after {MAX_FAILED_IN_A_ROW} samples in a row without") for each in errors
        )

    def test_one_sample_that_hangs_costs_minutes_a_halving(self) -> None:
        given = work(640, shard_size=64, batch_size=16)
        stuck = frozenset({(given.trial.id, 300)})
        calm = scale.Conditions(workers=2, worker_dies=1e12, node_dies=1e12, hangs=0, stuck=stuck)
        simulation = scale.Simulation([given], calm)
        (error,) = [outcome for outcome in simulation.run() if isinstance(outcome, ShardError)]
        assert error.culprits == (300,)
        assert simulation.happened == {"hangs": 8} and simulation.now < 8 * 900 / 2

    def test_a_shard_of_bad_samples_does_not_stop_a_trial_of_which_others_can_be_done(self) -> None:
        given = work(640, shard_size=64, batch_size=16)
        poison = frozenset((given.trial.id, at) for at in range(64, 128))
        calm = scale.Conditions(workers=1, worker_dies=1e12, node_dies=1e12, hangs=0, poison=poison)
        simulation = scale.Simulation([given], calm)
        results = [each for each in simulation.run() if isinstance(each, ShardResult)]
        assert sum(each.shard.stop - each.shard.start for each in results) == 640 - 64


class TestSlowOrHanging:
    def test_a_slow_trial_gets_the_time_that_its_rate_asks_for(self) -> None:
        """20 s a sample: a shard of 64 takes 1,280 s, which no first one is given."""
        given = work(640, shard_size=64, batch_size=16)
        slow = scale.Conditions(workers=2, shard=1280, spread=0.1, worker_dies=1e12, node_dies=1e12, hangs=0)
        simulation = scale.Simulation([given], slow)
        assert all(isinstance(outcome, ShardResult) for outcome in simulation.run())
        assert simulation.happened == {"hangs": 2}, "one each, before any rate was known"
        assert simulation.now <= 1.3 * simulation.useful / 2

    def test_what_others_show_meanwhile_saves_a_slow_one(self) -> None:
        desk = Desk(work(80, shard_size=40))
        desk.join("x")
        (x,) = desk.assigned()[:1]
        desk.now = 200
        desk.join("y")
        assert "y" in [each.worker for each in desk.assigned()]
        desk.finish("x", x.shard, seconds=650)  # at 850: 21 s a sample, loading included
        desk.now = 200 + 900
        assert desk.scheduler.expired() == []
        desk.now = 200 + 3 * (850 + 850)  # 40 samples and the loading
        assert [worker for worker, _ in desk.scheduler.expired()] == ["y"]

    def test_what_is_tried_again_after_a_hang_is_shorter_and_has_less_time(self) -> None:
        desk = Desk(work(96, shard_size=32, batch_size=4))
        desk.join("x")
        first, _ = desk.assigned()
        desk.finish("x", first.shard, seconds=16)  # loading included
        limits = list[tuple[int, float]]()
        for _ in range(10):
            desk.assigned()
            desk.now += 900
            (seconds,) = [seconds for _, seconds in desk.scheduler.expired()]
            shard = desk.scheduler._workers["x"].assignments[0].shard
            limits.append((shard.stop - shard.start, seconds))
            desk.scheduler.lose_worker("x", "hangs")
            desk.join("x")
        # 0.5 s a sample, times 20; after the first 16 s to load as well, but for the shard that never hung.
        assert limits[0] == (32, 320.0)
        assert {*limits[1:]} == {(32, 900), (16, 480), (8, 400), (4, 360), (2, 340), (1, 330)}


def test_the_longest_trial_starts_first_and_a_worker_keeps_its_model() -> None:
    desk = Desk(work(16, "short"), work(80, "long"))
    desk.join("xyz")
    names = [a.shard.trial.spec.adapter for a in desk.assigned()[:3]]
    assert names == ["long", "long", "long"], "80 samples shared by three are still more than 16"
    desk.join("uvw")
    names = [a.shard.trial.spec.adapter for a in desk.assigned()]
    assert names[:3].count("short") == 1


def test_a_kind_of_worker_gets_only_its_trials() -> None:
    desk = Desk(work(80, "on-cpu"), work(8, "on-gpu"), kinds={"on-cpu": CPU})
    desk.join("g", kind=GPU)
    desk.join("c", kind=CPU)
    sent = {a.worker: a.shard.trial.spec.adapter for a in desk.assigned()}
    assert sent == {"g": "on-gpu", "c": "on-cpu"}
    assert (desk.scheduler.waiting(GPU), desk.scheduler.waiting(CPU)) == (0, 8)


def test_a_node_to_avoid_finishes_what_runs_and_gives_back_the_rest() -> None:
    desk = Desk(work(80))
    desk.join("x", "wanted")
    desk.join("y", "other")
    first, *_ = desk.assigned()
    assert first.worker == "x"
    desk.scheduler.reserve_nodes({"wanted"})
    assert desk.scheduler.workers_to_release(GPU) == [], "it has begun"
    assert desk.scheduler.outstanding("x") == 2
    desk.finish("x", first.shard)
    assert desk.scheduler.outstanding("x") == 0, "what it was sent ahead is done elsewhere"
    assert desk.scheduler.workers_to_release(GPU) == ["x"]
    desk.scheduler.release_worker("x")
    desk.join("z", "wanted")
    assert desk.sent() == []
    assert desk.scheduler.workers_to_release(GPU) == ["z"]
    desk.scheduler.reserve_nodes(frozenset())
    assert next(worker for worker, _, _ in desk.sent()) == "z"


def test_work_left_by_an_earlier_run_is_cut_at_the_same_batches() -> None:
    left = Work(scale.trial("a", 70, 4), ((8, 16), (36, 70)), 10)
    found = [(shard.start, shard.stop) for shard in left.shards()]
    assert found == [(8, 16), (36, 48), (48, 60), (60, 70)]
    assert (left.count, left.samples, left.length) == (4, 42, 12)


def test_the_scale_benchmark_keeps_its_bounds_and_says_so_where_one_is_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["scale.py", "--workers", "200", "--shards", "20000"])
    # 100 shards a worker only: loading and the tail weigh ten times more than at the size that is asked for
    monkeypatch.setattr(scale, "MOST_RATIO", 1.15)
    scale.main()
    for name, out_of_reach in (("MOST_RATIO", 1.0), ("MOST_DECIDING", 0.0), ("MOST_MEMORY", (-1, 0))):
        with monkeypatch.context() as strict, pytest.raises(SystemExit, match="a bound is missed"):
            strict.setattr(scale, name, out_of_reach)
            scale.main()
