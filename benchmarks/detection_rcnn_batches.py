"""Measure what scoring R-CNN's regions in batches saves, with the shipped network on one image at a time.

    python benchmarks/detection_rcnn_batches.py [--scenes 30] [--threads 1]

The regions of each image are warped and scored 1, 16, 64 and 256 at a time, in random order. Times are CPU
times of the process with one thread, else wall-clock times. All figures are medians over images. The speed-up
is the median over images of the time one by one divided by this time, with its distribution-free 95%
interval. The search for regions is not timed.
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
    seconds = np.zeros((len(scenes), len(SIZES)))
    regions = []
    for place in range(len(scenes)):
        batch = adapter.preprocess([Sample(scenes[place].id, scenes[place].input)])
        regions.append(len(batch[0].regions[0]))
        expected = adapter.forward(batch)[0].logits
        for column in np.random.default_rng(place).permutation(len(SIZES)):
            rcnn.CHUNK = SIZES[column]
            start = clock()
            (outputs,) = adapter.forward(batch)
            seconds[place, column] = clock() - start
            torch.testing.assert_close(outputs.logits, expected, atol=1e-3, rtol=1e-3)
    print(f"{np.mean(regions):.0f} regions per image (at most {max(regions)}), {options.threads} thread(s)")
    print("| regions at a time | ms per image | times faster than one by one |")
    print("|---|---|---|")
    for column, size in enumerate(SIZES):
        ratio, low, high = median_interval((seconds[:, 0] / seconds[:, column]).tolist())
        print(f"| {size} | {np.median(seconds[:, column]) * 1e3:.1f} | {ratio:.2f} [{low:.2f}, {high:.2f}] |")


if __name__ == "__main__":
    main()
