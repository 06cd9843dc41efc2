"""Randomised kill runs: workers, nodes, drivers and the tracking server die at seeded random moments.

    python benchmarks/kill_runs.py [--runs 10] [--seed 0] [--first 0] [--victims worker node driver server]

Every run of a small suite on a cluster of three nodes is disturbed one to three times and goes on with the
same command until it is complete; only a driver that was killed itself may end with another exit code than 0.
Then no shard is lost, none doubled, none that was on disk made again, and the figures are those of an
undisturbed run in one process. Runs with the tracking server among their victims log to it, and in the end it
holds each trial once, with these figures.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# Ray gives the parts of a node 30 s to start, which a busy machine may not keep.
os.environ |= {"RAY_raylet_start_wait_time_s": "180", "RAY_agent_register_timeout_ms": "180000"}

import numpy as np
import psutil
from ray.cluster_utils import Cluster
from tracking_server import TrackingServer, free_ports

from harness.tracking import sync

THIRD_PARTY = str(Path(__file__).parent.parent / "tests" / "thirdparty")
SAMPLES, BATCH = 240, 4
SUITE = f"""
name: kill
datasets:
  short: {{dataset: phrases, options: {{max_tokens: 8, size: {SAMPLES}}}}}
adapters:
  a: {{adapter: fake-translation, batch_size: {BATCH}, options: {{delay: 0.02}}}}
  b: {{adapter: fake-translation, batch_size: {BATCH}, options: {{delay: 0.02, drop: 2}}}}
benchmarks:
  phrases: {{dataset: short, adapters: [a, b], metrics: [bleu]}}
"""
WORKERS = ("ray::Worker", "ray::phrases/")  # titles of their processes: idle or starting, and with a shard
SILENT = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
VICTIMS = {"worker": 0.3, "node": 0.2, "driver": 0.3, "server": 0.2}  # and how likely each is
AWAY = 5.0  # s that a killed server stays away at most
LEAST_DISTURBED = 0.8  # of the runs; fewer would show little
ALL_VICTIMS_FROM = 20  # runs: from then on every kind of victim must be among the killed


@dataclass(frozen=True, order=True)
class Moment:
    """So many seconds after so many of the run's shards are on disk, this dies."""

    shards: int
    delay: float
    victim: str


def draw(random: np.random.Generator, whole: int, victims: Sequence[str]) -> list[Moment]:
    """One to three, in order: while a run of `whole` shards starts, predicts, scores or logs."""
    moments, likely = [], np.array([VICTIMS[name] for name in victims])
    for _ in range(int(random.integers(1, 4))):
        victim = str(random.choice(victims, p=likely / likely.sum()))
        shards, delay = int(random.integers(whole)), random.uniform(0, 0.5)
        if victim in ("driver", "server") and random.random() < 0.5:
            shards, delay = int(random.choice([0, whole])), random.uniform(0, 4)
        moments.append(Moment(shards, delay, victim))
    return sorted(moments)


@dataclass(frozen=True)
class Site:
    """Where runs happen, and what can be killed there."""

    folder: Path
    cluster: Cluster
    server: TrackingServer | None
    victims: Sequence[str]

    def strike(self, victim: str, driver: subprocess.Popen[bytes], random: np.random.Generator) -> bool:
        """Kill one of these; whether it really died, while the driver was alive (as which it may die)."""
        if victim == "driver":
            os.killpg(driver.pid, signal.SIGKILL)
            return driver.wait() == -signal.SIGKILL
        if victim == "worker":
            return self._kill_worker(driver, random)
        alive = driver.poll() is None
        if victim == "server" and self.server:
            killed = self.server.kill()
            time.sleep(random.uniform(0, AWAY))
            self.server.start()
            return killed and alive
        nodes = sorted(self.cluster.worker_nodes, key=lambda node: node.node_id)
        self.cluster.remove_node(nodes[int(random.integers(len(nodes)))], allow_graceful=False)
        self.cluster.add_node(**small(cpus=1))
        return alive

    def _kill_worker(self, driver: subprocess.Popen[bytes], random: np.random.Generator) -> bool:
        while driver.poll() is None:
            found = self._workers()
            if found:  # they take seconds to start
                chosen = found[int(random.integers(len(found)))]
                chosen.kill()
                return bool(psutil.wait_procs([chosen], timeout=10)[0]) and driver.poll() is None
            time.sleep(0.05)
        return False

    def _workers(self) -> list[psutil.Process]:
        """Processes that predict, on any node, in the order of their ids."""
        raylets = [node.all_processes["raylet"][0].process.pid for node in self.cluster.worker_nodes]
        children = [child for raylet in raylets for child in psutil.Process(raylet).children(recursive=True)]
        found = []
        for child in sorted(children, key=lambda each: each.pid):
            with suppress(psutil.Error, IndexError):  # it ended meanwhile
                if child.cmdline()[0].startswith(WORKERS):
                    found.append(child)
        return found


def start_cluster() -> Cluster:
    cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **small(cpus=0)})
    for _ in range(2):
        cluster.add_node(**small(cpus=1))
    return cluster


def small(cpus: int) -> dict[str, int]:
    """A node. Its agents' ports are given: else it ends if these do not tell them within 15 s."""
    agents = ("metrics_agent", "metrics_export", "runtime_env_agent", "dashboard_agent_listen")
    numbers = zip(agents, free_ports(len(agents)), strict=True)
    ports = {f"{agent}_port": number for agent, number in numbers}
    return {"num_cpus": cpus, "object_store_memory": 100 << 20, **ports}


def command(folder: Path, out: str, *more: str) -> list[str]:
    asked = ["run", str(folder / "kill.yaml"), "--out", str(folder / out), "--shard-size", str(BATCH)]
    return [sys.executable, "-m", "harness", *asked, *more]


def shards(run: Path) -> dict[str, int]:
    """Shard → inode: one that is made again would be a new file."""
    return {f"{path.parts[-3]}/{path.name}": path.stat().st_ino for path in run.glob("trials/*/*/0*.parquet")}


def figures(run: Path) -> list[tuple[str, str, str]]:
    trials = json.loads((run / "results.json").read_text())["trials"]
    return [(trial["id"], trial["status"], json.dumps(trial["metrics"])) for trial in trials]


def reached(moment: Moment, driver: subprocess.Popen[bytes], run: Path) -> bool:
    """Wait for it; False where the driver ends before."""
    due: float | None = None
    while driver.poll() is None:
        if due is None and len(shards(run)) >= moment.shards:
            due = time.monotonic() + moment.delay
        if due is not None and time.monotonic() >= due:
            return True
        time.sleep(0.05)
    return False


def one_run(site: Site, number: int, seed: int, whole: Sequence[str]) -> list[str]:
    """Disturb a run and repeat its command until it is done; who died."""
    random = np.random.default_rng([seed, number])
    moments = draw(random, len(whole), site.victims)
    server = site.server if any(moment.victim == "server" for moment in moments) else None
    run = site.folder / f"run{number}"
    variables = {**os.environ, "MLFLOW_TRACKING_URI": server.uri if server else ""}
    sync_or_not = [] if server else ["--no-sync"]
    asked = command(site.folder, run.name, "--address", site.cluster.address, *sync_or_not)
    died: list[str] = []
    kept: dict[str, int] = {}
    for _ in range(20):
        struck = False
        driver = subprocess.Popen(asked, env=variables, start_new_session=True, **SILENT)
        while moments and reached(moments[0], driver, run):
            moment = moments.pop(0)
            if site.strike(moment.victim, driver, random):
                died.append(moment.victim)
                struck = struck or moment.victim == "driver"
        code = driver.wait(timeout=300)
        check_exit(code, struck)
        now = shards(run)
        assert kept.items() <= now.items(), "a shard that was on disk is gone or was made again"
        kept = now
        if code == 0:
            break
    else:
        raise AssertionError("not complete within 20 attempts")
    assert sorted(kept) == sorted(whole), "shards lost or doubled"
    if server:
        server.wait()
        check_logged(run, server.uri)
    return died


def check_exit(code: int, struck: bool) -> None:
    """Lost workers, nodes and servers make no attempt fail, as docs/cluster.md and docs/tracking.md say."""
    expected = -signal.SIGKILL if struck else 0
    assert code == expected, f"an attempt ended with exit code {code}, not {expected}"


def check_logged(run: Path, uri: str) -> None:
    """`harness sync` completes what the tracking server missed: every trial once, with its figures."""
    from mlflow.tracking import MlflowClient

    sync(run, uri)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("kill")
    document = json.loads((run / "results.json").read_text())
    query = f"tags.`harness.run_id` = '{document['run']['id']}'"
    found = [each.data for each in client.search_runs([experiment.experiment_id], query)]
    trials = [data for data in found if "harness.trial_id" in data.tags]
    known = {data.tags["harness.trial_id"]: data.metrics["acc/bleu"] for data in trials}
    expected = {trial["id"]: trial["metrics"]["bleu"]["value"] for trial in document["trials"]}
    assert (len(found), len(trials)) == (len(expected) + 1, len(expected)), "runs lost or doubled in MLflow"
    assert known == expected, "other figures in MLflow"


def check_disturbed(died: Sequence[Sequence[str]], victims: Sequence[str]) -> None:
    """Given who died in each run, and who was to: runs in which nobody did show nothing."""
    disturbed = sum(map(bool, died))
    assert disturbed >= LEAST_DISTURBED * len(died), f"only {disturbed} of {len(died)} runs were disturbed"
    spared = set(victims) - {name for names in died for name in names}
    assert len(died) < ALL_VICTIMS_FROM or not spared, f"never killed: {', '.join(sorted(spared))}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first run")
    parser.add_argument("--victims", nargs="+", choices=VICTIMS, default=list(VICTIMS))
    arguments = parser.parse_args()
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "60"  # a server on a busy machine is no dead one
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [THIRD_PARTY, os.environ.get("PYTHONPATH")]))
    died: list[list[str]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "kill.yaml").write_text(SUITE)
        alone = command(folder, "alone", "--executor", "inline", "--no-sync")
        subprocess.run(alone, check=True, stdout=subprocess.DEVNULL)
        expected, whole = figures(folder / "alone"), sorted(shards(folder / "alone"))
        server = TrackingServer(folder) if "server" in arguments.victims else None
        cluster = start_cluster()
        site = Site(folder, cluster, server, arguments.victims)
        try:
            if server:
                server.wait()
            for number in range(arguments.first, arguments.first + arguments.runs):
                started = time.monotonic()
                died.append(one_run(site, number, arguments.seed, whole))
                assert figures(folder / f"run{number}") == expected, f"run {number}: other figures"
                what = f"killed: {', '.join(died[-1])}" if died[-1] else "undisturbed"
                print(f"run {number}: complete after {time.monotonic() - started:.0f} s; {what}", flush=True)
        finally:
            cluster.shutdown()
            if server:
                server.kill()
    check_disturbed(died, arguments.victims)
    counts = Counter(name for names in died for name in names)
    killed = ", ".join(f"{count} × {what}" for what, count in sorted(counts.items()))
    print(f"{len(died)} runs complete, {len(whole)} shards each, same figures; killed: {killed}")


if __name__ == "__main__":
    main()
