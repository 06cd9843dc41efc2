"""Measure how often the gate on speed is right: simulated, and by `harness run --baseline-checkout` itself.

    python benchmarks/turns.py simulate       a minute
    python benchmarks/turns.py command        about an hour: 20 comparisons of equal versions, 20 of +5%

`command` clones this repository into a temporary folder and times two versions of `yolo` and `attention` in
turns: the committed one, and one whose `predict` then keeps the processor busy for a fixed share of the time
that it took. `faster` exchanges the two versions of +5%. The output is Markdown; a line per comparison goes
to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

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
  attention: {adapter: attention, checkpoint: attention-phrases-en-de, batch_size: 32}
  yolo: {adapter: yolo, checkpoint: yolo-scenes, batch_size: 16}
benchmarks:
  translation: {dataset: phrases-de, limit: 64, adapters: [attention], metrics: [bleu], speed: [offline]}
  detection:
    {dataset: scenes, task: detection, limit: 64, adapters: [yolo], metrics: [coco], speed: [offline]}
speed: {threads: 1}
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
    command.add_argument("--cases", nargs="+", choices=CASES, default=["equal", "+5%"])
    command.add_argument("--runs", type=int, default=10, help="per case; each compares both adapters")
    command.add_argument("--turn-seconds", type=float, default=600)
    options = parser.parse_args()
    if options.mode == "simulate":
        simulate(options.comparisons)
    else:
        run_commands(options.cases, options.runs, options.turn_seconds)


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


def run_commands(cases: list[str], runs: int, seconds: float) -> None:
    """Print the number of each verdict of the command, with pairs and seconds per comparison."""
    print("| case | adapter | " + " | ".join(VERDICTS) + " | largest difference | pairs | seconds |")
    print("|---" * 8 + "|")
    with tempfile.TemporaryDirectory() as temporary:
        clone = Path(temporary, "clone")
        git(Path(), "clone", "--quiet", str(ROOT), str(clone))
        git(clone, "config", "user.name", "benchmark")
        git(clone, "config", "user.email", "benchmark@localhost")
        start = git(clone, "rev-parse", "HEAD")
        shares = {share for case in cases for share in CASES[case]}
        revisions = {share: commit_version(clone, start, share) for share in shares}
        for case in cases:
            base, head = (revisions[share] for share in CASES[case])
            git(clone, "checkout", "--quiet", head)
            records: dict[str, list[dict[str, object]]] = {}
            for number in range(runs):
                for trial in run_once(clone, Path(temporary, head), base, seconds):
                    records.setdefault(trial["adapter"], []).append(trial["turns"]["offline"])
                    print(case, number, trial["adapter"], trial["turns"]["offline"], file=sys.stderr)
            for adapter, of_adapter in records.items():
                print(row(case, adapter, of_adapter))


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


def run_once(clone: Path, out: Path, base: str, seconds: float) -> list[dict[str, object]]:
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


def row(case: str, adapter: str, records: list[dict[str, object]]) -> str:
    counts = Counter(record["verdict"] for record in records)
    largest = max((abs(record["slowdown"]["value"]) for record in records if record["slowdown"]), default=0.0)
    cells = [case, adapter, *(str(counts[verdict]) for verdict in VERDICTS), f"{largest:.1%}"]
    cells += [
        f"{sum(record[name] for record in records) / len(records):.0f}" for name in ("pairs", "seconds")
    ]
    return f"| {' | '.join(cells)} |"


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
