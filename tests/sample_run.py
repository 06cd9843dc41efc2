"""A run directory with timings, analyses and images, hostile names among them, made without any model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from raw_timings import single_stream_timings
from sample_results import HOSTILE, LONG, document, figure

from harness.files import write_record
from harness.rundir.records import RunFile
from harness.rundir.results import RunRecord

CLASSES = ["digit 3", HOSTILE, LONG, "مرحبا"]
COLOURS = ["#000000", "#d62728", "#1f77b4", "#2ca02c"]
SOURCE = ["the", HOSTILE, "house", "مرحبا", "."]
TARGET = ["das", "Haus", LONG, "."]
SIZE = 64  # px of the images


def write_run(folder: Path, content: dict[str, Any] | None = None) -> Path:
    """Write a run directory of `sample_results.document`; the first trial of each task has an analysis."""
    content = content or document()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(content), encoding="utf-8")
    analysed: set[str] = set()
    for trial in content["trials"]:
        directory = folder / "trials" / trial["id"]
        if "single-stream" in trial.get("speed", {}):
            write_latencies(directory, trial["speed"]["single-stream"]["latency"]["p50"]["value"])
        if trial["task"] not in analysed:
            analysed.add(trial["task"])
            write_analysis(directory, trial["task"])
    return folder


def run_file(suite: str) -> RunFile:
    """Return the run.json of a suite without trials."""
    run = RunRecord.model_validate(document()["run"])
    return RunFile(schema="harness-run/1", suite=suite, description="", run=run, trials=(), skipped=())


def write_latencies(directory: Path, median: float) -> None:
    """Write log-normal latencies of three processes with 213 queries each."""
    generator = np.random.default_rng(0)
    seconds = median * generator.lognormal(0, 0.2, (3, 213))
    timings = single_stream_timings(seconds.tolist())
    write_record(directory / "speed" / "single-stream.json", timings)


def write_analysis(directory: Path, task: str) -> None:
    """Write analysis.json and its images."""
    (directory / "samples").mkdir(parents=True, exist_ok=True)
    analysis = {"translation": _translation, "detection": _detection, "segmentation": _segmentation}[task](
        directory
    )
    text = json.dumps(
        {"schema": "harness-analysis/1", "key": "k", "analysis": {"task": task, "n": 300, **analysis}}
    )
    (directory / "analysis.json").write_text(text)


def _shown(index: int, role: str, **more: Any) -> dict[str, Any]:
    return {"index": index, "id": f"{index} {HOSTILE}", "role": role, "score": 0.25, **more}


def _translation(directory: Path) -> dict[str, Any]:
    sample = _shown(0, "worst", source=" ".join(SOURCE), references=[HOSTILE, "b"], hypothesis=LONG)
    weights = np.random.default_rng(1).dirichlet([0.3] * len(SOURCE), len(TARGET)).tolist()
    return {
        "ranked_by": "sentence BLEU",
        "rates": {"exact_match": figure(0.25), "length_ratio": figure(0.97)},
        "samples": [sample],
        "alignments": [{"index": 0, "source": SOURCE, "target": TARGET, "weights": weights}],
    }


def _detection(directory: Path) -> dict[str, Any]:
    shown_image = _write_image(directory, "0.png", _image())
    recall = np.linspace(0, 1, 101)
    curves = [
        {
            "label": label,
            "iou": iou,
            "ap": figure(0.5),
            "positives": 40,
            "precision": np.round(np.clip(1.2 - recall * iou * 2, 0, 1), 3).tolist(),
            "scores": None if label is None else recall[::-1].tolist(),
        }
        for iou in (0.5, 0.75)
        for label in (None, *CLASSES)
    ]
    effects = ("classification", "localisation", "both", "duplicate", "background", "missed")
    annotations = [
        {"box": [5, 5, 30, 40], "label": HOSTILE, "state": "correct"},
        {"box": [35, 10, 60, 30], "label": LONG, "state": "missed"},
    ]
    detections = [
        {"box": [6, 4, 31, 39], "label": HOSTILE, "score": 0.9, "state": "correct"},
        {"box": [2, 45, 20, 60], "label": "مرحبا", "score": 0.4, "state": "background"},
    ]
    return {
        "ranked_by": "F1",
        "classes": CLASSES,
        "curves": curves,
        "operating_point": {
            "score": 0.31,
            "precision": figure(0.7),
            "recall": figure(0.6),
            "f1": figure(0.65),
        },
        "confusion": _confusion(len(CLASSES) + 1),
        "errors": {
            name: {"count": 7 * i, "shown": 2 * i, "dap": figure(0.03 * i)} for i, name in enumerate(effects)
        },
        "false_positives": figure(0.1),
        "false_negatives": figure(0.2),
        "samples": [_shown(0, "worst", **shown_image, annotations=annotations, detections=detections)],
    }


def _segmentation(directory: Path) -> dict[str, Any]:
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[10:40, 20:50] = 1
    palette = [value for colour in COLOURS for value in bytes.fromhex(colour[1:])]
    masks = {
        name: _write_image(directory, f"0-{name}.png", mask, palette)["image"]
        for name in ("annotation", "prediction", "errors")
    }
    sample = _shown(0, "median", **_write_image(directory, "0.png", _image()), **masks)
    return {
        "ranked_by": "mIoU",
        "classes": CLASSES,
        "colours": COLOURS,
        "per_class": [
            {
                "label": label,
                "iou": figure(0.5),
                "accuracy": figure(0.6),
                "boundary_iou": figure(0.4),
                "annotated": 5000,
                "predicted": 4000,
            }
            for label in CLASSES
        ],
        "confusion": _confusion(len(CLASSES)),
        "samples": [sample],
    }


def _confusion(size: int) -> list[list[int]]:
    return (np.eye(size, dtype=int) * 40 + 2).tolist()


def _image() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)


def _write_image(
    directory: Path, name: str, pixels: np.ndarray, palette: Sequence[int] = ()
) -> dict[str, Any]:
    image = Image.fromarray(pixels)
    if palette:
        image.putpalette(palette)
    image.save(directory / "samples" / name)
    return {"width": SIZE, "height": SIZE, "image": f"samples/{name}"}
