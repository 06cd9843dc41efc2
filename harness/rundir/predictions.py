"""Predictions as Arrow tables, with one row per sample, and checks of an adapter's predictions."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import Image as PILImage

from harness.task import Detections, Image, Mask, Prediction, Sample, TaskName, Translation

if TYPE_CHECKING:
    import pyarrow as pa


def to_table(task: TaskName, ids: Sequence[str], predictions: Sequence[Prediction]) -> pa.Table:
    """Return a table of predictions that preserves every bit.

    Columns: `sample` (id), and `text`, or `boxes`, `scores` and `labels`, or `mask` (PNG, which is compact).
    """
    import pyarrow as pa

    columns: dict[str, pa.Array] = {"sample": pa.array(list(ids), pa.string())}
    if task == "translation":
        texts = [cast(Translation, prediction).text for prediction in predictions]
        columns["text"] = pa.array(texts, pa.string())
    elif task == "detection":
        detections = [cast(Detections, prediction) for prediction in predictions]
        # A model's numbers are float32. Those of files are float64, whose rounding would change ties.
        wide = any(image.boxes.dtype == np.float64 for image in detections)
        numbers = pa.list_(pa.float64() if wide else pa.float32())
        columns["boxes"] = pa.array([image.boxes.reshape(-1) for image in detections], numbers)
        columns["scores"] = pa.array([image.scores for image in detections], numbers)
        columns["labels"] = pa.array([image.labels for image in detections], pa.list_(pa.int64()))
    else:
        masks = [_to_png(cast(Mask, prediction)) for prediction in predictions]
        columns["mask"] = pa.array(masks, pa.binary())
    return pa.table(columns)


def from_table(task: TaskName, table: pa.Table) -> list[tuple[str, Prediction]]:
    """Return (sample id, prediction) in row order: the inverse of `to_table`."""
    columns = table.to_pydict()
    predictions: Iterable[Prediction]
    if task == "translation":
        predictions = map(Translation, columns["text"])
    elif task == "detection":
        wide = table.schema.field("boxes").type.value_type == "double"
        read = partial(_detections, np.float64 if wide else np.float32)
        predictions = map(read, columns["boxes"], columns["scores"], columns["labels"])
    else:
        predictions = map(_from_png, columns["mask"])
    return list(zip(columns["sample"], predictions, strict=True))


def _detections(
    kind: type[np.floating[Any]], boxes: list[float], scores: list[float], labels: list[int]
) -> Detections:
    return Detections(
        np.asarray(boxes, dtype=kind).reshape(-1, 4),
        np.asarray(scores, dtype=kind),
        np.asarray(labels, dtype=np.int64),
    )


def _from_png(content: bytes) -> Mask:
    return np.asarray(PILImage.open(io.BytesIO(content), formats=["PNG"]))


def _to_png(mask: Mask) -> bytes:
    buffer = io.BytesIO()
    PILImage.fromarray(np.ascontiguousarray(mask, dtype=np.uint8), "L").save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def check(
    task: TaskName, samples: Sequence[Sample], predictions: Sequence[object], classes: int
) -> str | None:
    """Return the first problem of the predictions that an adapter returned for a batch, or None.

    Predictions that pass can be stored and scored, so that an adapter's mistake never stops the driver.
    Labels and mask values are indices of the classes.
    """
    expected = {"translation": Translation, "detection": Detections, "segmentation": np.ndarray}[task]
    if len(predictions) != len(samples):
        return f"the adapter returned {len(predictions)} predictions for {len(samples)} samples"
    for sample, prediction in zip(samples, predictions, strict=True):
        if not isinstance(prediction, expected):
            name = type(prediction).__name__
            return f"sample {sample.id}: the adapter returned {name}, {task} requires {expected.__name__}"
        if isinstance(prediction, Translation):
            problem = _text_problem(prediction.text)
        elif isinstance(prediction, Detections):
            problem = _detections_problem(prediction, classes)
        else:
            problem = _mask_problem(cast(Mask, prediction), cast(Image, sample.input).shape[:2], classes)
        if problem:
            return f"sample {sample.id}: {problem}"
    return None


def plain(prediction: Prediction) -> Prediction:
    """Return a prediction that passed `check` without classes of the adapter.

    Unpickling calls what a class's `__reduce__` names, so that such a class runs code in the driver.
    """
    if isinstance(prediction, Translation):
        return Translation(str.__str__(prediction.text))
    if isinstance(prediction, Detections):
        boxes, scores, labels = map(np.asarray, (prediction.boxes, prediction.scores, prediction.labels))
        return Detections(boxes, scores, labels)
    return np.asarray(prediction)


def _text_problem(text: object) -> str | None:
    if not isinstance(text, str):
        return f"the text is {type(text).__name__}, not str"
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "the text contains half a surrogate pair, which is not a character"
    return None


def _detections_problem(detections: Detections, classes: int) -> str | None:
    boxes, scores, labels = detections.boxes, detections.scores, detections.labels
    if not all(isinstance(array, np.ndarray) for array in (boxes, scores, labels)):
        return "boxes, scores and labels must be NumPy arrays"
    if boxes.shape != (len(labels), 4) or scores.shape != (len(labels),) or labels.ndim != 1:
        shapes = f"boxes {boxes.shape}, scores {scores.shape}, labels {labels.shape}"
        return f"{shapes}: expected [n, 4], [n] and [n]"
    if boxes.dtype.kind != "f" or scores.dtype.kind != "f" or labels.dtype.kind not in "iu":
        return "boxes and scores must be floating-point numbers, and labels integers"
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        return "boxes or scores are not finite"
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        return f"labels {labels.min()} to {labels.max()}: the data set has the classes 0 to {classes - 1}"
    return None


def _mask_problem(mask: Mask, size: tuple[int, ...], classes: int) -> str | None:
    if mask.dtype != np.uint8 or mask.shape != size:
        return f"the mask is {mask.dtype} {list(mask.shape)}, expected uint8 {list(size)}"
    if mask.size and mask.max() >= classes:
        return f"the mask has the value {mask.max()}: the data set has the classes 0 to {classes - 1}"
    return None
