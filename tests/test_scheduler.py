"""Decisions of the scheduler on a simulated cluster with a virtual clock: no Ray, no sleeping."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from scheduler_desk import CPU, GPU, Desk, covered, result, scale, work

from harness.executors.scheduling.losses import LOSSES_BEFORE_SPLIT
from harness.executors.scheduling.worker_pool import SHARDS_PER_WORKER
from harness.stages.shards import Outcome, Shard, ShardError, ShardResult, Work


@pytest.mark.parametrize("seed", range(40))
def test_random_failures_lose_and_repeat_no_sample(seed: int) -> None:
    random = np.random.default_rng(seed)
    sizes = {f"trial-{i}": int(n) for i, n in enumerate(random.integers(1, 20_000, random.integers(1, 8)))}
    works = [
        work(n, name, shard_size=64, batch_size=int(random.choice([1, 16, 24]))) for name, n in sizes.items()
    ]
    workers = int(random.integers(1, 40))
    conditions = scale.Conditions(
        workers=workers,
        workers_per_node=int(random.integers(1, 9)),
        loading=float(random.uniform(0, 30)),
        worker_lifetime=float(random.choice([500, 5_000])),
        node_lifetime=float(random.choice([2_000, 50_000])),
        hangs=float(random.choice([0, 0.003])),
    )
    simulation = scale.Simulation(works, conditions, seed)
    outcomes = list(simulation.run())
    for name, size in sizes.items():
        assert covered(outcomes, name) == [1] * size
    wrongly_blamed = [outcome for outcome in outcomes if isinstance(outcome, ShardError)]
    assert not wrongly_blamed, "workers that die at random are not the fault of a sample"


@pytest.mark.parametrize("seed", range(10))
def test_without_failures_the_makespan_is_near_its_lower_bound(seed: int) -> None:
    random = np.random.default_rng(seed)
    works = [work(int(n), f"trial-{i}", 64, 16) for i, n in enumerate(random.integers(1, 60_000, 6))]
    quiet = scale.Conditions(
        workers=int(random.integers(1, 12)), loading=5, worker_lifetime=1e12, node_lifetime=1e12, hangs=0
    )
    simulation = scale.Simulation(works, quiet, seed)
    assert all(isinstance(outcome, ShardResult) for outcome in simulation.run())
    # Beyond the ideal: a few model loads, and the longest shards at the end (four deviations).
    longest = 10 * np.exp(4 * quiet.spread)
    assert simulation.now <= simulation.useful / quiet.workers + 6 * quiet.loading + 2 * longest


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("at", [0, 5, 18])
def test_a_sample_that_kills_its_worker_is_named_and_costs_only_its_batch(at: int, batch_size: int) -> None:
    given = work(19, shard_size=8, batch_size=batch_size)
    calm = scale.Conditions(workers=3, worker_lifetime=1e12, node_lifetime=1e12, hangs=0)
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
    assert simulation.losses["dies"] <= LOSSES_BEFORE_SPLIT + 4 + LOSSES_BEFORE_SPLIT, (
        "shards are split, not tried sample by sample"
    )


def test_a_worker_gets_a_shard_ahead_while_more_are_pending_than_there_are_workers() -> None:
    desk = Desk(work(40))  # five shards of 8
    desk.join("xy")
    assert desk.sent() == [("x", 0, 8), ("y", 8, 16), ("x", 16, 24)]
    assert SHARDS_PER_WORKER == 2


def test_a_shard_behind_a_lost_one_is_not_blamed() -> None:
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
    assert pieces == [(0, 4), (4, 8), (8, 16), (16, 24), (24, 32)], "only the first was lost twice"


def test_an_idle_worker_that_dies_blames_no_shard() -> None:
    desk = Desk(work(8))
    desk.join("xy")
    desk.assigned()
    assert desk.scheduler.lose_worker("y", "died") == []
    assert not desk.scheduler.retries


def test_parts_of_a_batch_come_back_as_the_batch_with_the_size_that_was_predicted() -> None:
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


def test_short_memory_halves_the_batch_and_blames_no_sample() -> None:
    desk = Desk(work(64, batch_size=4))
    limits = []
    for _ in range(4):
        desk.join("x")
        limits.append(desk.assigned()[0].batch_limit)
        desk.scheduler.lose_worker("x", "out of memory", "memory")
    assert limits == [4, 2, 1, 1]


def test_two_workers_that_run_out_of_memory_together_halve_the_batch_once() -> None:
    desk = Desk(work(64))
    desk.join("xy")
    desk.assigned()
    desk.scheduler.lose_worker("x", "out of memory", "memory")
    desk.scheduler.lose_worker("y", "out of memory", "memory")
    desk.join("z")
    assert desk.assigned()[0].batch_limit == 2


def test_a_hanging_worker_expires_at_a_deadline_that_follows_from_the_pace() -> None:
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
    assert desk.scheduler.expired() == [], "a shard may take three times as long as the slowest so far"
    desk.now += 3 * 899.5 - 900
    assert desk.scheduler.expired() == [("x", 3 * 899.5)]
    desk.scheduler.lose_worker("x", "hangs")
    desk.join("y")
    again = desk.assigned()[0]
    assert again.shard != third.shard, "a lost shard goes to the end"


def test_quick_shards_have_a_shorter_deadline() -> None:
    desk = Desk(work(800))
    desk.join("x")
    first, second = desk.assigned()
    desk.finish("x", first.shard, seconds=100)
    desk.finish("x", second.shard, seconds=10)
    desk.assigned()
    desk.now += 199
    assert desk.scheduler.expired() == []
    desk.now += 1
    assert desk.scheduler.expired() == [("x", 200)], "20 times the slowest, without loading"


class TestLoading:
    def test_a_trial_that_cannot_be_loaded_on_a_node_goes_to_another(self) -> None:
        desk = Desk(work(8))
        desk.join("x", "bad")
        assert desk.sent() == [("x", 0, 8)]
        desk.scheduler.fail_to_load("x", "other data here")
        assert desk.update_nodes("bad", "good") == []
        assert desk.sent() == []
        desk.join("y", "good")
        assert desk.sent() == [("y", 0, 8)]

    def test_a_worker_on_a_node_that_can_load_no_pending_trial_is_to_be_released(self) -> None:
        desk = Desk(work(8), work(4, "b"))
        desk.join("x", "bad")
        sent = desk.assigned()
        assert [assignment.shard.trial.spec.adapter for assignment in sent] == ["a"], "no shard ahead"
        desk.scheduler.fail_to_load("x", "no data here")
        assert (desk.scheduler.excluded_nodes(GPU), desk.scheduler.workers_to_release(GPU)) == (
            frozenset(),
            [],
        ), "trial b may load there"
        (other,) = desk.assigned()
        desk.scheduler.finish_shard("x", [result(other.shard)])
        assert (desk.scheduler.excluded_nodes(GPU), desk.scheduler.workers_to_release(GPU)) == (
            {"bad"},
            ["x"],
        )
        assert desk.scheduler.excluded_nodes(CPU) == frozenset()

    def test_a_trial_that_cannot_be_loaded_is_given_up_with_its_first_error(self) -> None:
        desk = Desk(work(8))
        desk.join("x", "first")
        desk.join("y", "second")
        desk.assigned()
        desk.scheduler.fail_to_load("x", "out of memory")
        assert desk.update_nodes("first", "second") == []
        desk.assigned()
        desk.scheduler.fail_to_load("y", "no data")
        (error,) = desk.update_nodes("first", "second")
        assert isinstance(error, ShardError) and error.error == "out of memory"
        assert not desk.scheduler.busy

    @pytest.mark.parametrize("everywhere", [False, True])
    def test_a_trial_that_no_node_can_load_is_given_up_completely(self, everywhere: bool) -> None:
        desk = Desk(work(16), work(8, "b"))
        desk.join("x", "bad")
        desk.assigned()
        errors = list[Outcome]()
        while desk.scheduler.outstanding("x"):
            errors += desk.scheduler.fail_to_load("x", "other data here", everywhere)
        errors += desk.update_nodes("bad", *(["good"] if everywhere else []))
        assert covered(errors, "a") == [1] * 16
        assert {(type(error), getattr(error, "error", "")) for error in errors} == {
            (ShardError, "other data here")
        }
        assert [assignment.shard.trial.spec.adapter for assignment in desk.assigned()] == ["b"]

    def test_a_trial_is_given_up_once_the_nodes_that_might_load_it_are_dead(self) -> None:
        desk = Desk(work(8))
        desk.join("x", "bad")
        desk.assigned()
        desk.scheduler.fail_to_load("x", "no data")
        assert desk.update_nodes("bad", "good") == []
        assert desk.update_nodes() == [], "a node may join while there is none"
        (error,) = desk.update_nodes("bad")
        assert isinstance(error, ShardError) and error.error == "no data"

    @pytest.mark.parametrize("at_first", [False, True])
    def test_workers_that_hold_a_model_continue_although_another_copy_does_not_fit(
        self, at_first: bool
    ) -> None:
        """For example, four workers share a GPU with memory for three."""
        desk = Desk(work(80))
        desk.join("ab")
        desk.assigned()
        if at_first:
            desk.scheduler.fail_to_load("b", "out of memory")
            assert desk.update_nodes("n") == [], "the other worker is still loading"
        desk.finish("a", Shard(desk.trial, 0, 8))
        desk.assigned()
        desk.scheduler.fail_to_load("b", "out of memory")
        assert desk.update_nodes("n") == []
        while desk.scheduler.outstanding("b"):
            desk.scheduler.fail_to_load("b", "out of memory")
        assert (desk.scheduler.excluded_nodes(GPU), desk.scheduler.workers_to_release(GPU)) == ({"n"}, ["b"])
        assert {worker for worker, _, _ in desk.sent()} <= {"a"}
        desk.scheduler.release_worker("b")
        assert desk.scheduler.excluded_nodes(GPU) == {"n"}, "no other worker is started there"
        outcomes = []
        while desk.scheduler.busy:
            assert desk.scheduler.workers_to_release(GPU) == []
            desk.assigned()
            assignment = desk.scheduler._workers["a"].assignments[0]
            outcomes += desk.finish("a", assignment.shard)
        assert len(outcomes) == 9 and all(isinstance(outcome, ShardResult) for outcome in outcomes)

    def test_memory_that_a_lost_worker_frees_is_for_another(self) -> None:
        desk = Desk(work(8 * 4))
        desk.join("ab")
        desk.assigned()
        desk.finish("a", Shard(desk.trial, 0, 8))
        while desk.scheduler.outstanding("b"):
            desk.scheduler.fail_to_load("b", "out of memory")
        desk.scheduler.release_worker("b")
        desk.assigned()
        desk.scheduler.lose_worker("a", "died")
        assert (desk.update_nodes("n"), desk.scheduler.excluded_nodes(GPU)) == ([], frozenset())
        desk.join("c")
        assert desk.assigned()
        while desk.scheduler.outstanding("c"):
            desk.scheduler.fail_to_load("c", "still no memory")
        errors = desk.update_nodes("n")
        assert covered(errors, "a")[8:] == [1] * 24
        assert {getattr(error, "error", "") for error in errors} == {"still no memory"}
        assert not desk.scheduler.busy

    def test_an_idle_worker_does_not_load_a_model_whose_holders_finish_sooner(self) -> None:
        desk = Desk(work(40))
        desk.join("x")
        first, second = desk.assigned()
        desk.finish("x", first.shard, seconds=60)
        desk.finish("x", second.shard, seconds=1)
        desk.scheduler.release_worker("x")
        desk.join("x")
        third, fourth = desk.assigned()
        desk.finish("x", third.shard, seconds=60)  # a shard takes 1 s, so loading took 59 s
        desk.join("y")
        assert desk.sent() == []
        desk.finish("x", fourth.shard)
        assert desk.sent() == [("x", 32, 40)]


def test_the_longest_trial_starts_first() -> None:
    desk = Desk(work(16, "short"), work(80, "long"))
    desk.join("xyz")
    names = [a.shard.trial.spec.adapter for a in desk.assigned()[:3]]
    assert names == ["long", "long", "long"], "80 samples shared by three are still more than 16"
    desk.join("uvw")
    names = [a.shard.trial.spec.adapter for a in desk.assigned()]
    assert names[:3].count("short") == 1


def test_a_worker_gets_only_trials_with_its_resources() -> None:
    desk = Desk(work(80, "on-cpu"), work(8, "on-gpu"), resources={"on-cpu": CPU})
    desk.join("g", resources=GPU)
    desk.join("c", resources=CPU)
    sent = {a.worker: a.shard.trial.spec.adapter for a in desk.assigned()}
    assert sent == {"g": "on-gpu", "c": "on-cpu"}
    assert (desk.scheduler.waiting(GPU), desk.scheduler.waiting(CPU)) == (0, 8)


def test_a_worker_on_a_reserved_node_finishes_one_shard_and_returns_the_rest() -> None:
    desk = Desk(work(80))
    desk.join("x", "wanted")
    desk.join("y", "other")
    first, *_ = desk.assigned()
    assert first.worker == "x"
    desk.scheduler.reserve_nodes({"wanted"})
    assert desk.scheduler.workers_to_release(GPU) == [], "a shard is in flight"
    assert desk.scheduler.outstanding("x") == 2
    desk.finish("x", first.shard)
    assert desk.scheduler.outstanding("x") == 0, "the shard that it was sent ahead goes elsewhere"
    assert desk.scheduler.workers_to_release(GPU) == ["x"]
    desk.scheduler.release_worker("x")
    desk.join("z", "wanted")
    assert desk.sent() == []
    assert desk.scheduler.workers_to_release(GPU) == ["z"]
    desk.scheduler.reserve_nodes(frozenset())
    assert next(worker for worker, _, _ in desk.sent()) == "z"


def test_work_left_by_an_earlier_run_is_cut_at_the_same_batch_boundaries() -> None:
    left = Work(scale.trial("a", 70, 4), ((8, 16), (36, 70)), 10)
    ranges = [(shard.start, shard.stop) for shard in left.shards()]
    assert ranges == [(8, 16), (36, 48), (48, 60), (60, 70)]
    assert (left.count, left.samples, left.length) == (4, 42, 12)


def test_the_scale_benchmark_fails_if_a_bound_is_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["scale.py", "--workers", "200", "--shards", "20000"])
    # With 100 shards per worker, loading and the tail weigh ten times more than at full size.
    monkeypatch.setattr(scale, "MAX_RATIO", 1.15)
    scale.main()
    for name, out_of_reach in (("MAX_RATIO", 1.0), ("MAX_DECISION_US", 0.0), ("MAX_MEMORY", (-1, 0))):
        with monkeypatch.context() as strict, pytest.raises(SystemExit, match="a bound is missed"):
            strict.setattr(scale, name, out_of_reach)
            scale.main()
