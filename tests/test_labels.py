"""A model's class indices are converted to those of the data set by name."""

import numpy as np
import pytest

from harness.errors import UsageError
from harness.stages.labels import class_map, relabel
from harness.task import Detections


def test_equal_classes_and_unnamed_classes_need_no_map():
    assert class_map("detection", ("cat", "dog"), ["cat", "dog"]) is None
    assert class_map("detection", (), ["cat", "dog"]) is None
    assert class_map("segmentation", ("", ""), ["cat", "dog"]) is None


def test_labels_follow_names_and_detections_of_other_classes_are_dropped():
    classes = class_map("detection", ("person", "dog", "cat"), ("cat", "dog"))
    boxes = np.arange(16, dtype=np.float32).reshape(4, 4)
    scores = np.array([0.9, 0.8, 0.7, 0.6], dtype=np.float32)
    (detections,) = relabel([Detections(boxes, scores, np.array([2, 0, 1, 2]))], classes)
    assert detections.labels.tolist() == [0, 1, 0]
    assert detections.scores.tolist() == scores[[0, 2, 3]].tolist()
    assert detections.boxes.tolist() == boxes[[0, 2, 3]].tolist()


def test_masks_are_renumbered():
    classes = class_map("segmentation", ("dog", "background", "cat"), ("background", "cat", "dog"))
    (mask,) = relabel([np.array([[0, 1], [2, 0]], dtype=np.uint8)], classes)
    assert mask.tolist() == [[2, 0], [1, 2]] and mask.dtype == np.uint8


def test_a_class_that_the_model_lacks_is_reported_with_the_nearest_name():
    with pytest.raises(UsageError, match=r"class 'dogs'.*did you mean 'dog'"):
        class_map("detection", ("cat", "dog"), ("cat", "dogs"))
    with pytest.raises(UsageError, match="may label pixels 'dog'"):
        class_map("segmentation", ("cat", "dog"), ("cat",))
    with pytest.raises(UsageError, match="the model has 3 classes, the data set 2"):
        class_map("detection", ("", "", ""), ("cat", "dog"))
