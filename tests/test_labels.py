import numpy as np
import pytest

from harness.errors import UsageError
from harness.stages.labels import class_map, relabel
from harness.task import Detections


def test_equal_classes_and_models_without_names_need_no_map():
    assert class_map("detection", ("cat", "dog"), ["cat", "dog"]) is None
    assert class_map("detection", (), ["cat", "dog"]) is None
    assert class_map("segmentation", ("", ""), ["cat", "dog"]) is None


def test_labels_follow_the_names_and_detections_of_other_classes_are_left_out():
    classes = class_map("detection", ("person", "dog", "cat"), ("cat", "dog"))
    boxes = np.arange(16, dtype=np.float32).reshape(4, 4)
    scores = np.array([0.9, 0.8, 0.7, 0.6], dtype=np.float32)
    (found,) = relabel([Detections(boxes, scores, np.array([2, 0, 1, 2]))], classes)
    assert found.labels.tolist() == [0, 1, 0]
    assert found.scores.tolist() == scores[[0, 2, 3]].tolist()
    assert found.boxes.tolist() == boxes[[0, 2, 3]].tolist()


def test_masks_are_renumbered():
    classes = class_map("segmentation", ("dog", "background", "cat"), ("background", "cat", "dog"))
    (found,) = relabel([np.array([[0, 1], [2, 0]], dtype=np.uint8)], classes)
    assert found.tolist() == [[2, 0], [1, 2]] and found.dtype == np.uint8


def test_a_class_that_the_model_does_not_know_is_named_with_the_nearest():
    with pytest.raises(UsageError, match=r"class 'dogs'.*did you mean 'dog'"):
        class_map("detection", ("cat", "dog"), ("cat", "dogs"))
    with pytest.raises(UsageError, match="may label pixels 'dog'"):
        class_map("segmentation", ("cat", "dog"), ("cat",))
    with pytest.raises(UsageError, match="the model has 3 classes, the data set 2"):
        class_map("detection", ("", "", ""), ("cat", "dog"))
