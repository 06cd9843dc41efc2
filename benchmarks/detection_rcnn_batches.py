"""What it saves to score R-CNN's regions in batches: the shipped network on regions of one picture at a time.

    python benchmarks/detection_rcnn_batches.py [--scenes 30] [--threads 1]

Each picture's regions are warped and seen 1, 16, 64 and 256 at a time, in random order. Times are of the
process's CPU where there is one thread, else of the wall clock. Medians over pictures; times faster is
the median over pictures of the time one by one, divided by this one, with its distribution-free 95% interval.
The search for regions is not timed.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from interleaved import median_interval

from adapters.detection import rcnn
from harness.adapter import Runtime
from harness.checkpoint import load
from harness.datasets.scenes.scenes import Scenes, ScenesOptions
from harness.recipe import resolve_checkpoint
from harness.task import Sample

SIZES = (1, 16, 64, 256)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.threads == 1 else time.perf_counter
    adapter = rcnn.Rcnn(rcnn.Rcnn.Options(), Runtime())
    adapter.load(load(resolve_checkpoint("rcnn-scenes", "rcnn", None).weights))
    scenes = Scenes(ScenesOptions(size=options.scenes), "test", "detection")
    taken = np.zeros((len(scenes), len(SIZES)))
    regions = []
    for place in range(len(scenes)):
        batch = adapter.preprocess([Sample(scenes[place].id, scenes[place].input)])
        regions.append(len(batch[0].regions[0]))
        expected = adapter.forward(batch)[0].logits
        for column in np.random.default_rng(place).permutation(len(SIZES)):
            rcnn.CHUNK = SIZES[column]
            start = clock()
            (found,) = adapter.forward(batch)
            taken[place, column] = clock() - start
            torch.testing.assert_close(found.logits, expected, atol=1e-3, rtol=1e-3)
    print(f"{np.mean(regions):.0f} regions a picture (at most {max(regions)}), {options.threads} thread(s)")
    print("| regions at a time | ms a picture | times faster than one by one |")
    print("|---|---|---|")
    for column, size in enumerate(SIZES):
        ratio, low, high = median_interval((taken[:, 0] / taken[:, column]).tolist())
        print(f"| {size} | {np.median(taken[:, column]) * 1e3:.1f} | {ratio:.2f} [{low:.2f}, {high:.2f}] |")


if __name__ == "__main__":
    main()
