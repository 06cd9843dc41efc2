"""Measure how often the gate on speed is right: simulated, and by `harness run --baseline-checkout` itself.

    python benchmarks/turns.py simulate                     a minute
    python benchmarks/turns.py command turns.json           20 comparisons of equal versions, about 20 minutes
    python benchmarks/turns.py command turns.json --cases +5% --turn-seconds 300

`command` clones this repository into a temporary folder and times two versions of `yolo` and `attention` in
turns: the committed one, and one whose `predict` then keeps the processor busy for a fixed share of the time
that it took. `faster` exchanges the two versions of +5%. The output is Markdown. Every comparison is in the
file once it is judged; the next call continues there, also after Ctrl-C. A round of pairs takes about 10 s,
and a comparison of two needs ten pairs for a regression, so less than 110 seconds decide nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from harness.compare.sequential import LOOKS, judge_pairs

ROOT = Path(__file__).parent.parent
SLOW_SHARE, SLOW = 0.06, 1.12  # of processes, and by how much for life; as found on a shared machine
LIMIT = 0.05
SLOWDOWNS = {"5% faster": -0.05, "equal": 0.0, "2.5% slower": 0.025, "5% slower": 0.05, "10% slower": 0.1}
VERDICTS = ("regression", "inconclusive", "pass")
ADAPTERS = {
    "yolo": "adapters/detection/yolo.py:Yolo",
    "attention": "adapters/translation/attention.py:Attention",
}
CASES = {"equal": (0.0, 0.0), "+5%": (0.0, 0.05), "+10%": (0.0, 0.10), "faster": (0.05, 0.0)}
"""Shares of extra time of the baseline and of the present version."""
SUITE = """
name: turns
datasets: {phrases-de: {dataset: phrases, options: {language: de}}}
adapters:
  attention: {adapter: attention, checkpoint: attention-phrases-en-de, batch_size: 8}
  yolo: {adapter: yolo, checkpoint: yolo-scenes, batch_size: 1}
benchmarks:
  translation: {dataset: phrases-de, limit: 16, adapters: [attention], metrics: [bleu], speed: [offline]}
  detection:
    {dataset: scenes, task: detection, limit: 16, adapters: [yolo], metrics: [coco], speed: [offline]}
speed: {threads: 1, samples: 16}
"""
SLOWER = """

def _slower(self, samples, _predict=CLASS.predict):
    import time

    start = time.perf_counter_ns()
    predictions = _predict(self, samples)
    end = time.perf_counter_ns()
    while time.perf_counter_ns() < end + SHARE * (end - start):
        pass
    return predictions


CLASS.predict = _slower
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    modes = parser.add_subparsers(dest="mode", required=True)
    simulation = modes.add_parser("simulate")
    simulation.add_argument("--comparisons", type=int, default=2000, help="per cell")
    command = modes.add_parser("command")
    command.add_argument("file", type=Path, help="JSON file of the comparisons, which is extended")
    command.add_argument("--cases", nargs="+", choices=CASES, default=["equal"])
    command.add_argument("--runs", type=int, default=10, help="per case; each compares both adapters")
    command.add_argument("--turn-seconds", type=float, default=110)
    command.add_argument("--minutes", type=float, default=60, help="after which no further run starts")
    options = parser.parse_args()
    if options.mode == "simulate":
        simulate(options.comparisons)
        return
    records = json.loads(options.file.read_text()) if options.file.exists() else []
    end = time.monotonic() + 60 * options.minutes
    with contextlib.suppress(KeyboardInterrupt):
        run_commands(options, records, end)
    print_table(records)


def simulate(comparisons: int) -> None:
    """Print the share of each verdict and the mean number of pairs."""
    print("| sd of a pair | comparisons judged together | true | " + " | ".join(VERDICTS) + " | pairs |")
    print("|---" * 7 + "|")
    for spread in (0.005, 0.01, 0.02):
        for family in (1, 16):
            for name, slowdown in SLOWDOWNS.items():
                generator = np.random.default_rng(0)
                counts: Counter[str] = Counter()
                pairs = 0
                for _ in range(comparisons):
                    verdict, used = simulate_one(generator, spread, slowdown, family)
                    counts[verdict] += 1
                    pairs += used
                shares = " | ".join(f"{counts[verdict] / comparisons:.1%}" for verdict in VERDICTS)
                print(f"| {spread:.1%} | {family} | {name} | {shares} | {pairs / comparisons:.1f} |")


def simulate_one(
    generator: np.random.Generator, spread: float, slowdown: float, family: int
) -> tuple[str, int]:
    """Return the verdict on one comparison and the number of its pairs."""
    size = max(LOOKS)
    slow = generator.random((2, size)) < SLOW_SHARE
    noise = generator.normal(0, spread, size) + np.log(SLOW) * (slow[1].astype(float) - slow[0])
    differences = (np.log1p(slowdown) + noise).tolist()
    for pairs in LOOKS:
        judgement = judge_pairs(differences[:pairs], LIMIT, family, 0.0)
        if judgement is not None:
            return judgement.verdict, pairs
    raise AssertionError("the last look decides")


def run_commands(options: argparse.Namespace, records: list[dict[str, Any]], end: float) -> None:
    """Make the runs that the records lack; keep each comparison in the file."""
    with tempfile.TemporaryDirectory() as temporary:
        clone = Path(temporary, "clone")
        git(Path(), "clone", "--quiet", str(ROOT), str(clone))
        git(clone, "config", "user.name", "benchmark")
        git(clone, "config", "user.email", "benchmark@localhost")
        start = git(clone, "rev-parse", "HEAD")
        shares = {share for case in options.cases for share in CASES[case]}
        revisions = {share: commit_version(clone, start, share) for share in shares}
        for case in options.cases:
            base, head = (revisions[share] for share in CASES[case])
            git(clone, "checkout", "--quiet", head)
            done = sum(record["case"] == case for record in records) // len(ADAPTERS)
            for number in range(done, options.runs):
                if time.monotonic() > end:
                    return
                for trial in run_once(clone, Path(temporary, head), base, options.turn_seconds):
                    record = {"case": case, "adapter": trial["adapter"], **trial["turns"]["offline"]}
                    records.append(record)
                    print(f"run {number + 1}/{options.runs}", record, file=sys.stderr, flush=True)
                options.file.write_text(json.dumps(records, indent=1))


def print_table(records: list[dict[str, Any]]) -> None:
    """Print the number of each verdict, with pairs and seconds per comparison."""
    columns = "detectable, at best | largest difference | pairs | seconds |"
    print("| case | adapter | " + " | ".join(VERDICTS) + f" | {columns}")
    print("|---" * 9 + "|")
    for case, adapter in dict.fromkeys((record["case"], record["adapter"]) for record in records):
        chosen = [record for record in records if (record["case"], record["adapter"]) == (case, adapter)]
        counts = Counter(record["verdict"] for record in chosen)
        found = [abs(record["slowdown"]["value"]) for record in chosen if record["slowdown"]]
        seen = [record["detectable"] for record in chosen if record["detectable"]]
        cells = [case, adapter, *(str(counts[verdict]) for verdict in VERDICTS)]
        cells += [f"{min(seen, default=float('nan')):.1%}", f"{max(found, default=0.0):.1%}"]
        cells += [
            f"{sum(record[name] for record in chosen) / len(chosen):.0f}" for name in ("pairs", "seconds")
        ]
        print(f"| {' | '.join(cells)} |")


def commit_version(clone: Path, start: str, share: float) -> str:
    """Commit the suite and adapters that take a share of extra time; return the revision."""
    git(clone, "checkout", "--quiet", start)
    (clone / "turns.yaml").write_text(SUITE)
    for place in ADAPTERS.values() if share else ():
        file, _, name = place.partition(":")
        with (clone / file).open("a") as stream:
            stream.write(SLOWER.replace("CLASS", name).replace("SHARE", str(share)))
    git(clone, "add", "--all")
    git(clone, "commit", "--quiet", "--message", f"{share:.0%}")
    return git(clone, "rev-parse", "HEAD")


def run_once(clone: Path, out: Path, base: str, seconds: float) -> list[dict[str, Any]]:
    """Run the suite of the clone against a revision; return the trials of results.json."""
    options = ["--executor", "inline", "--no-sync", "--out", out, "--turn-seconds", seconds, "--json"]
    command = [
        sys.executable,
        "-P",
        "-m",
        "harness",
        "run",
        "turns.yaml",
        *options,
        "--baseline-checkout",
        base,
    ]
    done = subprocess.run(
        list(map(str, command)),
        cwd=clone,
        env=os.environ | {"PYTHONPATH": str(clone)},
        capture_output=True,
        check=False,
        text=True,
    )
    if done.returncode not in (0, 1):
        sys.exit(f"harness run ended with {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout)["trials"]


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
