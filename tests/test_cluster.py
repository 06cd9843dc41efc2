"""What a cluster offers, who wants to time where, and what the driver sees: nodes and clocks are given."""

from __future__ import annotations

import itertools
import queue
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from small_suite import document, planned

from harness.adapter import Resources
from harness.errors import InfrastructureError, UsageError
from harness.executors.ray.cluster_view import HEAD_DEADLINE, LAST_DEADLINE, LOOK, View, answers
from harness.executors.ray.pool import Member, Pool
from harness.executors.ray.timing_requests import LEASE, Claims
from harness.executors.scheduling.cluster import WORKER_SLOT, Cluster, cluster, reservation
from harness.trial import Trial

GPU, QUARTER, CPU = Resources(1, 1), Resources(0.5, 0.25), Resources(1, 0)


def node(name: str, alive: bool = True, pool: str = "", **resources: float) -> dict[str, Any]:
    """As `ray.nodes()` says it."""
    return {
        "NodeID": name,
        "NodeManagerHostname": f"host-{name}",
        "Alive": alive,
        "Resources": resources,
        "Labels": {"pool": pool} if pool else {},
    }


def trial(folder: Path, device: str = "auto", **entry: Any) -> Trial:
    suite = document(4, ok={"device": device, **entry})
    suite["benchmarks"]["words"]["speed"] = ["offline"]
    return planned(folder, suite).trials[0]


class TestFeasibility:
    def missing(self, found: Cluster, wanted: Trial) -> str:
        reason = found.missing([wanted])
        assert reason is not None
        return reason

    def test_what_fits_is_not_refused(self, tmp_path: Path) -> None:
        found = cluster([node("a", CPU=2, GPU=1)])
        assert found.missing([trial(tmp_path), trial(tmp_path, "cpu"), trial(tmp_path, "cuda")]) is None

    def test_a_missing_gpu_is_named_with_what_there_is(self, tmp_path: Path) -> None:
        said = self.missing(
            cluster([node("a", CPU=8), node("b", alive=False, GPU=4)]), trial(tmp_path, "cuda")
        )
        assert said == (
            "words/ok: a worker needs 1 CPU and 1 GPU on one node; the most GPUs that a node for predictions "
            "has is 0 (nodes: host-a/a: 8 CPU, 0 GPU)"
        )

    def test_so_are_cpus_and_a_node_that_would_need_both(self, tmp_path: Path) -> None:
        many = trial(tmp_path, resources={"cpu": 16})
        assert "a worker needs 16 CPU on one node; the most CPUs that a node for predictions has is 8" in (
            self.missing(cluster([node("a", CPU=8), node("b", CPU=8)]), many)
        )
        apart = cluster([node("a", CPU=16), node("b", CPU=1, GPU=1)])
        assert "no node for predictions has both" in self.missing(apart, many)

    def test_training_needs_room_where_predictions_are_made(self) -> None:
        kept = [node("head", pool="head", CPU=8), node("t", pool="timing", CPU=8, GPU=1)]
        assert cluster(kept).missing_to_train(1) == (
            "training with 1 worker: each needs 1 CPU on one node; nodes not labelled pool=timing or "
            "pool=head have room for 0 "
            "(nodes: host-head/head head: 8 CPU, 0 GPU; host-t/t timing: 8 CPU, 1 GPU)"
        )
        two = cluster([*kept, node("a", CPU=2)])
        assert (two.missing_to_train(1), two.missing_to_train(2)) == (None, None)
        assert "with 3 workers: each needs 1 CPU on" in (two.missing_to_train(3) or "")
        assert two.trainer == Resources(1, 0), "the GPU is for timing"
        gpu = cluster([*kept, node("a", CPU=2), node("b", CPU=2, GPU=1)])
        assert gpu.trainer == Resources(1, 1)
        assert "with 2 workers: each needs 1 CPU and 1 GPU" in (gpu.missing_to_train(2) or "")
        grown = node("head", CPU=0) | {"Labels": {"pool": "head", "autoscaled": "gpu"}}
        assert cluster([grown]).trainer == Resources(1, 1)
        assert cluster([grown]).missing_to_train(64) is None

    def test_nodes_kept_for_timing_do_not_predict(self, tmp_path: Path) -> None:
        kept = cluster([node("a", pool="timing", CPU=8), node("b", pool="head", CPU=8)])
        assert "every node is labelled pool=timing or head" in self.missing(kept, trial(tmp_path))

    def test_a_timing_pool_without_a_gpu_does_not_time_what_runs_on_one(self, tmp_path: Path) -> None:
        found = cluster([node("a", CPU=8, GPU=1), node("t", pool="timing", CPU=8)])
        said = self.missing(found, trial(tmp_path))
        assert said.startswith("words/ok: timing needs a node labelled pool=timing with a GPU; there is none")
        assert found.missing([trial(tmp_path, "cpu")]) is None

    def test_an_autoscaler_may_add_what_is_not_there_yet(self, tmp_path: Path) -> None:
        suite = document(4, ok={"device": "cuda"})  # nothing to time
        (wanted,) = planned(tmp_path, suite).trials
        head = node("head", pool="head", CPU=4)
        assert cluster([head]).missing([wanted]) is not None
        head["Labels"]["autoscaled"] = "gpu"
        assert cluster([head]).missing([wanted]) is None
        head["Labels"]["autoscaled"] = "timing"
        assert "the most GPUs" in self.missing(cluster([head, node("a", CPU=8)]), wanted)
        assert cluster([head]).missing([trial(tmp_path, "cpu")]) is None

    def test_a_timing_pool_that_does_not_grow_times_only_what_it_can(self, tmp_path: Path) -> None:
        head, pool = node("head", pool="head"), node("t", pool="timing", CPU=8)
        wanted = trial(tmp_path, "cuda")
        head["Labels"]["autoscaled"] = "gpu"
        assert cluster([head]).missing([wanted]) is None, "added nodes predict and time"
        assert "timing needs a node labelled pool=timing with a GPU" in self.missing(
            cluster([head, pool]), wanted
        )
        head["Labels"]["autoscaled"] = "gpu.timing"
        assert cluster([head, pool]).missing([wanted]) is None


class TestRoom:
    def test_gpus_may_be_shared_and_those_that_need_them_come_first(self) -> None:
        found = cluster([node("a", CPU=8, GPU=2), node("b", CPU=8), node("t", pool="timing", CPU=64)])
        assert found.capacity({QUARTER: 100}) == {QUARTER: 8}
        assert found.capacity({CPU: 100, QUARTER: 100}) == {QUARTER: 8, CPU: 4 + 8}
        assert found.capacity({CPU: 100, QUARTER: 3}) == {QUARTER: 3, CPU: 6 + 8}

    def test_thirds_of_a_gpu_are_three(self) -> None:
        third = Resources(1, 1 / 3)
        assert cluster([node("a", CPU=8, GPU=1)]).capacity({third: 9}) == {third: 3}

    def test_a_trial_on_a_cpu_takes_no_gpu(self, tmp_path: Path) -> None:
        share = {"resources": {"gpu": 0.25, "cpu": 0.5}}
        assert cluster([node("a", CPU=8, GPU=2)]).kind(trial(tmp_path, "auto", **share)) == QUARTER
        assert cluster([node("a", CPU=8, GPU=2)]).kind(trial(tmp_path, "cpu", **share)) == Resources(0.5, 0)
        assert cluster([node("a", CPU=8)]).kind(trial(tmp_path, "auto", **share)) == Resources(0.5, 0)

    def test_resources_are_no_part_of_a_trials_identity(self, tmp_path: Path) -> None:
        assert trial(tmp_path).id == trial(tmp_path, resources={"gpu": 0.5}).id

    @pytest.mark.parametrize("wrong", [{"gpu": 0}, {"gpu": 1.5}, {"cpu": -1}, {"tpu": 1}])
    def test_impossible_ones_are_refused(self, tmp_path: Path, wrong: dict[str, float]) -> None:
        with pytest.raises(UsageError, match=r"suite\.yaml:\d+: adapters\.ok\.resources"):
            trial(tmp_path, resources=wrong)


class TestTimingNode:
    @pytest.mark.parametrize(
        ("device", "gpus", "chosen"),
        [("cpu", 1, "large"), ("cuda", 1, "b"), ("auto", 1, "b"), ("auto", 0, "large")],
    )
    def test_is_the_largest_living_one_with_what_the_device_needs(
        self, tmp_path: Path, device: str, gpus: int, chosen: str
    ) -> None:
        nodes = [
            node("dead", alive=False, CPU=99, GPU=9),
            node("c", CPU=8, GPU=gpus),
            node("b", CPU=8, GPU=gpus),
            node("large", CPU=32),
        ]
        found = cluster(nodes).timing_node(trial(tmp_path, device), {})
        assert found is not None and found.id == chosen

    def test_is_in_the_timing_pool_where_there_is_one(self, tmp_path: Path) -> None:
        found = cluster([node("large", CPU=32), node("t", pool="timing", CPU=4)])
        chosen = found.timing_node(trial(tmp_path), {"t": 5})
        assert chosen is not None and chosen.id == "t"

    def test_is_never_the_head_that_computes_nothing(self, tmp_path: Path) -> None:
        head, wanted = node("head", pool="head", CPU=64), trial(tmp_path)
        chosen = cluster([head, node("a", CPU=2)]).timing_node(wanted, {})
        assert chosen is not None and chosen.id == "a"
        assert cluster([head]).timing_node(wanted, {}) is None

    def test_waits_for_the_timing_pool_that_an_autoscaler_starts(self, tmp_path: Path) -> None:
        head, worker = node("head", pool="head"), node("w", CPU=8)
        head["Labels"]["autoscaled"] = "gpu.timing"
        wanted = trial(tmp_path)
        assert cluster([head, worker]).kind(wanted) == GPU, "there are none yet"
        assert cluster([head, worker]).timing_node(wanted, {}) is None
        assert cluster([head, worker]).missing([wanted]) is None
        chosen = cluster([head, worker, node("t", pool="timing", CPU=2, GPU=1)]).timing_node(wanted, {})
        assert chosen is not None and chosen.id == "t"

    def test_of_equal_ones_is_the_one_that_fewest_others_want(self, tmp_path: Path) -> None:
        found = cluster([node(name, pool="timing", CPU=4) for name in "tuv"])
        chosen = found.timing_node(trial(tmp_path), {"t": 2, "u": 1, "v": 2})
        assert chosen is not None and chosen.id == "u"

    def test_all_of_it_is_reserved_or_one_gpu_with_its_share(self) -> None:
        (large,) = cluster([node("a", CPU=32, GPU=4, slot=1)]).nodes
        assert reservation(large, "node") == {"CPU": 32, "GPU": 4, "slot": 1}
        assert reservation(large, "gpu") == {"CPU": 8, "GPU": 1, "slot": WORKER_SLOT}
        (plain,) = cluster([node("a", CPU=2)]).nodes
        assert reservation(plain, "node") == {"CPU": 2}

    def test_predictions_take_the_slot_only_where_every_node_has_one(self) -> None:
        assert cluster([node("a", CPU=1, slot=1), node("t", pool="timing", CPU=1)]).slotted
        assert not cluster([node("a", CPU=1, slot=1), node("b", CPU=1)]).slotted


class TestClaims:
    def test_count_until_withdrawn_or_not_renewed(self) -> None:
        now = [0.0]
        claims = Claims(lambda: now[0])
        claims.claim("first", "a")
        claims.claim("second", "a")
        claims.claim("third", "b")
        assert claims.claimed() == {"a": 2, "b": 1}
        claims.withdraw("first")
        now[0] = LEASE - 1
        claims.claim("second", "a")
        now[0] = LEASE
        assert claims.claimed() == {"a": 1}, "of a driver that died"
        claims.claim("second", "b")
        assert claims.claimed() == {"b": 1}
        claims.withdraw("nobody")


def test_a_head_answers_while_something_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert answers(address)
    assert not answers(address, seconds=0.2)


def test_a_head_that_is_silent_for_long_is_an_error_and_a_short_silence_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, nodes, up = [0.0], [node("a", CPU=1)], [True]
    monkeypatch.setattr(ray, "nodes", lambda: list(nodes))
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="head:1"))
    monkeypatch.setattr("harness.executors.ray.cluster_view.answers", lambda address: up[0])
    view = View(lambda: now[0])
    nodes.append(node("b", CPU=1))
    now[0] = LOOK - 1
    view.refresh()
    assert len(view.cluster.nodes) == 1, "not yet due"
    now[0] = 1000
    view.refresh()
    assert len(view.cluster.nodes) == 2
    up[0] = False
    for now[0] in (5000, 5000 + HEAD_DEADLINE - 1):  # the first knock after long work is no long silence
        view.refresh()
        assert not view.answering()
    up[0] = True
    now[0] += LOOK
    view.refresh()
    assert view.answering()
    up[0] = False
    now[0] = 6000
    view.refresh()
    now[0] += HEAD_DEADLINE
    with pytest.raises(
        InfrastructureError, match=r"head:1.* has not answered for 30 s; what is done is on disk"
    ):
        view.refresh()


def test_a_driver_that_does_not_look_is_ended_before_ray_would_and_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended: queue.Queue[int] = queue.Queue()
    knocks = iter([False, True, False, False, False, False])

    def end(code: int) -> None:
        ended.put(code)
        view.close()

    monkeypatch.setattr(ray, "nodes", lambda: [node("a", CPU=1)])
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="head:1"))
    monkeypatch.setattr("harness.executors.ray.cluster_view.answers", lambda address: next(knocks))
    monkeypatch.setattr("harness.executors.ray.cluster_view.LOOK", 0.001)
    monkeypatch.setattr("harness.executors.ray.cluster_view.os._exit", end)
    view = View(itertools.count(0, LAST_DEADLINE / 4).__next__)
    view.watch()
    assert ended.get(timeout=20) == 3
    assert next(knocks, "none") == "none", "one that was answered begins anew"
    assert capsys.readouterr().err == (
        "error: the head of the Ray cluster (head:1) has not answered for 40 s; "
        "what is done is on disk, the same command goes on from here\n"
    )
    assert LAST_DEADLINE + 2 * LOOK < 60, "s after which Ray ends it with exit code 1 (measured: 61)"


def test_nothing_is_asked_of_a_head_that_is_gone_for_ray_would_end_this_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    up, killed = [False], []
    monkeypatch.setattr(ray, "nodes", lambda: [node("a", CPU=4)])
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="head:1"))
    monkeypatch.setattr("harness.executors.ray.cluster_view.answers", lambda address: up[0])
    monkeypatch.setattr(ray, "kill", killed.append)
    pool = Pool(View())
    member = Member("actor", CPU)
    pool.running.add(member)
    pool.drop(member)
    pool.resize(CPU, 2, frozenset())
    assert (killed, pool.running, pool.starting) == ([], set(), {})
    up[0] = True
    pool.drop(member)
    assert killed == ["actor"]


def test_a_silent_head_is_knocked_at_once_however_many_workers_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    killed: list[Any] = []
    monkeypatch.setattr(ray, "kill", killed.append)
    for up in (False, True):
        knocks: list[bool] = []
        pool = Pool(SimpleNamespace(answering=lambda up=up, knocks=knocks: knocks.append(up) or up))  # type: ignore[arg-type]
        pool.running = {Member("runs", CPU)}
        pool.starting = {number: Member(number, CPU) for number in range(8)}
        pool.close()
        assert knocks == [up]
        assert set(killed) == ({"runs", *range(8)} if up else set())
