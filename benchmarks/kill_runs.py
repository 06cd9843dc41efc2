"""Kill workers, nodes, drivers and the tracking server at seeded random moments of runs on a cluster.

    python benchmarks/kill_runs.py [--runs 10] [--seed 0] [--first 0] [--victims worker node driver server]

Each run of a small suite on a cluster of three nodes is disturbed one to three times. Its command is repeated
until the run is complete; only a driver that was killed may end with another exit code than 0.

In the end no shard is lost or repeated, and the figures equal those of an undisturbed run in one process.
Runs whose victims include the tracking server log to it, and it contains each trial once, with these figures.
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

# Ray gives the parts of a node 30 s to start, which is too short on a busy machine.
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
WORKER_TITLES = ("ray::Worker", "ray::phrases/")  # of processes that start or are idle, and that have a shard
SILENT = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
VICTIMS = {"worker": 0.3, "node": 0.2, "driver": 0.3, "server": 0.2}  # victim → probability
MAX_SERVER_DOWNTIME_SECONDS = 5.0
MIN_DISTURBED = 0.8  # of the runs; fewer would show little
ALL_VICTIMS_FROM_RUNS = 20  # with as many runs, every kind of victim must have been killed


@dataclass(frozen=True, order=True)
class Moment:
    """A kill of `victim`, `delay` seconds after `shards` shards of the run are on disk."""

    shards: int
    delay: float
    victim: str


def draw(random: np.random.Generator, whole: int, victims: Sequence[str]) -> list[Moment]:
    """Draw one to three moments, in order, while a run of `whole` shards starts, predicts, scores or logs."""
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
    """The cluster and the server for the runs, and what may be killed."""

    folder: Path
    cluster: Cluster
    server: TrackingServer | None
    victims: Sequence[str]

    def strike(self, victim: str, driver: subprocess.Popen[bytes], random: np.random.Generator) -> bool:
        """Kill a victim; return whether it died while the driver was alive, or as the driver."""
        if victim == "driver":
            os.killpg(driver.pid, signal.SIGKILL)
            return driver.wait() == -signal.SIGKILL
        if victim == "worker":
            return self._kill_worker(driver, random)
        alive = driver.poll() is None
        if victim == "server" and self.server:
            killed = self.server.kill()
            time.sleep(random.uniform(0, MAX_SERVER_DOWNTIME_SECONDS))
            self.server.start()
            return killed and alive
        nodes = sorted(self.cluster.worker_nodes, key=lambda node: node.node_id)
        self.cluster.remove_node(nodes[int(random.integers(len(nodes)))], allow_graceful=False)
        self.cluster.add_node(**small(cpus=1))
        return alive

    def _kill_worker(self, driver: subprocess.Popen[bytes], random: np.random.Generator) -> bool:
        while driver.poll() is None:
            workers = self._workers()
            if workers:  # which take seconds to start
                chosen = workers[int(random.integers(len(workers)))]
                chosen.kill()
                return bool(psutil.wait_procs([chosen], timeout=10)[0]) and driver.poll() is None
            time.sleep(0.05)
        return False

    def _workers(self) -> list[psutil.Process]:
        """Return the processes that predict, on any node, ordered by their ids."""
        raylets = [node.all_processes["raylet"][0].process.pid for node in self.cluster.worker_nodes]
        children = [child for raylet in raylets for child in psutil.Process(raylet).children(recursive=True)]
        workers = []
        for child in sorted(children, key=lambda process: process.pid):
            with suppress(psutil.Error, IndexError):  # if it ended meanwhile
                if child.cmdline()[0].startswith(WORKER_TITLES):
                    workers.append(child)
        return workers


def start_cluster() -> Cluster:
    cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **small(cpus=0)})
    for _ in range(2):
        cluster.add_node(**small(cpus=1))
    return cluster


def small(cpus: int) -> dict[str, int]:
    """Return the options of a small node, with fixed ports for its agents.

    A node ends if its agents do not report their own ports within 15 s.
    """
    agents = ("metrics_agent", "metrics_export", "runtime_env_agent", "dashboard_agent_listen")
    numbers = zip(agents, free_ports(len(agents)), strict=True)
    ports = {f"{agent}_port": number for agent, number in numbers}
    return {"num_cpus": cpus, "object_store_memory": 100 << 20, **ports}


def command(folder: Path, out: str, *more: str) -> list[str]:
    arguments = ["run", str(folder / "kill.yaml"), "--out", str(folder / out), "--shard-size", str(BATCH)]
    return [sys.executable, "-m", "harness", *arguments, *more]


def shards(run: Path) -> dict[str, int]:
    """Return shard → inode; a repeated shard would be a new file."""
    return {f"{path.parts[-3]}/{path.name}": path.stat().st_ino for path in run.glob("trials/*/*/0*.parquet")}


def figures(run: Path) -> list[tuple[str, str, str]]:
    trials = json.loads((run / "results.json").read_text())["trials"]
    return [(trial["id"], trial["status"], json.dumps(trial["metrics"])) for trial in trials]


def reached(moment: Moment, driver: subprocess.Popen[bytes], run: Path) -> bool:
    """Wait for a moment; return False if the driver ends before."""
    due: float | None = None
    while driver.poll() is None:
        if due is None and len(shards(run)) >= moment.shards:
            due = time.monotonic() + moment.delay
        if due is not None and time.monotonic() >= due:
            return True
        time.sleep(0.05)
    return False


def disturb_run(site: Site, number: int, seed: int, whole: Sequence[str]) -> list[str]:
    """Disturb a run, repeating its command until it is complete; return the victims that died."""
    random = np.random.default_rng([seed, number])
    moments = draw(random, len(whole), site.victims)
    server = site.server if any(moment.victim == "server" for moment in moments) else None
    run = site.folder / f"run{number}"
    variables = {**os.environ, "MLFLOW_TRACKING_URI": server.uri if server else ""}
    sync_or_not = [] if server else ["--no-sync"]
    run_command = command(site.folder, run.name, "--address", site.cluster.address, *sync_or_not)
    died: list[str] = []
    on_disk: dict[str, int] = {}
    for _ in range(20):
        driver_killed = False
        driver = subprocess.Popen(run_command, env=variables, start_new_session=True, **SILENT)
        while moments and reached(moments[0], driver, run):
            moment = moments.pop(0)
            if site.strike(moment.victim, driver, random):
                died.append(moment.victim)
                driver_killed = driver_killed or moment.victim == "driver"
        code = driver.wait(timeout=300)
        check_exit(code, driver_killed)
        before, on_disk = on_disk, shards(run)
        assert before.items() <= on_disk.items(), "a shard that was on disk was lost or repeated"
        if code == 0:
            break
    else:
        raise AssertionError("not complete within 20 attempts")
    assert sorted(on_disk) == sorted(whole), "shards lost or duplicated"
    if server:
        server.wait()
        check_logged(run, server.uri)
    return died


def check_exit(code: int, driver_killed: bool) -> None:
    """Check that an attempt fails only if its driver was killed (docs/cluster.md, docs/tracking.md)."""
    expected = -signal.SIGKILL if driver_killed else 0
    assert code == expected, f"an attempt ended with exit code {code}, not {expected}"


def check_logged(run: Path, uri: str) -> None:
    """Sync a run, and check that the tracking server holds every trial once, with its figures."""
    from mlflow.tracking import MlflowClient

    sync(run, uri)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("kill")
    document = json.loads((run / "results.json").read_text())
    query = f"tags.`harness.run_id` = '{document['run']['id']}'"
    logged = [run.data for run in client.search_runs([experiment.experiment_id], query)]
    trials = [data for data in logged if "harness.trial_id" in data.tags]
    logged_figures = {data.tags["harness.trial_id"]: data.metrics["acc/bleu"] for data in trials}
    expected = {trial["id"]: trial["metrics"]["bleu"]["value"] for trial in document["trials"]}
    assert len(logged) == len(expected) + 1, "runs lost or duplicated in MLflow"
    assert len(trials) == len(expected), "trials lost or duplicated in MLflow"
    assert logged_figures == expected, "other figures in MLflow"


def check_disturbed(died: Sequence[Sequence[str]], victims: Sequence[str]) -> None:
    """Check that enough runs were disturbed, and every victim killed, given the deaths of each run."""
    disturbed = sum(map(bool, died))
    assert disturbed >= MIN_DISTURBED * len(died), f"only {disturbed} of {len(died)} runs were disturbed"
    spared = set(victims) - {name for names in died for name in names}
    assert len(died) < ALL_VICTIMS_FROM_RUNS or not spared, f"never killed: {', '.join(sorted(spared))}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first run")
    parser.add_argument("--victims", nargs="+", choices=VICTIMS, default=list(VICTIMS))
    arguments = parser.parse_args()
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "60"  # a server on a busy machine may be slow
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
                died.append(disturb_run(site, number, arguments.seed, whole))
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
