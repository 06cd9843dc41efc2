"""Predictions as Parquet columns: one row a sample, exact to the bit, compact for masks."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
from PIL import Image as PILImage

from harness.task import Detections, Image, Mask, Prediction, Sample, TaskName, Translation

if TYPE_CHECKING:
    import pyarrow as pa


def to_table(task: TaskName, ids: Sequence[str], predictions: Sequence[Prediction]) -> pa.Table:
    """Columns: `sample` (id), and `text` | `boxes`, `scores`, `labels` | `mask` (PNG bytes)."""
    import pyarrow as pa

    columns: dict[str, pa.Array] = {"sample": pa.array(list(ids), pa.string())}
    if task == "translation":
        texts = [cast(Translation, prediction).text for prediction in predictions]
        columns["text"] = pa.array(texts, pa.string())
    elif task == "detection":
        found = [cast(Detections, prediction) for prediction in predictions]
        columns["boxes"] = pa.array([d.boxes.reshape(-1) for d in found], pa.list_(pa.float32()))
        columns["scores"] = pa.array([d.scores for d in found], pa.list_(pa.float32()))
        columns["labels"] = pa.array([d.labels for d in found], pa.list_(pa.int64()))
    else:
        masks = [_to_png(cast(Mask, prediction)) for prediction in predictions]
        columns["mask"] = pa.array(masks, pa.binary())
    return pa.table(columns)


def from_table(task: TaskName, table: pa.Table) -> list[tuple[str, Prediction]]:
    """(sample id, prediction) in row order; the inverse of `to_table`."""
    rows = table.to_pylist()
    return [(row["sample"], _from_row(task, row)) for row in rows]


def _from_row(task: TaskName, row: dict) -> Prediction:
    if task == "translation":
        return Translation(row["text"])
    if task == "detection":
        return Detections(
            np.asarray(row["boxes"], dtype=np.float32).reshape(-1, 4),
            np.asarray(row["scores"], dtype=np.float32),
            np.asarray(row["labels"], dtype=np.int64),
        )
    return np.asarray(PILImage.open(io.BytesIO(row["mask"])))


def _to_png(mask: Mask) -> bytes:
    buffer = io.BytesIO()
    PILImage.fromarray(np.ascontiguousarray(mask, dtype=np.uint8), "L").save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def check(
    task: TaskName, samples: Sequence[Sample], predictions: Sequence[object], classes: int
) -> str | None:
    """What is wrong with what an adapter returned for a batch; None if nothing.

    What passes can be stored and scored: the driver, which does both, never fails for an adapter's fault.
    """
    expected = {"translation": Translation, "detection": Detections, "segmentation": np.ndarray}[task]
    if len(predictions) != len(samples):
        return f"the adapter returned {len(predictions)} predictions for {len(samples)} samples"
    for sample, prediction in zip(samples, predictions, strict=True):
        if not isinstance(prediction, expected):
            kind = type(prediction).__name__
            return f"sample {sample.id}: the adapter returned {kind}, {task} needs {expected.__name__}"
        if isinstance(prediction, Translation):
            wrong = _wrong_text(prediction.text)
        elif isinstance(prediction, Detections):
            wrong = _wrong_detections(prediction, classes)
        else:
            wrong = _wrong_mask(cast(Mask, prediction), cast(Image, sample.input).shape[:2], classes)
        if wrong:
            return f"sample {sample.id}: {wrong}"
    return None


def _wrong_text(text: object) -> str | None:
    if not isinstance(text, str):
        return f"the text is {type(text).__name__}, not str"
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "the text has half a surrogate pair, which is no character"
    return None


def _wrong_detections(found: Detections, classes: int) -> str | None:
    boxes, scores, labels = found.boxes, found.scores, found.labels
    if not all(isinstance(array, np.ndarray) for array in (boxes, scores, labels)):
        return "boxes, scores and labels must be NumPy arrays"
    if boxes.shape != (len(labels), 4) or scores.shape != (len(labels),) or labels.ndim != 1:
        shapes = f"boxes {boxes.shape}, scores {scores.shape}, labels {labels.shape}"
        return f"{shapes}: [n, 4], [n] and [n] are needed"
    if boxes.dtype.kind != "f" or scores.dtype.kind != "f" or labels.dtype.kind not in "iu":
        return "boxes and scores must be floating-point numbers, labels integers"
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        return "boxes or scores are not finite"
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        return f"labels {labels.min()} to {labels.max()}: the data set has the classes 0 to {classes - 1}"
    return None


def _wrong_mask(mask: Mask, size: tuple[int, ...], classes: int) -> str | None:
    if mask.dtype != np.uint8 or mask.shape != size:
        return f"the mask is {mask.dtype} {list(mask.shape)}, uint8 {list(size)} is needed"
    if mask.size and mask.max() >= classes:
        return f"the mask has the value {mask.max()}: the data set has the classes 0 to {classes - 1}"
    return None
