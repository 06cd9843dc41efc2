"""Several real Ray nodes on this machine: figures, pools, lost and new nodes, concurrent suites."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from ray.cluster_utils import Cluster
from ray_start import AGENTS, WITHOUT_TOKENS, StartedNode, free_ports
from small_suite import document, figures, planned, run_suite, write

from harness.checkpoint import Checkpoint, save
from harness.errors import InfrastructureError, UnavailableError
from harness.executors.inline import InlineExecutor
from harness.executors.ray.executor import RayExecutor
from harness.rundir.results import Results, read_results
from harness.rundir.store import RunDirectory
from harness.stages.shards import ShardResult, Work
from harness.suite.loading import load_suite, shipped_suites
from harness.suite.plan import plan

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def small(**node: Any) -> dict[str, Any]:
    """Return the options of a node with little memory and fixed ports."""
    ports = zip(AGENTS.values(), free_ports(len(AGENTS)), strict=True)
    return {"object_store_memory": 100 << 20, **dict(ports), **node}


def start_cluster(*nodes: dict[str, Any]) -> Cluster:
    """Start a head without CPUs, and these nodes."""
    cluster = Cluster(initialize_head=True, head_node_args=small(num_cpus=0, include_dashboard=False))
    for node in nodes:
        cluster.add_node(**small(**node))
    return cluster


@pytest.fixture(scope="module")
def pools() -> Iterator[Cluster]:
    """Start two prediction nodes and a timing node."""
    slot = {"resources": {"slot": 1}}
    timing = {"num_cpus": 1, "labels": {"pool": "timing"}, **slot}
    cluster = start_cluster({"num_cpus": 1, **slot}, {"num_cpus": 1, **slot}, timing)
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def joined(pools: Cluster) -> Iterator[RayExecutor]:
    with RayExecutor(pools.address) as executor:
        yield executor


class SharedExecutor:
    """The module's executor, which is not closed at the end of a run."""

    def __init__(self, executor: RayExecutor) -> None:
        self._executor = executor

    def __enter__(self) -> RayExecutor:
        return self._executor

    def __exit__(self, *_: object) -> None:
        return None


def nodes_of(folder: Path, results: Results) -> set[str]:
    trials = [RunDirectory(folder).trial(trial.id) for trial in results.trials]
    return {str(shard.node) for trial in trials for shard in trial.predictions.provenance().values()}


def test_predictions_and_timing_stay_in_their_recorded_pools(joined: RayExecutor, tmp_path: Path) -> None:
    suite = document(48, ok={"batch_size": 4, "options": {"delay": 0.02}})
    suite["benchmarks"]["words"]["speed"] = ["offline"]
    suite["speed"] = {"samples": 4, "threads": 1}
    results = run_suite(tmp_path, suite, SharedExecutor(joined), shard_size=4)  # type: ignore[arg-type]
    names = {node.labels.get("pool", ""): node.name for node in joined._view.cluster.nodes}
    predicting = nodes_of(tmp_path / "run", results)
    assert len(predicting) == 2 and names["timing"] not in predicting
    (timed,) = results.trials[0].speed["offline"].timed_on
    assert (timed.node, timed.reserved) == (names["timing"], {"CPU": 1, "slot": 1})
    assert timed.started < timed.finished


def test_a_missing_resource_is_named_before_anything_starts(joined: RayExecutor, tmp_path: Path) -> None:
    suite = document(4, ok={"device": "cuda"})
    with pytest.raises(
        InfrastructureError, match=r"words/ok: a worker needs 1 CPU and 1 GPU on one node; no prediction node"
    ):
        run_suite(tmp_path, suite, SharedExecutor(joined))  # type: ignore[arg-type]
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_lost_node_and_a_new_one_leave_every_sample_predicted_once(
    pools: Cluster, joined: RayExecutor, tmp_path: Path
) -> None:
    (trial,) = planned(tmp_path, document(240, ok={"batch_size": 4, "options": {"delay": 0.05}})).trials
    outcomes = joined.predict([Work(trial, ((0, 240),), 4)])
    results: list[ShardResult] = []
    lost = joining = None
    for outcome in outcomes:
        assert isinstance(outcome, ShardResult)
        results.append(outcome)
        if lost is None and len({result.execution.node for result in results}) == 2:
            lost = next(node for node in pools.worker_nodes if node.node_id[:8] in outcome.execution.node)
            pools.remove_node(lost, allow_graceful=False)
            joining = pools.add_node(**small(num_cpus=1, resources={"slot": 1}))
    assert lost is not None and joining is not None
    starts = sorted(outcome.shard.start for outcome in results)
    assert starts == list(range(0, 240, 4))
    last = {outcome.execution.node for outcome in results[-20:]}
    assert any(joining.node_id[:8] in node for node in last), "workers start on the new node"


@pytest.mark.parametrize("name", sorted(shipped_suites()))
def test_shipped_suites_give_the_same_figures_as_one_process_to_the_last_digit(
    joined: RayExecutor, tmp_path: Path, name: str
) -> None:
    loaded = load_suite(shipped_suites()[name])
    try:
        trials = plan(loaded, limit=24).trials
    except UnavailableError as error:
        pytest.skip(str(error))
    waiting = {trial.benchmark for trial in trials if trial.needs_training}
    ready = {trial.benchmark for trial in trials} - waiting
    if not ready:
        pytest.skip("its checkpoints are not trained, or its data are not on this machine")
    suite = loaded.suite.model_dump(mode="json", exclude_unset=True, exclude={"include", "claims", "gate"})
    suite["benchmarks"] = {
        key: {**value, "speed": []} for key, value in suite["benchmarks"].items() if key in ready
    }
    inline = run_suite(tmp_path, suite, InlineExecutor, out="inline", limit=24)
    ray = run_suite(tmp_path, suite, SharedExecutor(joined), out="ray", shard_size=8, limit=24)  # type: ignore[arg-type]
    assert figures(ray) == figures(inline)
    assert figures(inline) and all(trial.status == "complete" for trial in ray.trials)


THREE_TASKS = """
name: three-tasks
datasets:
  short: {dataset: phrases, options: {language: de, max_tokens: 12, size: 240}}
adapters:
  slow: {adapter: fake-translation, batch_size: 4, options: {delay: 0.2}}  # every node gets shards
  attention: {adapter: attention, checkpoint: attention-phrases-en-de, batch_size: 4}
  yolo: {adapter: yolo, checkpoint: yolo-scenes, batch_size: 4}
  fcn-8s: {adapter: fcn-8s, checkpoint: fcn-8s-scenes, batch_size: 4}
benchmarks:
  shortened: {dataset: short, adapters: [slow], metrics: [bleu]}
  translation: {dataset: short, limit: 24, adapters: [attention], metrics: [bleu]}
  detection: {dataset: scenes, task: detection, limit: 24, adapters: [yolo], metrics: [coco]}
  segmentation: {dataset: scenes, task: segmentation, limit: 24, adapters: [fcn-8s], metrics: [iou]}
"""


def test_three_nodes_of_ray_start_give_the_figures_of_one_process_to_the_last_digit(tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text(THREE_TASKS)
    head = StartedNode(cpus=1)
    nodes = [head, StartedNode(head, cpus=1), StartedNode(head, cpus=1)]
    command = [sys.executable, "-m", "harness", "run", str(tmp_path / "suite.yaml"), "--no-sync"]
    joining = ["--out", str(tmp_path / "ray"), "--shard-size", "4", "--address", head.address]
    with ExitStack() as ending:
        for node in nodes:
            ending.callback(node.end)
            node.start()
        subprocess.run([*command, *joining], env=WITHOUT_TOKENS, check=True)
    subprocess.run([*command, "--out", str(tmp_path / "inline"), "--executor", "inline"], check=True)
    ray, inline = read_results(tmp_path / "ray"), read_results(tmp_path / "inline")
    assert figures(ray) == figures(inline)
    assert len(ray.trials) == 4 and all(trial.status == "complete" for trial in ray.trials)
    assert len(nodes_of(tmp_path / "ray", ray)) == 3, "each of them predicted some shards"


class Span(NamedTuple):
    """A timing process or a shard of a run; times are in seconds since 1970."""

    node: str
    start: float
    end: float
    step: str
    """`time VARIANT SCENARIO` or `predict VARIANT RANGE`."""

    @property
    def is_timing(self) -> bool:
        return self.step.startswith("time")


def spans(folder: Path) -> list[Span]:
    """Return every timing process and every shard of a run."""
    run_spans = []
    for trial in read_results(folder).trials:
        for name, scenario in trial.speed.items():
            assert scenario.queries > 0, scenario.reasons
            for timed in scenario.timed_on:
                step = f"time {trial.variant} {name}"
                run_spans.append(Span(timed.node, seconds(timed.started), seconds(timed.finished), step))
        for at, shard in RunDirectory(folder).trial(trial.id).predictions.provenance().items():
            assert shard.node and shard.started and shard.finished
            step = f"predict {trial.variant} {at}"
            run_spans.append(Span(shard.node, seconds(shard.started), seconds(shard.finished), step))
    return run_spans


def seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


MAX_WAIT_SECONDS = 180.0  # for a shard of 0.1 s, a timing of the other suite, and the start of a process


def test_two_suites_on_one_pool_time_without_disturbing_each_other(tmp_path: Path) -> None:
    """With two workers per suite on two nodes, one's predictions make room for the other's timing."""
    cluster = start_cluster({"num_cpus": 2}, {"num_cpus": 2})
    try:
        running = []
        for name, size in (("first", 40), ("second", 1200)):  # the first times while the second predicts
            suite = document(size, ok={"batch_size": [1, 2], "options": {"delay": 0.01}})
            suite["name"] = name
            suite["benchmarks"]["words"]["speed"] = ["single-stream"]
            suite["speed"] = {"samples": 4, "threads": 1}
            path = write(tmp_path, suite, f"{name}.yaml")
            command = [sys.executable, "-m", "harness", "run", str(path), "--address", cluster.address]
            command += ["--out", str(tmp_path / name), "--no-sync", "--shard-size", "8"]
            command += ["--workers", "2"]
            running.append(subprocess.Popen(command, env=os.environ, stdout=subprocess.DEVNULL))
        assert [process.wait(timeout=880) for process in running] == [0, 0]
    finally:
        cluster.shutdown()
    runs = {name: spans(tmp_path / name) for name in ("first", "second")}
    steps = [(name, span) for name, run_spans in runs.items() for span in run_spans]
    timings = [(name, span) for name, span in steps if span.is_timing]
    assert len(timings) == 12, "of two suites, two trials, and three processes each"
    overlaps = [
        (timing, other)
        for timing in timings
        for other in steps
        if other != timing
        and other[1].node == timing[1].node
        and other[1].start < timing[1].end
        and timing[1].start < other[1].end
    ]
    assert overlaps == []
    first_timing = min(span.start for span in runs["first"] if span.is_timing)
    last_prediction = max(span.end for span in runs["second"] if not span.is_timing)
    assert first_timing < last_prediction, "the first suite times before the second has predicted everything"
    workers = {name: most_at_once(run_spans) for name, run_spans in runs.items()}
    assert min(workers.values()) >= 2, workers
    longest = {name: max(waits(run_spans)) for name, run_spans in runs.items()}
    sys.stdout.write(f"longest wait of a timing, process start included: {longest}\n")
    assert max(longest.values()) < MAX_WAIT_SECONDS


def most_at_once(run_spans: list[Span]) -> int:
    """Return the most shards that were in flight at the same time."""
    shards = [span for span in run_spans if not span.is_timing]
    return max(sum(other.start <= shard.start < other.end for other in shards) for shard in shards)


def waits(run_spans: list[Span]) -> list[float]:
    """Return the seconds from a run's last prediction, or previous timing, to each of its timings."""
    timings = sorted((span.start, span.end) for span in run_spans if span.is_timing)
    ends = [max(span.end for span in run_spans if not span.is_timing), *(end for _, end in timings)]
    return [start - end for end, (start, _) in zip(ends, timings, strict=False)]


def test_weights_that_the_object_store_cannot_hold_are_an_error_and_finished_work_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_local_fs_capacity_threshold", "0.0001")  # a full disk: nothing can be spilled
    large = Checkpoint({"w": torch.zeros(40_000_000, dtype=torch.int32)}, "fake-translation", {})
    save(large, tmp_path / "large.safetensors")  # 160 MB
    suite = document(8, ok={"batch_size": 4}, large={"batch_size": 4, "checkpoint": "large.safetensors"})
    command = [sys.executable, "-m", "harness", "run", str(write(tmp_path, suite)), "--no-sync"]
    cluster = start_cluster({"num_cpus": 1})
    try:  # in another process: this one has joined the module's cluster
        joining = [*command, "--out", str(tmp_path / "run"), "--address", cluster.address]
        done = subprocess.run(joining, check=False, capture_output=True, text=True)
    finally:
        cluster.shutdown()
    assert done.returncode == 3
    assert (
        "words/large: Ray's object store has no room for large.safetensors: start Ray with a larger "
        "--object-store-memory, or free disk space for what it spills"
    ) in done.stderr
    results = run_suite(tmp_path, suite, InlineExecutor)
    assert [trial.status for trial in results.trials] == ["complete", "complete"]


@pytest.mark.parametrize("dies", [["gcs_server"], []], ids=["its store", "all of it"])
def test_a_dead_head_is_an_error_and_the_same_command_resumes_when_it_is_back(
    tmp_path: Path, dies: list[str]
) -> None:
    suite = document(400, ok={"batch_size": 4, "options": {"delay": 0.1}})
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite))
    head = StartedNode()
    command = [sys.executable, "-m", "harness", "run", str(tmp_path / "suite.yaml"), "--no-sync"]
    command += ["--out", str(tmp_path / "run"), "--shard-size", "4", "--address", head.address]

    def shards() -> dict[str, int]:
        paths = tmp_path.glob("run/trials/*/predictions/0*.parquet")
        return {path.name: path.stat().st_ino for path in paths}

    head.start()
    try:
        driver = subprocess.Popen(command, env=WITHOUT_TOKENS, stderr=subprocess.PIPE, text=True)
        while not shards():
            assert driver.poll() is None, driver.communicate()[1]
            time.sleep(0.1)
        head.kill(*dies)
        _, errors = driver.communicate(timeout=200)
        before = shards()
        assert driver.returncode == 3
        # 30 s if the driver pinged the head, 40 s if the watchdog did
        message = (
            r"has not answered for [34]0 s; finished work is on disk, and the same command resumes the run"
        )
        assert re.search(message, errors), errors
        assert 0 < len(before) < 100
        head.end()
        head.start()
        subprocess.run(command, env=WITHOUT_TOKENS, check=True, stderr=subprocess.DEVNULL)
    finally:
        head.end()
    after = shards()
    assert len(after) == 100
    assert before.items() <= after.items(), "no shard that was on disk is repeated"
    assert json.loads((tmp_path / "run" / "results.json").read_text())["trials"][0]["status"] == "complete"


COMPUTES = """
import sys
from harness.executors.ray.executor import RayExecutor
with RayExecutor(sys.argv[1]):
    print("joined", flush=True)
    while True:
        sum(range(10_000))
"""


def test_a_busy_driver_whose_head_dies_ends_with_the_harness_exit_code() -> None:
    """Ray would end it after 60 s with exit code 1, which means a regression."""
    head = StartedNode(cpus=1)
    head.start()
    try:
        command = [sys.executable, "-c", COMPUTES, head.address]
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, env=WITHOUT_TOKENS, **pipes) as driver:
            assert driver.stdout is not None and driver.stdout.readline() == "joined\n"
            head.kill("gcs_server")
            _, errors = driver.communicate(timeout=200)
    finally:
        head.end()
    assert driver.returncode == 3
    assert (
        "has not answered for 40 s; finished work is on disk, and the same command resumes the run" in errors
    )
