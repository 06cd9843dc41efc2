"""A cluster's capacity, requests for timing nodes, and the driver's view, with fake nodes and clocks."""

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
from harness.executors.ray.cluster_view import (
    HEAD_DEADLINE_SECONDS,
    REFRESH_SECONDS,
    WATCHDOG_DEADLINE_SECONDS,
    ClusterView,
    is_listening,
)
from harness.executors.ray.pool import ActorPool, PoolWorker
from harness.executors.ray.timing_requests import LEASE_SECONDS, TimingRequests
from harness.executors.scheduling.cluster import WORKER_SLOT, Cluster, cluster_from_ray, reservation
from harness.trial import Trial

GPU, QUARTER, CPU = Resources(1, 1), Resources(0.5, 0.25), Resources(1, 0)


def node(name: str, alive: bool = True, pool: str = "", **resources: float) -> dict[str, Any]:
    """Return an entry of `ray.nodes()`."""
    return {
        "NodeID": name,
        "NodeManagerHostname": f"host-{name}",
        "Alive": alive,
        "Resources": resources,
        "Labels": {"pool": pool} if pool else {},
    }


def cluster_of(*nodes: Any) -> Cluster:
    return cluster_from_ray(nodes)


def trial(folder: Path, device: str = "auto", **entry: Any) -> Trial:
    suite = document(4, ok={"device": device, **entry})
    suite["benchmarks"]["words"]["speed"] = ["offline"]
    return planned(folder, suite).trials[0]


class TestFeasibility:
    def reason(self, nodes: Cluster, trial: Trial) -> str:
        reason = nodes.why_infeasible([trial])
        assert reason is not None
        return reason

    def test_trials_that_fit_are_accepted(self, tmp_path: Path) -> None:
        cluster = cluster_of(node("a", CPU=2, GPU=1))
        trials = [trial(tmp_path, device) for device in ("auto", "cpu", "cuda")]
        assert cluster.why_infeasible(trials) is None

    def test_a_missing_gpu_is_named_with_the_nodes_and_their_resources(self, tmp_path: Path) -> None:
        reason = self.reason(
            cluster_of(node("a", CPU=8), node("b", alive=False, GPU=4)), trial(tmp_path, "cuda")
        )
        assert reason == (
            "words/ok: a worker needs 1 CPU and 1 GPU on one node; no prediction node has more than 0 GPU "
            "(nodes: host-a/a: 8 CPU, 0 GPU)"
        )

    def test_missing_cpus_and_a_missing_node_with_both_are_named(self, tmp_path: Path) -> None:
        many = trial(tmp_path, resources={"cpu": 16})
        assert "a worker needs 16 CPU on one node; no prediction node has more than 8 CPU" in (
            self.reason(cluster_of(node("a", CPU=8), node("b", CPU=8)), many)
        )
        apart = cluster_of(node("a", CPU=16), node("b", CPU=1, GPU=1))
        assert "no prediction node has both" in self.reason(apart, many)

    def test_training_needs_capacity_on_prediction_nodes(self) -> None:
        reserved = [node("head", pool="head", CPU=8), node("t", pool="timing", CPU=8, GPU=1)]
        assert cluster_of(*reserved).why_untrainable() == (
            "training: a worker needs 1 CPU on one node; every node is labelled pool=timing or pool=head, "
            "and none is left for predictions and training "
            "(nodes: host-head/head head: 8 CPU, 0 GPU; host-t/t timing: 8 CPU, 1 GPU)"
        )
        two = cluster_of(*reserved, node("a", CPU=2))
        assert two.why_untrainable() is None
        assert two.trainer_resources == Resources(1, 0), "the GPU is for timing"
        gpu = cluster_of(*reserved, node("a", CPU=2), node("b", CPU=2, GPU=1))
        assert gpu.trainer_resources == Resources(1, 1)
        assert gpu.why_untrainable() is None
        grown = node("head", CPU=0) | {"Labels": {"pool": "head", "autoscaled": "gpu"}}
        assert cluster_of(grown).trainer_resources == Resources(1, 1)
        assert cluster_of(grown).why_untrainable() is None

    def test_nodes_of_reserved_pools_do_not_predict(self, tmp_path: Path) -> None:
        cluster = cluster_of(node("a", pool="timing", CPU=8), node("b", pool="head", CPU=8))
        assert "every node is labelled pool=timing or pool=head" in self.reason(cluster, trial(tmp_path))

    def test_a_timing_pool_without_a_gpu_does_not_time_trials_on_a_gpu(self, tmp_path: Path) -> None:
        cluster = cluster_of(node("a", CPU=8, GPU=1), node("t", pool="timing", CPU=8))
        reason = self.reason(cluster, trial(tmp_path))
        assert reason.startswith(
            "words/ok: timing needs a node labelled pool=timing with a GPU; there is none"
        )
        assert cluster.why_infeasible([trial(tmp_path, "cpu")]) is None

    def test_trials_that_fit_on_nodes_an_autoscaler_may_add_are_accepted(self, tmp_path: Path) -> None:
        suite = document(4, ok={"device": "cuda"})  # nothing to time
        (to_predict,) = planned(tmp_path, suite).trials
        head = node("head", pool="head", CPU=4)
        assert cluster_of(head).why_infeasible([to_predict]) is not None
        head["Labels"]["autoscaled"] = "gpu"
        assert cluster_of(head).why_infeasible([to_predict]) is None
        head["Labels"]["autoscaled"] = "timing"
        assert "more than 0 GPU" in self.reason(cluster_of(head, node("a", CPU=8)), to_predict)
        assert cluster_of(head).why_infeasible([trial(tmp_path, "cpu")]) is None

    def test_a_timing_pool_that_does_not_grow_times_only_what_fits_on_it(self, tmp_path: Path) -> None:
        head, pool = node("head", pool="head"), node("t", pool="timing", CPU=8)
        to_time = trial(tmp_path, "cuda")
        head["Labels"]["autoscaled"] = "gpu"
        assert cluster_of(head).why_infeasible([to_time]) is None, "added nodes both predict and time"
        assert "timing needs a node labelled pool=timing with a GPU" in self.reason(
            cluster_of(head, pool), to_time
        )
        head["Labels"]["autoscaled"] = "gpu.timing"
        assert cluster_of(head, pool).why_infeasible([to_time]) is None


class TestCapacity:
    def test_gpus_may_be_shared_and_workers_that_need_them_are_placed_first(self) -> None:
        cluster = cluster_of(node("a", CPU=8, GPU=2), node("b", CPU=8), node("t", pool="timing", CPU=64))
        assert cluster.capacity({QUARTER: 100}) == {QUARTER: 8}
        assert cluster.capacity({CPU: 100, QUARTER: 100}) == {QUARTER: 8, CPU: 4 + 8}
        assert cluster.capacity({CPU: 100, QUARTER: 3}) == {QUARTER: 3, CPU: 6 + 8}

    def test_three_thirds_of_a_gpu_hold_three_workers(self) -> None:
        third = Resources(1, 1 / 3)
        assert cluster_of(node("a", CPU=8, GPU=1)).capacity({third: 9}) == {third: 3}

    def test_a_trial_on_a_cpu_takes_no_gpu(self, tmp_path: Path) -> None:
        share = {"resources": {"gpu": 0.25, "cpu": 0.5}}
        with_gpus, without = cluster_of(node("a", CPU=8, GPU=2)), cluster_of(node("a", CPU=8))
        assert with_gpus.worker_resources(trial(tmp_path, "auto", **share)) == QUARTER
        assert with_gpus.worker_resources(trial(tmp_path, "cpu", **share)) == Resources(0.5, 0)
        assert without.worker_resources(trial(tmp_path, "auto", **share)) == Resources(0.5, 0)

    def test_resources_are_not_part_of_a_trials_identity(self, tmp_path: Path) -> None:
        assert trial(tmp_path).id == trial(tmp_path, resources={"gpu": 0.5}).id

    @pytest.mark.parametrize("wrong", [{"gpu": 0}, {"gpu": 1.5}, {"cpu": -1}, {"tpu": 1}])
    def test_impossible_resources_are_rejected(self, tmp_path: Path, wrong: dict[str, float]) -> None:
        with pytest.raises(UsageError, match=r"suite\.yaml:\d+: adapters\.ok\.resources"):
            trial(tmp_path, resources=wrong)


class TestTimingNode:
    @pytest.mark.parametrize(
        ("device", "gpus", "chosen"),
        [("cpu", 1, "large"), ("cuda", 1, "b"), ("auto", 1, "b"), ("auto", 0, "large")],
    )
    def test_is_the_largest_living_node_with_the_needed_device(
        self, tmp_path: Path, device: str, gpus: int, chosen: str
    ) -> None:
        nodes = [
            node("dead", alive=False, CPU=99, GPU=9),
            node("c", CPU=8, GPU=gpus),
            node("b", CPU=8, GPU=gpus),
            node("large", CPU=32),
        ]
        timing_node = cluster_of(*nodes).timing_node(trial(tmp_path, device), {})
        assert timing_node is not None and timing_node.id == chosen

    def test_is_in_the_timing_pool_if_there_is_one(self, tmp_path: Path) -> None:
        cluster = cluster_of(node("large", CPU=32), node("t", pool="timing", CPU=4))
        chosen = cluster.timing_node(trial(tmp_path), {"t": 5})
        assert chosen is not None and chosen.id == "t"

    def test_is_never_the_head(self, tmp_path: Path) -> None:
        head, to_time = node("head", pool="head", CPU=64), trial(tmp_path)
        chosen = cluster_of(head, node("a", CPU=2)).timing_node(to_time, {})
        assert chosen is not None and chosen.id == "a"
        assert cluster_of(head).timing_node(to_time, {}) is None

    def test_waits_for_a_timing_pool_that_an_autoscaler_adds(self, tmp_path: Path) -> None:
        head, worker = node("head", pool="head"), node("w", CPU=8)
        head["Labels"]["autoscaled"] = "gpu.timing"
        to_time = trial(tmp_path)
        assert cluster_of(head, worker).worker_resources(to_time) == GPU, "GPUs that may be added count"
        assert cluster_of(head, worker).timing_node(to_time, {}) is None
        assert cluster_of(head, worker).why_infeasible([to_time]) is None
        chosen = cluster_of(head, worker, node("t", pool="timing", CPU=2, GPU=1)).timing_node(to_time, {})
        assert chosen is not None and chosen.id == "t"

    def test_is_the_least_requested_of_equal_nodes(self, tmp_path: Path) -> None:
        cluster = cluster_of(*(node(name, pool="timing", CPU=4) for name in "tuv"))
        chosen = cluster.timing_node(trial(tmp_path), {"t": 2, "u": 1, "v": 2})
        assert chosen is not None and chosen.id == "u"

    def test_is_reserved_as_a_whole_or_by_gpu_with_a_share_of_its_cpus(self) -> None:
        (large,) = cluster_of(node("a", CPU=32, GPU=4, slot=1)).nodes
        assert reservation(large, "node") == {"CPU": 32, "GPU": 4, "slot": 1}
        assert reservation(large, "gpu") == {"CPU": 8, "GPU": 1, "slot": WORKER_SLOT}
        (plain,) = cluster_of(node("a", CPU=2)).nodes
        assert reservation(plain, "node") == {"CPU": 2}

    def test_predictions_take_a_slot_only_if_every_prediction_node_has_one(self) -> None:
        assert cluster_of(node("a", CPU=1, slot=1), node("t", pool="timing", CPU=1)).offers_slots
        assert not cluster_of(node("a", CPU=1, slot=1), node("b", CPU=1)).offers_slots


class TestTimingRequests:
    def test_count_until_they_are_withdrawn_or_expire(self) -> None:
        now = [0.0]
        requests = TimingRequests(lambda: now[0])
        requests.request("first", "a")
        requests.request("second", "a")
        requests.request("third", "b")
        assert requests.requested_nodes() == {"a": 2, "b": 1}
        requests.withdraw("first")
        now[0] = LEASE_SECONDS - 1
        requests.request("second", "a")
        now[0] = LEASE_SECONDS
        assert requests.requested_nodes() == {"a": 1}, "the first was withdrawn, the third expired"
        requests.request("second", "b")
        assert requests.requested_nodes() == {"b": 1}
        requests.withdraw("nobody")


def test_an_address_listens_while_a_server_is_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert is_listening(address)
    assert not is_listening(address, timeout=0.2)


ON_NODE_A = SimpleNamespace(gcs_address="head:1", get_node_id=lambda: "a")
"""Ray's context of a driver."""


def test_the_death_of_the_drivers_own_node_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [node("a", CPU=1), node("b", CPU=1)]
    monkeypatch.setattr(ray, "nodes", lambda: list(nodes))
    monkeypatch.setattr(ray, "get_runtime_context", lambda: ON_NODE_A)
    monkeypatch.setattr("harness.executors.ray.cluster_view.is_listening", lambda address: True)
    view = ClusterView()
    view.refresh(force=True)
    del nodes[0]
    with pytest.raises(InfrastructureError, match="this process's node of the Ray cluster is dead; finished"):
        view.refresh(force=True)


def test_only_a_long_silence_of_the_head_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, nodes, alive = [0.0], [node("a", CPU=1)], [True]
    monkeypatch.setattr(ray, "nodes", lambda: list(nodes))
    monkeypatch.setattr(ray, "get_runtime_context", lambda: ON_NODE_A)
    monkeypatch.setattr("harness.executors.ray.cluster_view.is_listening", lambda address: alive[0])
    view = ClusterView(lambda: now[0])
    nodes.append(node("b", CPU=1))
    now[0] = REFRESH_SECONDS - 1
    view.refresh()
    assert len(view.cluster.nodes) == 1, "not yet due"
    now[0] = 1000
    view.refresh()
    assert len(view.cluster.nodes) == 2
    alive[0] = False
    for now[0] in (5000, 5000 + HEAD_DEADLINE_SECONDS - 1):  # silence counts from the first unanswered ping
        view.refresh()
        assert not view.head_answers()
    alive[0] = True
    now[0] += REFRESH_SECONDS
    view.refresh()
    assert view.head_answers()
    alive[0] = False
    now[0] = 6000
    view.refresh()
    now[0] += HEAD_DEADLINE_SECONDS
    with pytest.raises(
        InfrastructureError, match=r"head:1.* has not answered for 30 s; finished work is on disk"
    ):
        view.refresh()


def test_the_watchdog_ends_the_driver_with_a_message_before_ray_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended: queue.Queue[int] = queue.Queue()
    pings = iter([False, True, False, False, False, False])

    def end(code: int) -> None:
        ended.put(code)
        view.close()

    monkeypatch.setattr(ray, "nodes", lambda: [node("a", CPU=1)])
    monkeypatch.setattr(ray, "get_runtime_context", lambda: ON_NODE_A)
    monkeypatch.setattr("harness.executors.ray.cluster_view.is_listening", lambda address: next(pings))
    monkeypatch.setattr("harness.executors.ray.cluster_view.REFRESH_SECONDS", 0.001)
    monkeypatch.setattr("harness.executors.ray.cluster_view.os._exit", end)
    view = ClusterView(itertools.count(0, WATCHDOG_DEADLINE_SECONDS / 4).__next__)
    view.start_watchdog()
    assert ended.get(timeout=20) == 3
    assert next(pings, "none") == "none", "an answered ping resets the silence"
    assert capsys.readouterr().err == (
        "error: the head of the Ray cluster (head:1) has not answered for 40 s; "
        "finished work is on disk, and the same command resumes the run\n"
    )
    assert WATCHDOG_DEADLINE_SECONDS + 2 * REFRESH_SECONDS < 60, (
        "Ray ends the process with exit code 1 after 61 s (measured)"
    )


def test_no_actor_is_started_or_killed_while_the_head_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alive, killed = [False], []
    monkeypatch.setattr(ray, "nodes", lambda: [node("a", CPU=4)])
    monkeypatch.setattr(ray, "get_runtime_context", lambda: ON_NODE_A)
    monkeypatch.setattr("harness.executors.ray.cluster_view.is_listening", lambda address: alive[0])
    monkeypatch.setattr(ray, "kill", killed.append)
    pool = ActorPool(ClusterView())
    member = PoolWorker("actor", CPU)
    pool.running.add(member)
    pool.drop(member)
    pool.resize(CPU, 2, frozenset())
    assert (killed, pool.running, pool.starting) == ([], set(), {})
    alive[0] = True
    pool.drop(member)
    assert killed == ["actor"]


def test_closing_a_pool_pings_the_head_once_however_many_workers_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    killed: list[Any] = []
    monkeypatch.setattr(ray, "kill", killed.append)
    for alive in (False, True):
        pings: list[bool] = []
        pool = ActorPool(
            SimpleNamespace(head_answers=lambda alive=alive, pings=pings: pings.append(alive) or alive)
        )  # type: ignore[arg-type]
        pool.running = {PoolWorker("runs", CPU)}
        pool.starting = {number: PoolWorker(number, CPU) for number in range(8)}
        pool.close()
        assert pings == [alive]
        assert set(killed) == ({"runs", *range(8)} if alive else set())
