"""Stored predictions are read back bit for bit; an adapter's predictions are checked before storing."""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from harness.rundir.prediction_shards import ShardProvenance
from harness.rundir.predictions import check, from_table, plain, to_table
from harness.rundir.store import TrialDirectory
from harness.task import Detections, Prediction, Sample, TaskName, Translation

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)


@st.composite
def detections(draw: st.DrawFn) -> Detections:
    n = draw(st.integers(0, 5))
    return Detections(
        draw(hnp.arrays(np.float32, (n, 4), elements=finite)),
        draw(hnp.arrays(np.float32, n, elements=finite)),
        draw(hnp.arrays(np.int64, n)),
    )


masks = hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)))
texts = st.builds(Translation, st.text())


def arrays(prediction: Prediction) -> list[Any]:
    if isinstance(prediction, Detections):
        return [prediction.boxes, prediction.scores, prediction.labels]
    return [prediction]


def round_trip(task: TaskName, predictions: list[Any]) -> list[Prediction]:
    ids = [f"säm/ple {index}" for index in range(len(predictions))]
    rows = from_table(task, to_table(task, ids, predictions))
    assert [name for name, _ in rows] == ids
    return [prediction for _, prediction in rows]


@settings(deadline=None)  # the first example imports pyarrow
@given(st.lists(texts, max_size=4))
def test_texts_are_read_back(predictions: list[Translation]) -> None:
    assert round_trip("translation", predictions) == predictions


@pytest.mark.parametrize("text", ["", " ", "Größe 東京 🙂 e\u0301", "a\tb\nc\x00d", "nan", "None"])
def test_unusual_texts_are_read_back_from_disk(tmp_path: Path, text: str) -> None:
    trial_dir = TrialDirectory(tmp_path)
    trial_dir.predictions.write(
        "translation", 0, ["a"], [Translation(text)], ShardProvenance(environment="here")
    )
    assert list(trial_dir.predictions.read("translation")) == [("a", Translation(text))]


@settings(deadline=None)
@given(st.one_of(st.tuples(st.just("detection"), st.lists(detections(), max_size=4)),
                 st.tuples(st.just("segmentation"), st.lists(masks, max_size=4))))  # fmt: skip
def test_arrays_are_read_back_bit_for_bit(case: tuple[TaskName, list[Any]]) -> None:
    """Also for empty detections, negative zero and subnormal numbers: bytes, shape and type are compared."""
    task, predictions = case
    for before, after in zip(predictions, round_trip(task, predictions), strict=True):
        for a, b in zip(arrays(before), arrays(after), strict=True):
            assert (a.shape, a.dtype, a.tobytes()) == (b.shape, b.dtype, b.tobytes())


def detections_of(boxes: Any, scores: Any, labels: Any) -> Detections:
    return Detections(np.asarray(boxes), np.asarray(scores), np.asarray(labels))


BOX = np.array([[0, 0, 2, 2]], np.float32)
ONE = np.ones(1, np.float32)
ZERO = np.zeros(1, np.int64)
IMAGE = np.zeros((3, 5, 3), np.uint8)
TEXT_SAMPLE = Sample("s1", "a b")
IMAGE_SAMPLE = Sample("s1", IMAGE)


@pytest.mark.parametrize(
    ("task", "sample", "prediction"),
    [
        ("translation", TEXT_SAMPLE, Translation("")),
        ("detection", IMAGE_SAMPLE, detections_of(BOX, ONE, ZERO + 2)),
        ("detection", IMAGE_SAMPLE, detections_of(BOX[:0], ONE[:0], ZERO[:0])),
        ("segmentation", IMAGE_SAMPLE, np.full((3, 5), 2, np.uint8)),
    ],
)
def test_valid_predictions_pass(task: TaskName, sample: Sample, prediction: Any) -> None:
    assert check(task, [sample], [prediction], classes=3) is None


@pytest.mark.parametrize(
    ("task", "sample", "prediction", "expected"),
    [
        (
            "translation",
            TEXT_SAMPLE,
            "text",
            "sample s1: the adapter returned str, translation requires Translation",
        ),
        ("translation", TEXT_SAMPLE, Translation(None), "the text is NoneType"),  # type: ignore[arg-type]
        ("translation", TEXT_SAMPLE, Translation("\ud83d"), "half a surrogate pair"),
        ("detection", IMAGE_SAMPLE, Translation("a"), "detection requires Detections"),
        (
            "detection",
            IMAGE_SAMPLE,
            detections_of(BOX, ONE, [0, 1]),
            r"boxes \(1, 4\), scores \(1,\), labels \(2,\)",
        ),
        ("detection", IMAGE_SAMPLE, detections_of(BOX.reshape(-1), ONE, ZERO), r"boxes \(4,\)"),
        ("detection", IMAGE_SAMPLE, detections_of(BOX, ONE, ONE), "labels integers"),
        ("detection", IMAGE_SAMPLE, detections_of(BOX * np.nan, ONE, ZERO), "not finite"),
        ("detection", IMAGE_SAMPLE, detections_of(BOX, ONE * np.inf, ZERO), "not finite"),
        (
            "detection",
            IMAGE_SAMPLE,
            detections_of(BOX, ONE, ZERO + 3),
            "labels 3 to 3: the data set has the classes 0 to 2",
        ),
        ("detection", IMAGE_SAMPLE, detections_of(BOX, ONE, ZERO - 1), "labels -1 to -1"),
        ("detection", IMAGE_SAMPLE, Detections([[0, 0, 1, 1]], [1.0], [0]), "must be NumPy arrays"),  # type: ignore
        (
            "segmentation",
            IMAGE_SAMPLE,
            np.zeros((5, 3), np.uint8),
            r"the mask is uint8 \[5, 3\], expected uint8 \[3, 5\]",
        ),
        ("segmentation", IMAGE_SAMPLE, np.zeros((3, 5), np.int64), "the mask is int64"),
        ("segmentation", IMAGE_SAMPLE, np.full((3, 5), 3, np.uint8), "the mask has the value 3"),
    ],
)
def test_an_invalid_prediction_is_reported_with_its_sample(
    task: TaskName, sample: Sample, prediction: Any, expected: str
) -> None:
    message = check(task, [sample], [prediction], classes=3)
    assert message is not None
    assert message.startswith("sample s1: ")
    assert re.search(expected, message), message


class Text(str):
    """Runs code where it is unpickled, as `os._exit(0)` would end the driver."""

    def __reduce__(self) -> Any:
        return os.getpid, ()


class Array(np.ndarray[Any, Any]):
    def __reduce__(self) -> Any:
        return os.getpid, ()


def test_classes_of_an_adapter_do_not_reach_another_process() -> None:
    array = np.ones((1, 4)).view(Array)
    sent = [Translation(Text("a")), Detections(array, array[:, 0], array[0].astype(int)), array]
    translation, detections, mask = pickle.loads(pickle.dumps([plain(prediction) for prediction in sent]))
    assert translation == Translation("a") and type(translation.text) is str
    assert [type(value) for value in (detections.boxes, detections.labels, mask)] == [np.ndarray] * 3
    assert (detections.boxes == 1).all() and (mask == 1).all()


def test_a_wrong_number_of_predictions_is_an_error() -> None:
    assert check("translation", [TEXT_SAMPLE, TEXT_SAMPLE], [Translation("a")], 0) == (
        "the adapter returned 1 predictions for 2 samples"
    )
