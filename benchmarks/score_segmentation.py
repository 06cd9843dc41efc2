"""Measure the rate and memory of scoring label maps of 512×512 pixels with 21 classes.

    python benchmarks/score_segmentation.py            1,000 images
    python benchmarks/score_segmentation.py --full     10,000 images

All figures of `iou` are computed with their bootstrap, on one thread: of maps in memory, and of PNG files as
`harness score segmentation` reads them. Times are CPU seconds. Memory is the peak of Python and NumPy beyond
the maps themselves (tracemalloc), measured in a separate pass. The exit code is 1 if maps or files are scored
at less than 150 images per second.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from PIL import Image
from scipy.spatial import cKDTree

from harness.datasets.masks.files import read_mask
from harness.evaluation.segmentation import AnnotatedMasks
from harness.evaluation.systems import read_system
from harness.metrics.iou import Iou
from harness.task import IGNORED, Mask

SIDE = 512
CLASSES = 21
REGIONS = 24  # per map
DISTINCT = 16  # pairs that are cycled through: 8 MiB, so that they come from memory and not from a cache
FILES = 300  # pairs of PNG files
MIN_RATE = 150  # required images/s on one core


def label_maps(generator: np.random.Generator) -> tuple[Mask, Mask]:
    """Return an annotation of convex regions with ignored borders, and a shifted, partly wrong prediction."""
    grid = np.stack(np.mgrid[:SIDE, :SIDE], axis=-1).reshape(-1, 2)
    distance, region = cKDTree(generator.uniform(0, SIDE, (REGIONS, 2))).query(grid, k=2)
    labels = generator.integers(0, CLASSES, REGIONS).astype(np.uint8)
    annotation = labels[region[:, 0]].reshape(SIDE, SIDE)
    wrong = np.where(generator.random(REGIONS) < 1 / 6, generator.integers(0, CLASSES, REGIONS), labels)
    prediction = np.roll(wrong.astype(np.uint8)[region[:, 0]].reshape(SIDE, SIDE), 3, axis=1)
    annotation[(distance[:, 1] - distance[:, 0] < 3).reshape(SIDE, SIDE)] = IGNORED
    return annotation, prediction


def pairs(count: int) -> Iterator[tuple[Mask, Mask]]:
    """Yield `count` pairs."""
    generator = np.random.default_rng(0)
    distinct = [label_maps(generator) for _ in range(min(DISTINCT, count))]
    for index in range(count):
        yield distinct[index % len(distinct)]


def score_maps(count: int) -> tuple[float, float]:
    """Return the CPU seconds of the statistics of all images, and of the figures."""
    metric = Iou(["background", *map(str, range(1, CLASSES))], ignore_index=IGNORED)
    statistics, seconds = [], 0.0
    for annotation, prediction in pairs(count):
        start = time.process_time()
        statistics.append(metric.statistics(annotation, prediction))
        seconds += time.process_time() - start
    start = time.process_time()
    metric.summarise(statistics)
    return seconds, time.process_time() - start


def memory(count: int) -> tuple[float, float]:
    """Return the MiB held by the statistics of all images, and the peak while scoring."""
    metric = Iou(["background", *map(str, range(1, CLASSES))], ignore_index=IGNORED)
    maps = pairs(count)
    first = next(maps)  # makes all of them
    tracemalloc.start()
    statistics = [metric.statistics(*first), *(metric.statistics(*pair) for pair in maps)]
    held = tracemalloc.get_traced_memory()[0]
    metric.summarise(statistics)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return held / 2**20, peak / 2**20


def score_png_files() -> tuple[float, float]:
    """Return the CPU seconds of `harness score segmentation` on FILES pairs, and of reading them alone."""
    with tempfile.TemporaryDirectory() as folder:
        sides = Path(folder, "annotations"), Path(folder, "predictions")
        for side in sides:
            side.mkdir()
        for index, maps in enumerate(pairs(FILES)):
            for side, values in zip(sides, maps, strict=True):
                Image.fromarray(values).save(side / f"{index}.png")
        start = time.process_time()
        read_system(AnnotatedMasks(sides[0], str(CLASSES)), sides[1])
        scored = time.process_time() - start
        start = time.process_time()
        for side in sides:
            for path in side.iterdir():
                read_mask(path)
        return scored, time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="10,000 images instead of 1,000")
    arguments = parser.parse_args()
    columns = ("images", "statistics, images/s", "figures and intervals, s", "all, images/s")
    print("|", " | ".join((*columns, "statistics held, MiB", "peak, MiB")), "|")
    print("|---|---|---|---|---|---|")
    slowest = float("inf")
    for count in (100, 1000, 10_000) if arguments.full else (100, 1000):
        seconds, bootstrap = score_maps(count)
        held, peak = memory(count)
        slowest = min(slowest, count / (seconds + bootstrap))
        rates = f"{count / seconds:.0f} | {bootstrap:.2f} | {count / (seconds + bootstrap):.0f}"
        print(f"| {count:,} | {rates} | {held:.1f} | {peak:.1f} |", flush=True)
    scored, read = score_png_files()
    print(
        f"\n{FILES} pairs of PNG files: {FILES / scored:.0f} images/s, of which reading two files per image"
    )
    print(f"takes {read / FILES * 1e3:.1f} ms and everything else {(scored - read) / FILES * 1e3:.1f} ms.")
    if min(slowest, FILES / scored) < MIN_RATE:
        sys.exit(f"fewer than {MIN_RATE} images/s")


if __name__ == "__main__":
    main()
