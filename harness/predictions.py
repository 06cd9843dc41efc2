"""Predictions as Parquet columns: one row a sample, exact to the bit, compact for masks."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
from PIL import Image as PILImage

from harness.task import Detections, Mask, Prediction, TaskName, Translation

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


def check(task: TaskName, ids: Sequence[str], predictions: Sequence[object]) -> str | None:
    """What is wrong with what an adapter returned for a batch; None if nothing."""
    expected = {"translation": Translation, "detection": Detections, "segmentation": np.ndarray}[task]
    if len(predictions) != len(ids):
        return f"the adapter returned {len(predictions)} predictions for {len(ids)} samples"
    for sample, prediction in zip(ids, predictions, strict=True):
        if not isinstance(prediction, expected):
            kind = type(prediction).__name__
            return f"sample {sample}: the adapter returned {kind}, {task} needs {expected.__name__}"
        if isinstance(prediction, Detections):
            sizes = {len(prediction.boxes), len(prediction.scores), len(prediction.labels)}
            if len(sizes) > 1:
                return f"sample {sample}: boxes, scores and labels differ in number"
            if not (np.isfinite(prediction.boxes).all() and np.isfinite(prediction.scores).all()):
                return f"sample {sample}: boxes or scores are not finite"
    return None
