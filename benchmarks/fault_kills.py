"""Processes killed in mid-prediction on a cluster of three nodes, each kill shown to have hit there.

A run is struck only while some of its shards are on disk and another one is being predicted, according to
the title of a worker's process. After the last strike its command is repeated until the run is complete.

worker, child   the actor that has a shard; the process in which the adapter of such an actor runs
raylet          the raylet of a node whose worker has a shard
driver          the process group of `harness run`: exit code -9, then 0
gcs             the store of the head: exit code 3, then 0 after a restart of the cluster
own raylet      the raylet that the driver is connected to: the same

A strike is noticed if a shard that it hit was begun again later, according to its record, or if the driver
ended with the exit code above. One that hit nothing, because the shard's answer had just been sent, is
counted as missed.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from pathlib import Path

import numpy as np
import psutil
from kill_site import WORKING, Site, raylet_of, title

from harness.rundir.results import read_results
from harness.rundir.store import RunDirectory

SAMPLES, BATCH, DELAY = 240, 4, 0.1  # 0.4 s per shard, 120 shards: 48 s for one worker
SUITE = f"""
name: kills
datasets:
  short: {{dataset: phrases, options: {{max_tokens: 8, size: {SAMPLES}}}}}
adapters:
  a: {{adapter: fake-translation, batch_size: {BATCH}, options: {{delay: DELAY}}}}
  b: {{adapter: fake-translation, batch_size: {BATCH}, options: {{delay: DELAY, drop: 2}}}}
benchmarks:
  phrases: {{dataset: short, adapters: [a, b], metrics: [bleu, chrf]}}
"""
ENDINGS = {"driver": -signal.SIGKILL, "gcs": 3, "own raylet": 3}  # victim → exit code of the driver
VICTIMS = ("worker", "child", "raylet", *ENDINGS)
HEAD = ("gcs", "own raylet")  # the driver has to miss them for 30 s of predictions
STRIKES = 6  # per run before its end, or one if the head is killed
SHARDS_BETWEEN = 15  # strikes; few, so that the driver still predicts 30 s after the head died
MAX_REPETITIONS = 3
_TASK = re.compile(rf"{WORKING}(\w+) (\d+)–(\d+)")  # as harness/executors/ray/prediction.py
Shard = tuple[str, int, int]
"""Variant and range of samples."""


@dataclass(frozen=True)
class Strike:
    """A kill, and the shards that were in progress there."""

    victim: str
    at: float  # seconds since 1970
    shards: frozenset[Shard]
    on_disk: int  # number of the run's shards


@dataclass
class StruckRun:
    """A run directory, its command, and what became of it."""

    folder: Path
    command: list[str]
    strikes: list[Strike] = field(default_factory=list)
    ended_otherwise: list[str] = field(default_factory=list)
    snapshots: list[dict[str, int]] = field(default_factory=list)

    def files(self) -> dict[str, int]:
        """Return the file of each shard → inode; a shard that is predicted again is a new file."""
        paths = self.folder.glob("trials/*/predictions/0*.parquet")
        return {f"{path.parts[-3]}/{path.name}": path.stat().st_ino for path in paths}


def kill_in_mid_prediction(folder: Path, tries: int, seed: int, victims: Sequence[str]) -> Counter[str]:
    """Strike runs until so many strikes have hit, and count how they ended.

    Returns:
        Outcome → strikes: tried, noticed, mended; missed. Outcome → shards: lost, doubled. Outcome → runs:
        figures changed, other exit code.
    """
    names = ("tried", "noticed", "mended", "lost", "doubled", "missed", "figures changed", "other exit code")
    outcomes, struck = Counter(dict.fromkeys(names, 0)), Counter[str]()
    suite, quick = folder / "kills.yaml", folder / "quick.yaml"
    suite.write_text(SUITE.replace("DELAY", str(DELAY)))
    quick.write_text(SUITE.replace("DELAY", "0"))
    alone = [*command(quick, folder / "alone"), "--executor", "inline"]
    subprocess.run(alone, check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    expected = figures(folder / "alone")
    site = Site()
    try:
        for number in count():
            if outcomes["noticed"] >= tries:
                break
            random = np.random.default_rng([seed, number])
            folder_of_run = folder / f"run{number}"
            struck_run = StruckRun(folder_of_run, command(suite, folder_of_run))
            disturb(struck_run, site, plan(random, victims, number), random)
            judged = judge(struck_run, expected)
            outcomes.update(judged)
            struck.update(strike.victim for strike in struck_run.strikes)
            moments = ", ".join(f"{strike.victim} at {strike.on_disk}" for strike in struck_run.strikes)
            what = ", ".join([f"{name} {judged[name]}" for name in judged] + struck_run.ended_otherwise)
            print(f"run {number}: {moments} of {2 * SAMPLES // BATCH} shards: {what}", flush=True)
    finally:
        site.close()
    print(", ".join(f"{number} × {victim}" for victim, number in sorted(struck.items())))
    return outcomes


def command(suite: Path, out: Path) -> list[str]:
    options = ["--out", str(out), "--shard-size", str(BATCH), "--no-sync"]
    return [sys.executable, "-m", "harness", "run", str(suite), *options]


def figures(run: Path) -> object:
    """Return the status and the accuracy figures of each trial, to the last digit."""
    return {
        trial.variant: (trial.status, {name: repr(figure) for name, figure in trial.metrics.items()})
        for trial in read_results(run).trials
    }


def plan(random: np.random.Generator, victims: Sequence[str], number: int) -> list[str]:
    """Draw the victims of a run: some that it survives, and one that ends its driver."""
    endings = [victim for victim in victims if victim in ENDINGS]
    survivable = [victim for victim in victims if victim not in ENDINGS]
    last = [endings[number % len(endings)]] if endings else []
    strikes = 1 if last and last[0] in HEAD else STRIKES
    return [*(str(random.choice(survivable)) for _ in range(strikes if survivable else 0)), *last]


def disturb(run: StruckRun, site: Site, victims: Sequence[str], random: np.random.Generator) -> None:
    """Strike a run while its driver predicts, and repeat its command until it is complete."""
    joining = ["--address", site.cluster.address]
    if victims[-1] in HEAD:
        joining += ["--workers", "1"]
    log = (run.folder.parent / f"{run.folder.name}.log").open("w")
    driver = subprocess.Popen([*run.command, *joining], stderr=log, stdout=log, start_new_session=True)
    for index, victim in enumerate(victims):
        least = index * SHARDS_BETWEEN + int(random.integers(1, SHARDS_BETWEEN + 1))
        strike = strike_at(run, site, victim, driver, least, random)
        if strike is None:  # the run was complete before
            break
        run.strikes.append(strike)
    last = run.strikes[-1].victim if run.strikes else ""
    code, expected = driver.wait(600), ENDINGS.get(last, 0)
    if code != expected:
        run.ended_otherwise.append(f"exit code {code} in place of {expected}")
    if last in HEAD:
        site.restart()
    for _ in range(MAX_REPETITIONS if code else 0):
        run.snapshots.append(run.files())
        address = ["--address", site.cluster.address]
        code = subprocess.run([*run.command, *address], stderr=log, stdout=log, check=False).returncode
        if code == 0:
            break
        run.ended_otherwise.append(f"exit code {code} of a repeated command")
    log.close()


def strike_at(
    run: StruckRun,
    site: Site,
    victim: str,
    driver: subprocess.Popen[bytes],
    least: int,
    random: np.random.Generator,
) -> Strike | None:
    """Kill a victim once so many shards are on disk and another is in progress; None if the driver ends."""
    while driver.poll() is None:
        nodes = sorted(site.cluster.worker_nodes, key=lambda node: node.node_id)
        node = nodes[int(random.integers(len(nodes)))]
        everywhere = victim in ENDINGS
        workers = site.workers((WORKING,), None if everywhere else node)
        shards = frozenset(shard for worker in workers if (shard := shard_of(worker)))
        targets = adapters_of(workers) if victim == "child" else workers
        if len(run.files()) < least or not shards or not targets:
            time.sleep(0.02)
            continue
        now = time.time()
        if victim == "driver":
            os.killpg(driver.pid, signal.SIGKILL)
            driver.wait()
        elif victim in HEAD:
            head = site.cluster.head_node
            head.kill_gcs_server() if victim == "gcs" else head.kill_raylet()
        else:
            target = raylet_of(node) if victim == "raylet" else targets[0]
            target.kill()
            psutil.wait_procs([target], timeout=10)
        run.snapshots.append(run.files())
        strike = Strike(victim, now, shards, len(run.snapshots[-1]))
        if victim == "raylet":
            site.replace_node(node)
        return strike
    return None


def adapters_of(workers: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Return the processes in which the workers' adapters run: a server of each worker forks them."""
    servers = [server for worker in workers for server in worker.children()]
    return [child for server in servers for child in server.children()]


def shard_of(worker: psutil.Process) -> Shard | None:
    """Return the shard that a worker is predicting, as its title says."""
    match = _TASK.match(title(worker))
    return (match[1], int(match[2]), int(match[3])) if match else None


def judge(run: StruckRun, expected: object) -> Mapping[str, int]:
    """Return the outcomes of a run that was struck and repeated, as `kill_in_mid_prediction` counts them."""
    begun: dict[Shard, float] = {}
    for trial in read_results(run.folder).trials:
        records = RunDirectory(run.folder).trial(trial.id).predictions.provenance()
        for (start, stop), record in records.items():
            assert record.started is not None
            begun[trial.variant, start, stop] = datetime.fromisoformat(record.started).timestamp()
    whole = {(name, start, start + BATCH) for name in ("a", "b") for start in range(0, SAMPLES, BATCH)}
    again = [any(begun.get(shard, 0) > strike.at for shard in strike.shards) for strike in run.strikes]
    noticed = [
        hit or (strike.victim in HEAD and not run.ended_otherwise)
        for hit, strike in zip(again, run.strikes, strict=True)
    ]
    final = run.files().items()
    repeated = {
        file for files in run.snapshots for file, inode in files.items() if (file, inode) not in final
    }
    lost, doubled = len(whole - begun.keys()), len(begun.keys() - whole) + len(repeated)
    sound = not (lost or doubled) and figures(run.folder) == expected
    return {
        "tried": len(noticed),
        "noticed": sum(noticed),
        "mended": sum(noticed) if sound else 0,
        "missed": len(noticed) - sum(noticed),
        "lost": lost,
        "doubled": doubled,
        "figures changed": int(figures(run.folder) != expected),
        "other exit code": int(bool(run.ended_otherwise)),
    }
