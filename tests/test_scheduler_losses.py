"""Lost workers and slow shards: which sample is blamed, and what counts as hanging."""

from __future__ import annotations

from typing import Any

import pytest
from scheduler_desk import Desk, covered, scale, work

from harness.executors.scheduling.losses import LOSSES_BEFORE_SPLIT, MAX_FAILED_IN_A_ROW, MAX_LOSSES
from harness.stages.shards import Outcome, ShardError, ShardResult


class TestBlame:
    """The sample to which a lost worker is attributed."""

    def lose(self, desk: Desk, node: str, cause: Any = "process") -> tuple[int, list[Outcome]]:
        """Lose a worker with its first shard; return the samples of that shard, and the final outcomes."""
        desk.join("x", node)
        sent = desk.assigned()[0]
        return sent.shard.stop - sent.shard.start, desk.scheduler.lose_worker("x", "died", cause)

    def test_a_sample_is_not_blamed_for_nodes_that_died(self) -> None:
        desk = Desk(work(1))
        for number in range(5):
            assert self.lose(desk, f"spot-{number}") == (1, [])
            desk.update_nodes("steady")  # the death of the node is seen later
        assert self.lose(desk, "steady") == (1, [])
        (error,) = self.lose(desk, "steady")[1]
        assert isinstance(error, ShardError) and error.culprits == (0,)
        assert error.error == "worker lost 2 times with this sample alone: died"

    def test_a_shard_on_nodes_that_died_is_not_split_nor_retried_for_ever(self) -> None:
        desk = Desk(work(4, shard_size=4))
        sizes, outcomes = list[int](), list[Outcome]()
        while desk.scheduler.busy:
            size, final = self.lose(desk, f"spot-{len(sizes)}")
            outcomes += final
            sizes.append(size)
            desk.update_nodes()
        assert sizes[:10] == [4] * MAX_LOSSES + [2] * 2, "then it is split, and each part has its own tries"
        (error,) = outcomes
        assert isinstance(error, ShardError) and error.culprits == ()
        assert error.error == f"worker lost {MAX_LOSSES} times: died"

    def test_a_full_object_store_splits_a_shard_and_names_no_sample(self) -> None:
        desk = Desk(work(2, shard_size=2, batch_size=2))
        sizes, outcomes = list[int](), list[Outcome]()
        while desk.scheduler.busy:
            size, final = self.lose(desk, "steady", "store")
            outcomes += final
            sizes.append(size)
        assert sizes == [2] * LOSSES_BEFORE_SPLIT + [1] * 2 * MAX_LOSSES
        (error,) = outcomes
        assert isinstance(error, ShardError) and error.culprits == ()
        assert error.error == f"worker lost {MAX_LOSSES} times: died"

    @pytest.mark.parametrize(
        ("failure", "workers", "max_losses", "hours"),
        [("poison", 1, 22, 0.4), ("poison", 2, 36, 0.3), ("stuck", 1, 20, 5.2), ("stuck", 2, 24, 3.1)],
    )
    def test_a_trial_whose_samples_all_kill_or_hang_their_worker_is_stopped(
        self, failure: str, workers: int, max_losses: int, hours: float
    ) -> None:
        given = work(64_000, shard_size=64, batch_size=16)
        bad = frozenset((given.trial.id, at) for at in range(64_000))
        calm = {"worker_lifetime": 1e12, "node_lifetime": 1e12, "hangs": 0.0, "workers": workers}
        simulation = scale.Simulation([given], scale.Conditions(**{**calm, failure: bad}))
        outcomes = list(simulation.run())
        assert covered(outcomes, "a") == [1] * 64_000
        assert (simulation.losses.total() <= max_losses, simulation.now <= 3600 * hours) == (True, True)
        errors = [outcome for outcome in outcomes if isinstance(outcome, ShardError)]
        assert sum(len(error.culprits) for error in errors) == MAX_FAILED_IN_A_ROW
        assert any(
            error.error.startswith(f"not tried after {MAX_FAILED_IN_A_ROW} samples in a row without")
            for error in errors
        )

    def test_a_sample_that_hangs_costs_minutes_per_split(self) -> None:
        given = work(640, shard_size=64, batch_size=16)
        stuck = frozenset({(given.trial.id, 300)})
        calm = scale.Conditions(workers=2, worker_lifetime=1e12, node_lifetime=1e12, hangs=0, stuck=stuck)
        simulation = scale.Simulation([given], calm)
        (error,) = [outcome for outcome in simulation.run() if isinstance(outcome, ShardError)]
        assert error.culprits == (300,)
        assert simulation.losses == {"hangs": 8} and simulation.now < 8 * 900 / 2

    def test_a_shard_of_bad_samples_does_not_stop_a_trial_with_good_ones(self) -> None:
        given = work(640, shard_size=64, batch_size=16)
        poison = frozenset((given.trial.id, at) for at in range(64, 128))
        calm = scale.Conditions(workers=1, worker_lifetime=1e12, node_lifetime=1e12, hangs=0, poison=poison)
        simulation = scale.Simulation([given], calm)
        results = [outcome for outcome in simulation.run() if isinstance(outcome, ShardResult)]
        assert sum(result.shard.stop - result.shard.start for result in results) == 640 - 64


class TestSlowOrHanging:
    def test_a_slow_trial_gets_the_time_that_its_pace_requires(self) -> None:
        """At 20 s per sample, a shard of 64 takes 1,280 s, more than the first shard's deadline."""
        given = work(640, shard_size=64, batch_size=16)
        slow = scale.Conditions(
            workers=2, shard=1280, spread=0.1, worker_lifetime=1e12, node_lifetime=1e12, hangs=0
        )
        simulation = scale.Simulation([given], slow)
        assert all(isinstance(outcome, ShardResult) for outcome in simulation.run())
        assert simulation.losses == {"hangs": 2}, "one per worker, before the pace was known"
        assert simulation.now <= 1.3 * simulation.useful / 2

    def test_a_deadline_is_extended_if_other_shards_are_slow_too(self) -> None:
        desk = Desk(work(80, shard_size=40))
        desk.join("x")
        (x,) = desk.assigned()[:1]
        desk.now = 200
        desk.join("y")
        assert "y" in [assignment.worker for assignment in desk.assigned()]
        desk.finish("x", x.shard, seconds=650)  # at 850 s: 21 s per sample, loading included
        desk.now = 200 + 900
        assert desk.scheduler.expired() == []
        desk.now = 200 + 3 * (850 + 850)  # 40 samples, and loading
        assert [worker for worker, _ in desk.scheduler.expired()] == ["y"]

    def test_a_shard_that_hung_is_retried_in_parts_with_shorter_deadlines(self) -> None:
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
        # 20 times 0.5 s per sample. Retried parts are also allowed 20 times 16 s, since their worker loads.
        assert limits[0] == (32, 320.0)
        assert {*limits[1:]} == {(32, 900), (16, 480), (8, 400), (4, 360), (2, 340), (1, 330)}
