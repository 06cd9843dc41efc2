"""Runs that are killed at any moment and resumed: nothing lost or repeated, and the same figures."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "kill_runs.py"
KILL_RUNS = int(os.environ.get("KILL_RUNS", "5"))  # `make test-all` sets 100
SUITE = """
name: kill
datasets:
  short: {dataset: phrases, options: {max_tokens: 8, size: 96}}
adapters:
  fake: {adapter: fake-translation, batch_size: 4, options: {delay: 0.02}}
benchmarks:
  phrases: {dataset: short, adapters: [fake], metrics: [bleu]}
"""


def command(folder: Path, out: str, *more: str) -> list[str]:
    suite = folder / "kill.yaml"
    suite.write_text(SUITE)
    arguments = ["run", str(suite), "--out", str(folder / out), "--no-sync", "--shard-size", "4", *more]
    return [sys.executable, "-m", "harness", *arguments]


def shards(run: Path) -> dict[str, int]:
    """Return file name → inode; a repeated shard would be a new file."""
    return {path.name: path.stat().st_ino for path in run.glob("trials/*/predictions/0*.parquet")}


def figures(run: Path) -> object:
    (trial,) = json.loads((run / "results.json").read_text())["trials"]
    return trial["id"], trial["status"], trial["metrics"]


def until_some_shards(process: subprocess.Popen[bytes], run: Path, count: int) -> Iterator[None]:
    """Yield once, when `count` shards are on disk and the process is still running."""
    while process.poll() is None:
        if len(shards(run)) >= count:
            yield
            return
        try:
            process.wait(timeout=0.02)
        except subprocess.TimeoutExpired:
            continue
    pytest.fail(f"the run ended (exit {process.returncode}) before it could be killed")


def kill_driver_and_resume(folder: Path, executor: list[str]) -> None:
    with subprocess.Popen(command(folder, "killed", *executor), start_new_session=True) as process:
        for _ in until_some_shards(process, folder / "killed", 3):
            os.kill(process.pid, signal.SIGKILL)
    before = shards(folder / "killed")
    assert 3 <= len(before) < 24
    subprocess.run(command(folder, "killed", *executor), check=True)
    after = shards(folder / "killed")
    assert len(after) == 24
    assert before.items() <= after.items()
    subprocess.run(command(folder, "undisturbed", "--executor", "inline"), check=True)
    assert figures(folder / "killed") == figures(folder / "undisturbed")


def test_a_killed_inline_driver_resumes_without_repeating_a_shard(tmp_path: Path) -> None:
    kill_driver_and_resume(tmp_path, ["--executor", "inline"])


@pytest.mark.slow
def test_a_killed_ray_driver_resumes_with_another_number_of_workers(tmp_path: Path) -> None:
    kill_driver_and_resume(tmp_path, ["--workers", "2"])


@pytest.mark.slow
def test_a_killed_ray_worker_loses_no_shard(tmp_path: Path) -> None:
    with subprocess.Popen(command(tmp_path, "wounded", "--workers", "2")) as process:
        for _ in until_some_shards(process, tmp_path / "wounded", 2):
            workers = [
                child
                for child in psutil.Process(process.pid).children(recursive=True)
                if child.cmdline()[:1] and child.cmdline()[0].startswith(("ray::Worker", "ray::phrases/"))
            ]
            workers[0].kill()
        assert process.wait() == 0
    subprocess.run(command(tmp_path, "undisturbed", "--executor", "inline"), check=True)
    assert figures(tmp_path / "wounded") == figures(tmp_path / "undisturbed")


def kill_at_random(runs: int, *options: str) -> str:
    command = [sys.executable, str(BENCHMARK), "--runs", str(runs), *options]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{runs} runs complete, 120 shards each, same figures" in done.stdout
    return done.stdout


@pytest.mark.timeout(480)
def test_a_worker_and_a_driver_killed_at_random_lose_and_repeat_nothing() -> None:
    """Two runs only, for `make test`."""
    output = kill_at_random(2, "--seed", "11", "--victims", "worker", "driver")
    assert "× driver" in output and "× worker" in output


@pytest.mark.slow
@pytest.mark.timeout(300 + 120 * KILL_RUNS)
def test_workers_nodes_drivers_and_servers_killed_at_random_lose_and_repeat_nothing() -> None:
    kill_at_random(KILL_RUNS)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_kills_in_mid_prediction_lose_and_repeat_nothing() -> None:
    command = [sys.executable, str(BENCHMARK.parent / "faults.py"), "kills", "--tries", "40"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for victim in ("worker", "child", "raylet", "driver", "gcs", "own raylet"):
        assert f"× {victim}" in done.stdout


@pytest.fixture
def kill_runs(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the names that the benchmark defines."""
    monkeypatch.syspath_prepend(BENCHMARK.parent)
    return runpy.run_path(str(BENCHMARK))


@pytest.mark.parametrize(
    ("died", "message"),
    [
        ([["worker"]] * 7 + [[]] * 3, "only 7 of 10 runs were disturbed"),
        ([["worker", "driver"], ["node"]] * 10, "never killed: server"),
    ],
)
def test_kill_runs_with_too_few_kills_fail(
    kill_runs: dict[str, Any], died: list[list[str]], message: str
) -> None:
    check, victims = kill_runs["check_disturbed"], list(kill_runs["VICTIMS"])
    with pytest.raises(AssertionError, match=message):
        check(died, victims)
    check([["worker", "driver"], ["node", "server"]] * 8 + [[]] * 4, victims)


@pytest.mark.parametrize(("code", "driver_killed"), [(3, False), (-signal.SIGKILL, False), (3, True)])
def test_kill_runs_fail_if_a_driver_fails_that_was_not_killed(
    kill_runs: dict[str, Any], code: int, driver_killed: bool
) -> None:
    check = kill_runs["check_exit"]
    with pytest.raises(AssertionError, match=f"ended with exit code {code}"):
        check(code, driver_killed)
    check(0, False)
    check(-signal.SIGKILL, True)
