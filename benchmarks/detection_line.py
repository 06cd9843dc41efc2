"""Measure what each step from R-CNN to single-shot detectors saves; print Markdown.

    python benchmarks/detection_line.py [--scenes 60] [--threads 1]

All shipped models predict each image in turn, so that other load on the machine affects all of them. Times
are CPU times of the process with one thread, else wall-clock times. All figures are medians over images.
The speed-up is the median over images of the previous row's time divided by this row's, with its
distribution-free 95% interval.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict

import numpy as np
import torch
from interleaved import median_interval

from harness.adapter import ADAPTERS, Adapter, Runtime
from harness.checkpoint import load
from harness.datasets.scenes.scenes import Scenes, ScenesOptions
from harness.recipe import resolve_checkpoint
from harness.task import Sample

LINE = (
    ("rcnn", {}),
    ("fast-rcnn", {}),
    ("faster-rcnn", {}),
    ("ssd", {}),
    ("yolo", {}),
    ("rcnn", {"cached_regions": True}),
    ("fast-rcnn", {"cached_regions": True}),
)
BEFORE = {1: 0, 2: 1, 3: 2, 4: 3, 6: 5}  # row → the row that it is compared with
Phases = tuple[float, float, float]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.threads == 1 else time.perf_counter
    scenes = Scenes(ScenesOptions(size=options.scenes), "test", "detection")
    adapters = [shipped(name, chosen) for name, chosen in LINE]
    phases_by_row: dict[int, list[Phases]] = defaultdict(list)
    for place in range(len(scenes)):
        sample = [Sample(scenes[place].id, scenes[place].input)]
        for adapter in adapters:
            adapter.predict(sample)  # caches its regions on disk and its code in memory
        for row in np.random.default_rng(place).permutation(len(adapters)):
            phases_by_row[row].append(phases(adapters[row], sample, clock))
    print("| model | preprocess, ms | network | postprocess | all | times faster than | |")
    print("|---|---|---|---|---|---|---|")
    for row, (name, chosen) in enumerate(LINE):
        spent = np.array(phases_by_row[row]) * 1e3
        columns = [f"{value:.1f}" for value in [*np.median(spent, axis=0), np.median(spent.sum(axis=1))]]
        print(f"| {label(name, chosen)} | {' | '.join(columns)} | {against(row, phases_by_row)} |")


def shipped(name: str, options: dict[str, bool]) -> Adapter:
    cls = ADAPTERS.get(name)
    adapter = cls(cls.Options(**options), Runtime())
    adapter.load(load(resolve_checkpoint(f"{name}-scenes", name, None).weights))
    return adapter


def phases(adapter: Adapter, sample: list[Sample], clock) -> Phases:
    """Return seconds of preprocessing (including the search for regions), network and postprocessing."""
    times = [clock()]
    batch = adapter.preprocess(sample)
    times.append(clock())
    raw = adapter.forward(batch)
    times.append(clock())
    adapter.postprocess(raw, batch)
    times.append(clock())
    first, second, third = np.diff(times).tolist()
    return first, second, third


def label(name: str, options: dict[str, bool]) -> str:
    return f"`{name}`, regions known" if options else f"`{name}`"


def against(row: int, taken: dict[int, list[Phases]]) -> str:
    if row not in BEFORE:
        return " | "
    before, this = (np.array(taken[k]).sum(axis=1) for k in (BEFORE[row], row))
    interval = median_interval((before / this).tolist())
    return "{} | {:.2f} [{:.2f}, {:.2f}]".format(label(*LINE[BEFORE[row]]), *interval)


if __name__ == "__main__":
    main()
