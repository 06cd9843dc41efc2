"""The model's classes and the data set's: an index means a name, and names are what is compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from harness.errors import UsageError
from harness.registry import unknown
from harness.task import Detections, Mask, Prediction, TaskName

ClassMap: TypeAlias = NDArray[np.int64]
"""[classes of the model] → index among the data set's, −1 for a class that it does not have."""


def class_map(task: TaskName, model: Sequence[str], data: Sequence[str]) -> ClassMap | None:
    """How the model's labels become the data set's; None where they are the same.

    A model without names (third parties', or published weights that say how many classes but not which)
    is taken to have the data set's classes in its order. A detector may know more classes than the data set
    asks for; a segmentation may not, since each of its pixels has a class.

    Raises:
        UsageError: the data set has a class that the model does not know, or their numbers differ.
    """
    if not any(model):
        if model and len(model) != len(data):
            raise UsageError(f"the model has {len(model)} classes, the data set {len(data)}")
        return None
    if tuple(model) == tuple(data):
        return None
    for name in data:
        if name not in model:
            raise UsageError(
                f"the model has not learnt what the data set asks for: {unknown('class', name, model)}"
            )
    if task == "segmentation" and len(model) != len(data):
        extra = next(name for name in model if name not in data)
        raise UsageError(f"the model gives pixels the class '{extra}', which the data set does not have")
    places = {name: index for index, name in enumerate(data)}
    return np.array([places.get(name, -1) for name in model], dtype=np.int64)


def relabelled(predictions: Sequence[Prediction], classes: ClassMap) -> list[Prediction]:
    """The same predictions with the data set's labels; detections of other classes are left out."""
    return [_relabelled(prediction, classes) for prediction in predictions]


def _relabelled(prediction: Any, classes: ClassMap) -> Prediction:
    if isinstance(prediction, Detections):
        labels = classes[prediction.labels]
        kept = labels >= 0
        return replace(
            prediction,
            boxes=prediction.boxes[kept],
            scores=prediction.scores[kept],
            labels=labels[kept],
        )
    mask: Mask = classes[prediction].astype(np.uint8)
    return mask
