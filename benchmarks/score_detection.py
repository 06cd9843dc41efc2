"""Time `harness score detection`, intervals included, against two other tools, which have none.

    python benchmarks/score_detection.py            1,000 images
    python benchmarks/score_detection.py --full     5,000 images, COCO val2017's size
    python benchmarks/score_detection.py --masks    ellipses as polygons, and in results as run lengths

All score the same files with 100 detections per image and 80 classes, on one thread each. Times are CPU
seconds from reading the files to the figures and, for the harness, to their intervals. faster-coco-eval is
timed if it is installed. Memory is what the process reaches beyond its imports.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from harness.evaluation.detection import AnnotatedBoxes
from harness.evaluation.systems import read_system

T = TypeVar("T")
CLASSES = 80
DETECTIONS = 100  # per image
OBJECTS = 7.3  # per image, the mean of COCO val2017
SIDE = 720  # of an image in px


def write_files(folder: Path, images: int, masks: bool) -> tuple[Path, Path]:
    """Write objects of log-uniform size. Two thirds are detected with some error; other boxes are random."""
    generator = np.random.default_rng(0)
    annotations, results = [], []
    for image in range(1, images + 1):
        objects = random_boxes(generator, generator.poisson(OBJECTS))
        labels = generator.integers(1, CLASSES + 1, len(objects))
        detected = generator.random(len(objects)) < 2 / 3
        shifts = generator.normal(0, 0.08, objects.shape) * objects[:, [2, 3, 2, 3]]
        boxes = np.concatenate([np.abs(objects + shifts)[detected], random_boxes(generator, DETECTIONS)])
        box_labels = np.append(labels[detected], generator.integers(1, CLASSES + 1, DETECTIONS))
        scores = np.append(generator.beta(4, 2, detected.sum()), generator.beta(1, 4, DETECTIONS))
        annotations += [
            {
                "image_id": image,
                "category_id": int(label),
                "bbox": box.round(2).tolist(),
                "area": float(box[2] * box[3]),
                "iscrowd": int(generator.random() < 0.01),
            }
            for box, label in zip(objects, labels, strict=True)
        ]
        results += [
            {
                "image_id": image,
                "category_id": int(box_labels[row]),
                "bbox": boxes[row].round(2).tolist(),
                "score": round(float(scores[row]), 4),
            }
            for row in range(DETECTIONS)
        ]
    if masks:
        for annotation in annotations:
            annotation["segmentation"] = [ellipse(annotation["bbox"])]
        for result in results:
            encoded = rle.frPyObjects([ellipse(result.pop("bbox"))], SIDE, SIDE)[0]
            result["segmentation"] = {"size": encoded["size"], "counts": encoded["counts"].decode()}
    for annotation_id, annotation in enumerate(annotations, start=1):
        annotation["id"] = annotation_id
    document = {
        "images": [
            {"id": image, "file_name": f"{image}.jpg", "height": SIDE, "width": SIDE}
            for image in range(1, images + 1)
        ],
        "categories": [{"id": label, "name": f"class {label}"} for label in range(1, CLASSES + 1)],
        "annotations": annotations,
    }
    paths = folder / "annotations.json", folder / "results.json"
    for path, content in zip(paths, (document, results), strict=True):
        path.write_text(json.dumps(content))
    return paths


def random_boxes(generator: np.random.Generator, count: int) -> np.ndarray:
    """Return [count, 4] of x, y, width, height; sides of 10–300 px."""
    corners = generator.uniform(0, 400, (count, 2))
    return np.concatenate([corners, np.exp(generator.uniform(2.3, 5.7, (count, 2)))], axis=1)


def ellipse(box: list[float]) -> list[float]:
    """Return the polygon of an ellipse that fills a box x, y, width, height."""
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=1) / 2 + 0.5
    return (box[:2] + corners * box[2:]).round(2).ravel().tolist()


def cpu_seconds(work: Callable[[], T]) -> tuple[float, T]:
    """Return the CPU seconds that a call takes, and its result."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def pycocotools(annotations: Path, results: Path, iou_type: str) -> COCOeval:
    """Evaluate with pycocotools."""
    truth = COCO(annotations)
    return evaluated(COCOeval(truth, truth.loadRes(str(results)), iou_type))


def faster_coco_eval(annotations: Path, results: Path, iou_type: str) -> Any:
    """Evaluate with faster-coco-eval."""
    peer = importlib.import_module("faster_coco_eval")
    truth = peer.COCO(str(annotations))
    return evaluated(peer.COCOeval_faster(truth, truth.loadRes(str(results)), iou_type))


def peak() -> float:
    """Return the largest memory that this process has had, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def evaluated(evaluation: Any) -> Any:
    """Return a COCOeval after its three steps."""
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="5,000 images instead of 1,000")
    parser.add_argument("--masks", action="store_true", help="compare instance masks in place of boxes")
    options = parser.parse_args()
    images, iou_type = 5000 if options.full else 1000, "segm" if options.masks else "bbox"
    print(f"{images} images × {DETECTIONS} detections × {CLASSES} classes, {OBJECTS} objects per image")
    with tempfile.TemporaryDirectory() as folder:
        with ProcessPoolExecutor(1) as writer:  # its memory is not that of the scoring
            files = writer.submit(write_files, Path(folder), images, options.masks).result()
        before = peak()
        seconds, scores = cpu_seconds(
            lambda: read_system(AnnotatedBoxes(files[0], iou_type=iou_type), files[1])
        )
        print(f"harness with intervals  {seconds:7.2f} CPU s, {peak() - before:.1f} GiB", flush=True)
        values = np.array([figure.value for figure in scores.metrics.values()], dtype=float)
        for tool in (faster_coco_eval, pycocotools):
            if tool is faster_coco_eval and importlib.util.find_spec("faster_coco_eval") is None:
                continue
            with contextlib.redirect_stdout(io.StringIO()):
                theirs, evaluation = cpu_seconds(partial(tool, *files, iou_type))
            difference = np.abs(values - evaluation.stats[: len(values)]).max()
            print(
                f"{tool.__name__:23} {theirs:7.2f} CPU s, {theirs / seconds:.1f}×, "
                f"largest difference of the twelve figures {difference:.1e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
