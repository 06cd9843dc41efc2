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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from kill_site import Site
from tracking_server import TrackingServer

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
SILENT = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
VICTIMS = {"worker": 0.3, "node": 0.2, "driver": 0.3, "server": 0.2}  # victim → probability
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


def disturb_run(
    site: Site, folder: Path, number: int, seed: int, whole: Sequence[str], victims: Sequence[str]
) -> list[str]:
    """Disturb a run, repeating its command until it is complete; return the victims that died."""
    random = np.random.default_rng([seed, number])
    moments = draw(random, len(whole), victims)
    server = site.server if any(moment.victim == "server" for moment in moments) else None
    run = folder / f"run{number}"
    variables = {**os.environ, "MLFLOW_TRACKING_URI": server.uri if server else ""}
    sync_or_not = [] if server else ["--no-sync"]
    run_command = command(folder, run.name, "--address", site.cluster.address, *sync_or_not)
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
        site = Site(TrackingServer(folder) if "server" in arguments.victims else None)
        try:
            if site.server:
                site.server.wait()
            for number in range(arguments.first, arguments.first + arguments.runs):
                started = time.monotonic()
                died.append(disturb_run(site, folder, number, arguments.seed, whole, arguments.victims))
                assert figures(folder / f"run{number}") == expected, f"run {number}: other figures"
                what = f"killed: {', '.join(died[-1])}" if died[-1] else "undisturbed"
                print(f"run {number}: complete after {time.monotonic() - started:.0f} s; {what}", flush=True)
        finally:
            site.close()
    check_disturbed(died, arguments.victims)
    counts = Counter(name for names in died for name in names)
    killed = ", ".join(f"{count} × {what}" for what, count in sorted(counts.items()))
    print(f"{len(died)} runs complete, {len(whole)} shards each, same figures; killed: {killed}")


if __name__ == "__main__":
    main()
