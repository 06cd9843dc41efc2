"""Measure how far processes differ in speed if they are started afresh, or forked by one interpreter.

    python benchmarks/forked_processes.py [--interpreters 6]

Each interpreter forks four processes, and four more are started afresh; all run the same two pieces of work.
The output is Markdown: standard deviations of the 10th percentile of the times of a piece, as fractions.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from pathlib import Path

import numpy as np
import torch

from harness.scenarios.scenario import LOW
from harness.stages.child import Child

PROCESSES = 4  # of an interpreter
WARM, TIMED = 200, 1500  # repetitions of a piece of about 0.3 ms
SECONDS = 600.0
WORK = ("30 small layers of torch", "a Python loop over a dictionary")


def layers() -> None:
    layer, values = torch.nn.Linear(16, 16), torch.ones(4, 16)
    with torch.inference_mode():
        for _ in range(30):
            values = torch.relu(layer(values))


def loop() -> None:
    words = {f"w{number}": number for number in range(500)}
    for _ in range(4):
        sum(words[word] * 3 % 7 for word in words)
        sorted(words, key=lambda word: words[word] % 13)


def low_times() -> list[float]:
    """Return the low quantile of the times of each piece of work, in ns."""
    torch.set_num_threads(1)
    quantiles = []
    for work in (layers, loop):
        times = []
        for repetition in range(WARM + TIMED):
            start = time.perf_counter_ns()
            work()
            if repetition >= WARM:
                times.append(time.perf_counter_ns() - start)
        quantiles.append(float(np.quantile(times, LOW)))
    return quantiles


def forked() -> list[list[float]]:
    """Return `low_times` of processes that this interpreter's server forks."""
    this, rows = importlib.import_module("forked_processes"), []
    for _ in range(PROCESSES):
        with Child() as child:
            rows.append(child.call(this.low_times, seconds=SECONDS))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--interpreters", type=int, default=6)
    interpreters = parser.parse_args().interpreters
    sys.path.insert(0, str(Path(__file__).parent))  # children import these functions from this file
    this = importlib.import_module("forked_processes")
    fresh, families = [], []
    for _ in range(interpreters):
        with Child("spawn") as child:
            families.append(child.call(this.forked, seconds=SECONDS))
        for _ in range(PROCESSES):
            with Child("spawn") as child:
                fresh.append(child.call(this.low_times, seconds=SECONDS))
    spread = np.log(fresh).std(axis=0, ddof=1)
    logs = np.log(families)  # interpreter, process, work
    within = np.sqrt(logs.var(axis=1, ddof=1).mean(axis=0))
    between = np.median(logs, axis=1).std(axis=0, ddof=1)
    print("| work | started afresh | forked: processes of one interpreter | forked: between interpreters |")
    print("|---|---|---|---|")
    for number, work in enumerate(WORK):
        print(f"| {work} | {spread[number]:.1%} | {within[number]:.1%} | {between[number]:.1%} |")


if __name__ == "__main__":
    main()
