"""Measure the recall of selective search against the number of proposals; print Markdown.

    python benchmarks/proposals_recall.py [--images scenes|photographs] [--first 0] [--count 100]
                                          [--search NAME]...

The images are the test scenes of 128 px, or objects pasted onto photographs of VOC's size (500 × 375 px).
OpenCV's `ximgproc` runs on the same images if opencv-contrib-python is installed; it is not a dependency.
Times are CPU times of one thread, with all images of one search in sequence. Brackets are 95%
intervals over images. If this project's and OpenCV's search of the same kind both ran, the table has their
difference with its interval.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec

import numpy as np
from composed_images import composed_images
from numpy.typing import NDArray

from adapters.detection.selective_search import MODES, propose
from harness.datasets.scenes.scenes import Scenes, ScenesOptions
from harness.statistics import jackknife
from harness.statistics.jackknife import COUNT_GROUPS, leave_out_groups, leave_out_sums
from harness.task import Annotations, Image, Sample

COUNTS = (50, 100, 200, 500, 1000, 2000)
IOU = 0.5
RESAMPLES = 2000
THEIRS = {"single": "SingleStrategy", "fast": "SelectiveSearchFast", "quality": "SelectiveSearchQuality"}
Search = Callable[[Image], NDArray[np.generic]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", choices=["scenes", "photographs"], default="scenes")
    parser.add_argument("--first", type=int, default=0, help="index of the first image")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--search", action="append", help="name of a search in the table; repeatable")
    options = parser.parse_args()
    if options.images == "scenes":
        scenes = Scenes(ScenesOptions(size=options.first + options.count), "test", "detection")
        samples = [scenes[i] for i in range(options.first, len(scenes))]
    else:
        samples = composed_images(options.first + options.count)[options.first :]
    objects = np.array([len(_boxes(sample)) for sample in samples])
    print(f"{len(samples)} images, {objects.sum()} objects\n")
    print("| search | proposals | ms | " + " | ".join(f"recall at {count}" for count in COUNTS) + " |")
    print("|---|" + "---|" * (2 + len(COUNTS)))
    hits: dict[str, NDArray[np.int64]] = {}
    for name, search in searches():
        if options.search is None or name in options.search:
            hits[name], described = searched(search, samples)
            shares = (figure(hits[name][:, k], objects) for k in range(len(COUNTS)))
            print(f"| {name} | {described} | {' | '.join(shares)} |", flush=True)
    for mode in MODES:
        ours, theirs = hits.get(f"ours, {mode}"), hits.get(f"OpenCV, {mode}")
        if ours is not None and theirs is not None:
            shares = (figure(ours[:, k] - theirs[:, k], objects, "+") for k in range(len(COUNTS)))
            print(f"| {mode}, ours − OpenCV | | | {' | '.join(shares)} |")


def searches() -> Iterator[tuple[str, Search]]:
    for mode, strategy in MODES.items():
        yield f"ours, {mode}", lambda image, strategy=strategy: propose(image, strategy)
    if find_spec("cv2") is None:
        return
    import cv2

    cv2.setNumThreads(1)
    for mode, name in THEIRS.items():
        yield f"OpenCV, {mode}", lambda image, name=name: _opencv(cv2, image, name)


def _opencv(cv2, image: Image, mode: str) -> NDArray[np.generic]:
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(np.ascontiguousarray(image[..., ::-1]))
    getattr(search, f"switchTo{mode}")()
    boxes = search.process().astype(np.int64)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def searched(search: Search, samples: list[Sample]) -> tuple[NDArray[np.int64], str]:
    """Return how many objects of each image the first n proposals find, [images, COUNTS], and a description:
    the mean number of proposals and ms per image."""
    started = time.process_time()
    proposals = [search(sample.input) for sample in samples]
    milliseconds = (time.process_time() - started) * 1e3 / len(samples)
    firsts = [_first(_boxes(sample), boxes) for sample, boxes in zip(samples, proposals, strict=True)]
    hits = [[int((first < count).sum()) for count in COUNTS] for first in firsts]
    return np.array(hits), f"{np.mean([len(boxes) for boxes in proposals]):.0f} | {milliseconds:.0f}"


def figure(hits: NDArray[np.int64], objects: NDArray[np.int64], sign: str = "") -> str:
    """Format a fraction of all objects with its interval, from counts per image."""
    groups = leave_out_groups(len(hits), COUNT_GROUPS)
    sums = leave_out_sums(np.stack([hits, objects], axis=1), groups)
    recall = jackknife.figure(sums[:, 0] / sums[:, 1], len(hits), "fraction", "")
    return f"{recall.value:{sign}.3f} [{recall.low:{sign}.3f}, {recall.high:{sign}.3f}]"


def _boxes(sample: Sample) -> NDArray[np.float64]:
    assert isinstance(sample.target, Annotations)
    return sample.target.boxes


def _first(objects: NDArray[np.float64], boxes: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return the index of the first proposal that finds each object, or infinity if none does."""
    expanded = objects[:, None]
    sides = np.minimum(expanded[..., 2:], boxes[:, 2:]) - np.maximum(expanded[..., :2], boxes[:, :2])
    common = sides.clip(0).prod(axis=2)
    areas = [(corners[..., 2:] - corners[..., :2]).prod(axis=-1) for corners in (expanded, boxes)]
    hits = common / (areas[0] + areas[1] - common) >= IOU
    return np.where(hits.any(axis=1), hits.argmax(axis=1), np.inf)


if __name__ == "__main__":
    main()
