"""Four nodes of `ray start` on this host with a token: submission, lost node, stopped worker and job."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from ray_start import AGENTS, free_ports
from small_suite import document, figures, run_suite

from harness.rundir.results import read_results
from harness.rundir.store import RunDirectory

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
START_SECONDS = 400.0  # for a node on a busy machine
START_TRIES = 5


def _started_or_ended(node: subprocess.Popen[bytes], log: Path) -> bool:
    return "runtime started" in log.read_text() or node.poll() is not None


class Nodes:
    """A head with a dashboard and three nodes of one CPU, each with its own processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        token = folder / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        port, dashboard, client = free_ports(3)
        self.address = f"http://127.0.0.1:{dashboard}"
        self._head = f"127.0.0.1:{port}"
        unset = {"RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN"}
        self.environment = {name: value for name, value in os.environ.items() if name not in unset} | {
            "RAY_AUTH_MODE": "token",
            "RAY_raylet_start_wait_time_s": "40",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        }
        self._folders: list[str] = []
        head = ["--head", f"--port={port}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1"]
        head += ["--include-dashboard=true", "--disable-usage-stats", f"--ray-client-server-port={client}"]
        self.processes: list[subprocess.Popen[bytes]] = []
        self._head_options = head

    def start_all(self) -> None:
        self.processes.append(self._start(self._head_options, cpus=0))
        for _ in range(3):
            self.processes.append(self._start([f"--address={self._head}"], cpus=1))

    def _start(self, options: list[str], cpus: int) -> subprocess.Popen[bytes]:
        """Start a node, several times if necessary: it ends if its agents do not start within 15 s."""
        for _ in range(START_TRIES):
            folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # the path of a socket must be short
            self._folders.append(folder)
            ports = [f"{name}={number}" for name, number in zip(AGENTS, free_ports(len(AGENTS)), strict=True)]
            command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *options, *ports]
            command += [f"--num-cpus={cpus}", "--object-store-memory=100000000", f"--temp-dir={folder}"]
            log = self.folder / f"node{len(self._folders)}.log"
            with log.open("w") as stream:
                node = subprocess.Popen(
                    command, env=self.environment, stdout=stream, stderr=stream, start_new_session=True
                )
            self.wait_until(partial(_started_or_ended, node, log))
            if node.poll() is None:
                return node
        raise AssertionError(log.read_text())

    def call(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        command, *rest = map(str, arguments)
        return subprocess.run(
            [sys.executable, "-m", "harness", command, "--address", self.address, *rest],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )

    def start(self, suite: dict[str, Any], *options: object) -> subprocess.Popen[str]:
        """Submit a suite and follow its job."""
        path = self.folder / f"{suite['name']}.yaml"
        path.write_text(yaml.safe_dump(suite))
        rest = map(str, ["--out", self.out(suite), "--no-sync", "--follow", *options])
        command = [sys.executable, "-m", "harness", "submit", str(path), "--address", self.address, *rest]
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, env=self.environment, **pipes)

    def out(self, suite: dict[str, Any]) -> Path:
        return self.folder / "runs" / str(suite["name"])

    def shards(self, suite: dict[str, Any]) -> dict[str, int]:
        """Return the file of each shard → inode; a shard that is predicted again is a new file."""
        return {path.name: path.stat().st_ino for path in self.out(suite).glob("trials/*/predictions/0*")}

    def wait_until(self, condition: Callable[[], object]) -> None:
        until = time.monotonic() + START_SECONDS
        while not condition():
            logs = "\n".join(path.read_text()[-2000:] for path in self.folder.glob("node*.log"))
            assert time.monotonic() < until, logs
            time.sleep(0.1)

    def node_of(self, process: psutil.Process) -> subprocess.Popen[bytes] | None:
        """Return the node that a process belongs to; None if it belongs to another cluster."""
        with suppress(psutil.Error):
            ancestors = {parent.pid for parent in process.parents()}
            return next((node for node in self.processes if node.pid in ancestors), None)
        return None

    def running(self, title: str) -> psutil.Process | None:
        """Return a worker of these nodes whose title begins like this."""
        for process in psutil.process_iter(["cmdline"]):
            if "".join(process.info["cmdline"] or ()).startswith(title) and self.node_of(process):
                return process
        return None

    def wait_for_third_shard(self) -> psutil.Process:
        """Return a worker in its third shard; deadlines of the first two count the time of loading."""
        titles: dict[int, set[str]] = {}
        while True:
            self.wait_until(lambda: self.running("ray::words/ok"))
            worker = self.running("ray::words/ok")
            if worker is not None:
                shards = titles.setdefault(worker.pid, set())
                shards.add("".join(worker.info["cmdline"]))
                if len(shards) > 2:
                    return worker

    def kill(self, node: subprocess.Popen[bytes]) -> None:
        """Kill all processes of a node."""
        started = psutil.Process(node.pid)
        for process in [*started.children(recursive=True), started]:
            with suppress(psutil.Error):
                process.kill()

    def end(self) -> None:
        for node in reversed(self.processes):
            if node.poll() is None:
                self.kill(node)
            node.wait()
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    running = Nodes(tmp_path_factory.mktemp("nodes"))
    try:
        running.start_all()
        yield running
    finally:
        running.end()


def named(name: str, size: int, **options: Any) -> dict[str, Any]:
    return document(size, ok={"batch_size": 4, "options": options}) | {"name": name}


def test_the_first_submission_to_a_fresh_cluster_succeeds_on_all_its_nodes(
    nodes: Nodes, tmp_path: Path
) -> None:
    suite = named("first", 240, delay=0.2)
    output = "No available agent"
    while "No available agent" in output:  # the nodes still start the agents that would run a job
        job = nodes.start(suite, "--shard-size", 4)
        output, _ = job.communicate(timeout=900)
    assert job.returncode == 0, output
    results = read_results(nodes.out(suite))
    assert figures(results) == figures(run_suite(tmp_path, suite))
    records = RunDirectory(nodes.out(suite)).trial(results.trials[0].id).predictions.provenance()
    assert len({record.node for record in records.values()}) == 3, "each node unpacked the package"


def test_a_stopped_worker_is_replaced_after_its_deadline_and_no_sample_is_lost(nodes: Nodes) -> None:
    suite = named("stopped", 160, delay=0.1)
    job = nodes.start(suite, "--shard-size", 4)
    stopped = nodes.wait_for_third_shard()
    stopped.suspend()
    output, _ = job.communicate(timeout=900)
    assert job.returncode == 0, output
    assert "1 shards retried" in output
    assert len(nodes.shards(suite)) == 40
    assert not stopped.is_running()


def test_a_job_that_is_stopped_is_resumed_by_the_same_submission(nodes: Nodes) -> None:
    suite = named("halted", 160, delay=0.5)
    job = nodes.start(suite, "--shard-size", 4)
    assert job.stdout is not None
    job_id = next(line.split()[2].rstrip(";") for line in job.stdout if line.startswith("submitted as "))
    nodes.wait_until(lambda: len(nodes.shards(suite)) > 4)
    assert nodes.call("stop", job_id).returncode == 0
    output, _ = job.communicate(timeout=300)
    assert job.returncode == 130, output
    before = nodes.shards(suite)
    assert 4 < len(before) < 40
    again = nodes.start(suite, "--shard-size", 4)
    output, _ = again.communicate(timeout=900)
    assert again.returncode == 0, output
    assert before.items() <= nodes.shards(suite).items() and len(nodes.shards(suite)) == 40


def test_a_node_that_is_lost_while_it_times_is_replaced_by_another(nodes: Nodes) -> None:
    """This test comes last, because the node is gone."""
    suite = named("timed", 16, delay=0.2)
    suite["benchmarks"]["words"]["speed"] = ["offline"]
    suite["speed"] = {"samples": 16, "threads": 1}
    job = nodes.start(suite, "--shard-size", 4)
    nodes.wait_until(lambda: nodes.running("ray::Timer.measure"))
    timer = nodes.running("ray::Timer.measure")
    lost = nodes.node_of(timer) if timer else None
    assert lost is not None
    nodes.kill(lost)
    killed = datetime.now(UTC)
    output, _ = job.communicate(timeout=900)
    assert job.returncode == 0, output
    (trial,) = read_results(nodes.out(suite)).trials
    assert trial.status == "complete"
    assert trial.speed["offline"].queries > 0
    assert min(datetime.fromisoformat(timed.started) for timed in trial.speed["offline"].timed_on) > killed
