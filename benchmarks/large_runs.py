"""Measure whether time and memory of a run grow in proportion to its trials and to its samples.

    python benchmarks/large_runs.py [--trials 100 1000] [--samples 20000 200000]

A trial is a file of stored translations of a parallel text. `--trials` gives the numbers of trials of one
suite, of 20 samples each; `--samples` the sizes of a single trial. Every run is `harness run --executor
inline --no-sync`, from the start of the process to the end of its report. Memory is the peak of the largest
process so far. The output is Markdown.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

WORDS = np.array([f"word{i}" for i in range(2000)])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, nargs="*", default=[100, 1000])
    parser.add_argument("--samples", type=int, nargs="*", default=[20_000, 200_000])
    options = parser.parse_args()
    print("| trials | samples per trial | wall s | CPU s | peak MiB |\n|---|---|---|---|---|", flush=True)
    for trials in options.trials:
        report(trials, 20)
    for samples in options.samples:
        report(1, samples)


def report(trials: int, samples: int) -> None:
    """Run a suite of this size in a folder of its own and print its row."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_suite(folder, trials, samples)
        command = [sys.executable, "-m", "harness", "run", "suite.yaml", "--executor", "inline", "--no-sync"]
        start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"| {trials:,} | {samples:,} | {wall:.0f} | {cpu:.0f} | {after.ru_maxrss >> 10} |", flush=True)


def write_suite(folder: Path, trials: int, samples: int) -> None:
    """Write references, one file of hypotheses per trial, and the suite."""
    generator = np.random.default_rng(0)
    references = [" ".join(generator.choice(WORDS, 12)) for _ in range(samples)]
    for side in ("en", "de"):
        (folder / f"test.{side}").write_text("\n".join(references) + "\n", encoding="utf-8")
    names = [f"system-{index}" for index in range(trials)]
    for name in names:
        wrong = generator.integers(0, 12, samples)
        lines = [
            " ".join(word if place != position else "wrong" for place, word in enumerate(line.split()))
            for line, position in zip(references, wrong, strict=True)
        ]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    suite = {
        "name": "large",
        "datasets": {
            "text": {
                "dataset": "parallel-text",
                "options": {
                    "directory": str(folder),
                    "source": "{split}.en",
                    "references": ["{split}.de"],
                },
            }
        },
        "adapters": {name: {"adapter": "predictions", "options": {"file": f"{name}.txt"}} for name in names},
        "benchmarks": {
            f"part-{first // 50}": {
                "dataset": "text",
                "adapters": names[first : first + 50],
                "metrics": ["bleu"],
            }
            for first in range(0, trials, 50)
        },
    }
    (folder / "suite.yaml").write_text(yaml.safe_dump(suite, sort_keys=False), encoding="utf-8")


if __name__ == "__main__":
    main()
