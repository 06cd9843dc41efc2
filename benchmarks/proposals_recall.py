"""Recall of selective search against the number of proposals, on the test scenes; prints Markdown.

    python benchmarks/proposals_recall.py

Beside ours, OpenCV's `ximgproc` on the same pictures, where opencv-contrib-python is installed; it is no
dependency. Times are of one thread, all pictures of one search after the other.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from adapters.detection.selective_search import MODES, propose
from harness.datasets.scenes import Scenes, ScenesOptions
from harness.task import Annotations, Image, Sample

COUNTS = (50, 100, 200, 500, 1000, 2000)
IOU = 0.5
Search = Callable[[Image], NDArray[np.generic]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--search", action="append", help="of those in the table; repeatable")
    options = parser.parse_args()
    scenes = Scenes(ScenesOptions(size=options.scenes), "test", "detection")
    samples = [scenes[i] for i in range(len(scenes))]
    print("| search | proposals | ms | " + " | ".join(f"recall at {count}" for count in COUNTS) + " |")
    print("|---|" + "---|" * (2 + len(COUNTS)))
    for name, search in searches():
        if options.search is None or name in options.search:
            print(f"| {name} | {row(search, samples)} |", flush=True)


def searches() -> Iterator[tuple[str, Search]]:
    for mode, strategy in MODES.items():
        yield f"ours, {mode}", lambda image, strategy=strategy: propose(image, strategy)
    if find_spec("cv2") is None:
        return
    import cv2

    cv2.setNumThreads(1)
    for mode in ("SingleStrategy", "SelectiveSearchFast", "SelectiveSearchQuality"):
        yield f"OpenCV {cv2.__version__}, {mode}", lambda image, mode=mode: _opencv(cv2, image, mode)


def _opencv(cv2, image: Image, mode: str) -> NDArray[np.generic]:
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(np.ascontiguousarray(image[..., ::-1]))
    getattr(search, f"switchTo{mode}")()
    found = search.process().astype(np.int64)
    found[:, 2:] += found[:, :2]
    return found


def row(search: Search, samples: list[Sample]) -> str:
    """Mean number of proposals, ms a picture, and the share of objects that the first n of them find."""
    started = time.process_time()
    found = [search(sample.input) for sample in samples]
    milliseconds = (time.process_time() - started) * 1e3 / len(samples)
    first = np.concatenate([_first(sample, boxes) for sample, boxes in zip(samples, found, strict=True)])
    recalls = " | ".join(f"{np.mean(first < count):.3f}" for count in COUNTS)
    return f"{np.mean([len(boxes) for boxes in found]):.0f} | {milliseconds:.0f} | {recalls}"


def _first(sample: Sample, boxes: NDArray[np.generic]) -> NDArray[np.float64]:
    """The place of the first proposal that finds each object; infinite if none does."""
    assert isinstance(sample.target, Annotations)
    objects = sample.target.boxes[:, None]
    sides = np.minimum(objects[..., 2:], boxes[:, 2:]) - np.maximum(objects[..., :2], boxes[:, :2])
    common = sides.clip(0).prod(axis=2)
    areas = [(corners[..., 2:] - corners[..., :2]).prod(axis=-1) for corners in (objects, boxes)]
    hits = common / (areas[0] + areas[1] - common) >= IOU
    return np.where(hits.any(axis=1), hits.argmax(axis=1), np.inf)


if __name__ == "__main__":
    main()
