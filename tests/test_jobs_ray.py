"""`harness submit`, `status`, `logs` and `stop` on a real Ray head with dashboard and tokens."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray_start import AGENTS, free_ports
from small_suite import document

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
START_DEADLINE_SECONDS = 240.0  # for a head on a busy machine
PORTS = ("--port", "--dashboard-port", "--ray-client-server-port", *AGENTS)


class Head:
    """A running head, and the commands to use it."""

    def __init__(self, folder: Path) -> None:
        ports = free_ports(len(PORTS))
        self._short = tempfile.mkdtemp(prefix="r", dir="/tmp")  # the path of a socket must be short
        token = folder / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        self.address = f"http://127.0.0.1:{ports[1]}"
        self.folder = folder
        unset = {"RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN"}
        self.environment = {name: value for name, value in os.environ.items() if name not in unset} | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        }
        options = [word for pair in zip(PORTS, map(str, ports), strict=True) for word in pair]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2"]
        quiet = ["--disable-usage-stats", "--include-dashboard=true", "--dashboard-host=127.0.0.1"]
        store = ["--object-store-memory=100000000", f"--temp-dir={self._short}"]
        self._log = (folder / "head.log").open("w")
        self._process = subprocess.Popen(
            [*command, *quiet, *store, *options],
            env=self.environment,
            start_new_session=True,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def wait(self) -> None:
        until = time.monotonic() + START_DEADLINE_SECONDS
        while self.call("status", "--json").returncode != 0:
            assert self._process.poll() is None, (self.folder / "head.log").read_text()
            assert time.monotonic() < until, (self.folder / "head.log").read_text()

    def end(self) -> None:
        self._process.send_signal(signal.SIGTERM)  # with --block, it ends the processes that it has started
        self._process.wait(90)
        self._log.close()
        shutil.rmtree(self._short, ignore_errors=True)

    def call(self, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
        command, *rest = map(str, arguments)
        return subprocess.run(
            [sys.executable, "-m", "harness", command, "--address", self.address, *rest],
            env=self.environment | variables,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def submit(self, suite: dict[str, Any], out: str, *more: object) -> subprocess.CompletedProcess[str]:
        path = self.folder / f"{suite['name']}.yaml"
        path.write_text(yaml.safe_dump(suite))
        options = ["--out", out, "--workers", 1, "--shard-size", 4, "--no-sync", *more]
        return self.call("submit", path, *options)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    running = Head(tmp_path_factory.mktemp("head"))
    try:
        running.wait()
        yield running
    finally:
        running.end()


def named(name: str, **adapters: Any) -> dict[str, Any]:
    return document(20, **adapters) | {"name": name}


def test_a_successful_suite_leaves_its_run_and_is_not_repeated(head: Head) -> None:
    out = str(head.folder / "there" / "good")
    first = head.submit(named("good", ok={"batch_size": 4}), out, "--follow", "--json")
    assert first.returncode == 0, first.stderr
    job = json.loads(first.stdout)
    assert (job["status"], job["exit_code"], job["new"]) == ("SUCCEEDED", 0, True)
    assert "words/ok: 20/20 samples" in first.stderr, "the job's output"
    results = json.loads((head.folder / "there" / "good" / "results.json").read_text())
    assert [trial["status"] for trial in results["trials"]] == ["complete"]
    assert results["run"]["executor"] == "ray"
    second = head.submit(named("good", ok={"batch_size": 4}), out, "--follow", "--json")
    assert (second.returncode, json.loads(second.stdout)["new"]) == (0, False)
    assert json.loads(second.stdout)["id"] == job["id"]


def test_a_failing_suite_has_the_harness_exit_code_and_its_next_attempt_is_another_job(head: Head) -> None:
    bad = named("bad", ok={"batch_size": 4}, bad={"options": {"raise_at": 3}, "batch_size": 4})
    first = head.submit(bad, str(head.folder / "bad"), "--follow", "--json")
    assert first.returncode == 3, first.stderr
    assert "RuntimeError: poison at 3" in first.stderr
    second = head.submit(bad, str(head.folder / "bad"), "--follow", "--json")
    ids = [json.loads(submission.stdout)["id"] for submission in (first, second)]
    assert ids == [ids[0], f"{ids[0]}-2"]
    assert "words/ok: 20 of 20 predictions are on disk" in second.stderr, "it resumes"


def test_a_job_can_be_joined_listed_and_stopped(head: Head) -> None:
    out = head.folder / "slow"
    slow = named("slow", ok={"batch_size": 4, "options": {"delay": 30.0}})
    job_id = head.submit(slow, str(out)).stdout.strip()
    until = time.monotonic() + 240
    while not (out / "run.json").exists():
        assert time.monotonic() < until, head.call("logs", job_id).stdout
        time.sleep(0.2)
    joined = head.submit(slow, str(out))
    assert joined.stdout.strip() == job_id, "the same id while it runs"
    assert f"is already running as {job_id}" in joined.stderr
    other = head.submit(named("other", ok={"batch_size": 4}), str(out), "--follow")
    assert other.returncode == 2
    assert f"--out {out}: " in other.stderr, "the folder belongs to another run"
    assert "stopping" in head.call("stop", job_id).stdout
    followed = head.call("logs", job_id, "--follow")
    assert followed.returncode == 130
    status = json.loads(head.call("status", job_id, "--json").stdout)
    assert (status["status"], status["exit_code"]) == ("STOPPED", 130)
    listed = json.loads(head.call("status", "--json").stdout)
    assert job_id in [job["id"] for job in listed]
    assert head.call("logs", f"{job_id}x").returncode == 2


def test_a_wrong_or_missing_token_is_an_error_of_one_line(head: Head, tmp_path: Path) -> None:
    done = head.call("status", RAY_AUTH_TOKEN="0" * 64)
    assert (done.returncode, done.stdout) == (3, "")
    (line,) = done.stderr.splitlines()
    assert line.endswith("the cluster rejects the token from RAY_AUTH_TOKEN")
    none = head.call("status", RAY_AUTH_TOKEN_PATH="", HOME=str(tmp_path))
    assert none.returncode == 3
    assert "the cluster requires a token, and none is set" in none.stderr


def test_a_package_that_is_too_large_is_an_error_before_it_is_sent(head: Head) -> None:
    before = json.loads(head.call("status", "--json").stdout)
    weights = head.folder / "large.pth"
    with weights.open("wb") as stream:
        stream.truncate(101 * 2**20)
    done = head.submit(named("large", ok={"checkpoint": "large.pth"}), "/nowhere")
    assert done.returncode == 2
    assert "Ray accepts at most 100.0 MiB (largest: suite/large.pth 101.0 MiB" in done.stderr
    assert json.loads(head.call("status", "--json").stdout) == before
