"""Class labels: convert a model's class indices to a data set's, by class name."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from harness.errors import UsageError
from harness.registry import unknown
from harness.task import Detections, Prediction, TaskName, Translation

ClassMap: TypeAlias = NDArray[np.int64]
"""[classes of the model]: index in the data set's classes, or −1 for a class that the data set lacks."""


def class_map(task: TaskName, model: Sequence[str], data: Sequence[str]) -> ClassMap | None:
    """Return the map from a model's classes to a data set's, or None if they are the same.

    A model without class names is assumed to have the data set's classes in the same order. Third-party
    models and published weights may declare a number of classes without names: all of these are then empty.

    A detector may have more classes than the data set. A segmentation model must not, because it assigns a
    class to every pixel.

    Raises:
        UsageError: The data set has a class that the model lacks, or the numbers of classes differ.
    """
    if not any(model):
        if model and len(model) != len(data):
            raise UsageError(f"the model has {len(model)} classes, the data set {len(data)}")
        return None
    if tuple(model) == tuple(data):
        return None
    for name in data:
        if name not in model:
            raise UsageError(f"the model lacks a class of the data set: {unknown('class', name, model)}")
    if task == "segmentation" and len(model) != len(data):
        extra = next(name for name in model if name not in data)
        raise UsageError(f"the model may label pixels '{extra}', a class that the data set lacks")
    indices = {name: index for index, name in enumerate(data)}
    return np.array([indices.get(name, -1) for name in model], dtype=np.int64)


def relabel(predictions: Sequence[Prediction], classes: ClassMap) -> list[Prediction]:
    """Return predictions with the data set's labels; drop detections of classes that it lacks."""
    relabelled: list[Prediction] = []
    for prediction in predictions:
        if isinstance(prediction, Detections):
            labels = classes[prediction.labels]
            known = labels >= 0
            boxes, scores = prediction.boxes[known], prediction.scores[known]
            relabelled.append(replace(prediction, boxes=boxes, scores=scores, labels=labels[known]))
        elif isinstance(prediction, Translation):
            relabelled.append(prediction)
        else:
            relabelled.append(classes[prediction].astype(np.uint8))
    return relabelled
