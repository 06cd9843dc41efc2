"""Measure how far processes of one model differ in speed for life, and what the difference follows from.

    python benchmarks/process_speed.py [yolo|fcn-8s|attention-phrases] [--minutes 5.5]

Batches of live processes, two of each kind, take turns of 0.1 s on either core in random order. A process has
the 10th percentile of its passes on each core. The output is Markdown: for each kind, the standard deviation
between processes on the same core (of the logarithm, relative to the mean of their batch), the page faults of
a pass and their correlation with time. Below it, how much slower one core is than the other.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

KEEP = {"MALLOC_TRIM_THRESHOLD_": "1000000000", "MALLOC_MMAP_THRESHOLD_": "1000000000"}
KINDS: dict[str, tuple[list[str], dict[str, str]]] = {
    "as usual": ([], {}),
    "fixed addresses and hashes": (["setarch", "-R"], {"PYTHONHASHSEED": "0"}),
    "freed memory is kept": ([], KEEP),
    "huge pages": ([], {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", "THP_MEM_ALLOC_ENABLE": "1"}),
}
EACH = 2  # processes of a kind per batch
TURNS, TURN_SECONDS = 5, 0.1  # on each core
LOW = 0.1


def serve(model: str) -> None:
    """Load a model; then, for each core number that is read, time passes there and print them."""
    import resource

    import torch

    from harness.scenarios.settings import SpeedSettings
    from harness.stages.measure import load_bench
    from harness.suite.loading import load_suite
    from harness.suite.plan import plan

    torch.set_num_threads(1)
    loaded = load_suite(Path(__file__).parent.parent / "suites/quickstart.yaml")
    entries = {name: b for name, b in loaded.suite.benchmarks.items() if model in b.adapters}
    loaded.suite = loaded.suite.model_copy(update={"benchmarks": entries})
    trial = plan(loaded, limit=16).trials[0]
    settings = SpeedSettings(profile="ci", threads=1, samples=8, exclusive="node")
    bench = load_bench(trial, settings)

    def run_pass() -> None:
        for sample in bench.samples[:8]:
            bench.adapter.predict([sample])

    for _ in range(10):
        run_pass()
    print("ready", flush=True)
    for line in sys.stdin:
        os.sched_setaffinity(0, {int(line)})
        run_pass()  # fills the caches of the core
        seconds, faults = [], resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        end = time.perf_counter() + TURN_SECONDS
        while time.perf_counter() < end or len(seconds) < 3:
            start = time.perf_counter()
            run_pass()
            seconds.append(time.perf_counter() - start)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        print(json.dumps([seconds, faults / len(seconds)]), flush=True)


class Process:
    """A process of one kind, and its passes so far by core."""

    def __init__(self, kind: str, model: str) -> None:
        prefix, variables = KINDS[kind]
        self.kind = kind
        self.passes: dict[int, list[float]] = {}
        self.faults: list[float] = []
        self._process = subprocess.Popen(
            [*prefix, sys.executable, __file__, model, "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | variables,
        )

    def read(self) -> str:
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            sys.exit(f"a process died: {self.kind}")
        return line

    def take_turn(self, core: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{core}\n")
        self._process.stdin.flush()
        seconds, faults = json.loads(self.read())
        self.passes.setdefault(core, []).extend(seconds)
        self.faults.append(faults)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def run_batch(kinds: list[str], model: str, cores: list[int]) -> list[Process]:
    """Start processes of each kind, and let them take turns."""
    processes = [Process(kind, model) for kind in kinds * EACH]
    try:
        for process in processes:
            while process.read() != "ready\n":
                pass
        for _ in range(TURNS):
            for core in random.sample(cores, len(cores)):
                for process in random.sample(processes, len(processes)):
                    process.take_turn(core)
    finally:
        for process in processes:
            process.end()
    return processes


def print_table(batches: list[list[Process]], cores: list[int]) -> None:
    rows: dict[str, list[tuple[list[float], float]]] = {}
    differences = []
    for batch in batches:
        logs = np.log([[np.quantile(process.passes[core], LOW) for core in cores] for process in batch])
        differences.append((logs[:, -1] - logs[:, 0]).mean())
        for process, row in zip(batch, logs - logs.mean(axis=0), strict=True):
            rows.setdefault(process.kind, []).append((row.tolist(), float(np.median(process.faults))))
    print(
        "| kind | processes | between processes | between cores of a process | mean | faults | correlation |"
    )
    print("|---" * 7 + "|")
    for kind, values in rows.items():
        times, faults = np.array([row for row, _ in values]), np.array([count for _, count in values])
        mean = times.mean(axis=1)
        noise = (times[:, -1] - times[:, 0]).std(ddof=1) / np.sqrt(2)
        correlation = np.corrcoef(mean, faults)[0, 1] if faults.std() and len(mean) > 2 else float("nan")
        print(
            f"| {kind} | {len(mean)} | {mean.std(ddof=1):.2%} | {noise:.2%} | {mean.mean():+.2%} "
            f"| {np.median(faults):.0f} | {correlation:+.2f} |"
        )
    print(f"core {cores[-1]} / core {cores[0]}: {np.mean(differences):+.2%}, sd {np.std(differences):.2%}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="yolo", help="adapter entry of the suite quickstart")
    parser.add_argument("--minutes", type=float, default=5.5)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.model)
        return
    kinds = [kind for kind, (prefix, _) in KINDS.items() if not prefix or shutil.which(prefix[0])]
    cores = sorted(os.sched_getaffinity(0))[:2]
    start, batches = time.monotonic(), list[list[Process]]()
    while not batches or (time.monotonic() - start) * (1 + 1 / len(batches)) < 60 * options.minutes:
        batches.append(run_batch(kinds, options.model, cores))
        print(f"batch {len(batches)}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
        print_table(batches, cores)


if __name__ == "__main__":
    main()
