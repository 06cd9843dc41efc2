"""Randomised kill runs on a cluster of three nodes: workers, nodes and drivers die at seeded random times.

    python benchmarks/kill_runs.py [--runs 10] [--seed 0]

Every run goes on with the same command until it is complete. Then no shard is lost, none doubled, none that
was on disk made again, and the figures are those of an undisturbed run in one process.
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
from pathlib import Path

import numpy as np
import psutil
from ray.cluster_utils import Cluster

THIRD_PARTY = str(Path(__file__).parent.parent / "tests" / "thirdparty")
SAMPLES, BATCH = 240, 4
SUITE = f"""
name: kill
datasets:
  short: {{dataset: phrases, options: {{max_tokens: 8, size: {SAMPLES}}}}}
adapters:
  a: {{adapter: fake-translation, batch_size: {BATCH}, options: {{delay: 0.03}}}}
  b: {{adapter: fake-translation, batch_size: {BATCH}, options: {{delay: 0.03, drop: 2}}}}
benchmarks:
  phrases: {{dataset: short, adapters: [a, b], metrics: [bleu]}}
"""
SMALL = {"object_store_memory": 100 << 20}


def start_cluster() -> Cluster:
    head = {"num_cpus": 0, "include_dashboard": False, **SMALL}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        cluster.add_node(num_cpus=1, **SMALL)
    return cluster


def command(folder: Path, out: str, *more: str) -> list[str]:
    arguments = ["run", str(folder / "kill.yaml"), "--out", str(folder / out), "--no-sync"]
    return [sys.executable, "-m", "harness", *arguments, "--shard-size", str(BATCH), *more]


def shards(run: Path) -> dict[str, int]:
    """Shard → inode: one that is made again would be a new file."""
    return {f"{path.parts[-3]}/{path.name}": path.stat().st_ino for path in run.glob("trials/*/*/0*.parquet")}


def figures(run: Path) -> list[tuple[str, str, str]]:
    trials = json.loads((run / "results.json").read_text())["trials"]
    return [(trial["id"], trial["status"], json.dumps(trial["metrics"])) for trial in trials]


def kill_worker(cluster: Cluster, random: np.random.Generator) -> str:
    raylets = [node.all_processes["raylet"][0].process.pid for node in cluster.worker_nodes]
    workers = [
        child
        for raylet in raylets
        for child in psutil.Process(raylet).children(recursive=True)
        if child.name().startswith("ray::") and "IDLE" not in child.name()
    ]
    if not workers:
        return "nothing"
    workers[int(random.integers(len(workers)))].kill()
    return "worker"


def kill_node(cluster: Cluster, random: np.random.Generator) -> str:
    nodes = sorted(cluster.worker_nodes, key=lambda node: node.node_id)
    cluster.remove_node(nodes[int(random.integers(len(nodes)))], allow_graceful=False)
    cluster.add_node(num_cpus=1, **SMALL)
    return "node"


def one_run(cluster: Cluster, folder: Path, number: int, seed: int, happened: Counter[str]) -> Path:
    """Kill something one to three times, at random moments; restart the driver until it is done."""
    random = np.random.default_rng([seed, number])
    out = folder / f"run{number}"
    kills = int(random.integers(1, 4))
    kept: dict[str, int] = {}
    for _ in range(20):
        driver = subprocess.Popen(
            command(folder, out.name, "--address", cluster.address),
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while kills and driver.poll() is None:
            due = time.monotonic() + random.uniform(0, 12)
            while time.monotonic() < due and driver.poll() is None:
                time.sleep(0.05)
            if driver.poll() is not None:
                break
            kills -= 1
            what = str(random.choice(["worker", "worker", "node", "driver"]))
            if what == "driver":
                os.killpg(driver.pid, signal.SIGKILL)
                happened[what] += 1
                break
            happened[kill_worker(cluster, random) if what == "worker" else kill_node(cluster, random)] += 1
        code = driver.wait(timeout=300)
        now = shards(out)
        assert kept.items() <= now.items(), "a shard that was on disk is gone or was made again"
        kept = now
        if code == 0:
            return out
    raise AssertionError(f"run {number} did not end within 20 attempts")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [THIRD_PARTY, os.environ.get("PYTHONPATH")]))
    happened: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "kill.yaml").write_text(SUITE)
        subprocess.run(
            command(folder, "alone", "--executor", "inline"), check=True, stdout=subprocess.DEVNULL
        )
        expected, whole = figures(folder / "alone"), sorted(shards(folder / "alone"))
        cluster = start_cluster()
        try:
            for number in range(arguments.runs):
                run = one_run(cluster, folder, number, arguments.seed, happened)
                assert figures(run) == expected, f"run {number}: other figures"
                assert sorted(shards(run)) == whole, f"run {number}: shards lost or doubled"
                print(f"run {number}: complete", flush=True)
        finally:
            cluster.shutdown()
    killed = ", ".join(f"{count} × {what}" for what, count in sorted(happened.items()))
    print(f"{arguments.runs} runs complete, {len(whole)} shards each, same figures; killed: {killed}")


if __name__ == "__main__":
    main()
