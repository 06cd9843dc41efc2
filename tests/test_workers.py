"""What a worker finds other than planned, and what it cannot read: named, recorded, never scored."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from small_suite import document, planned, run_suite

from harness.checkpoint import Checkpoint, save
from harness.datasets.phrases.phrases import Phrases
from harness.errors import InfrastructureError, UsageError
from harness.executors.inline import InlineExecutor
from harness.rundir.results import json_schema
from harness.stages.measure import SpeedSettings, measure
from harness.stages.predict import Predictor
from harness.suite.profiles import PROFILES
from harness.task import Sample
from harness.trial import Trial


def weights(folder: Path, value: float) -> Path:
    path = folder / "w.safetensors"
    save(Checkpoint({"w": torch.full((4,), value)}, "fake-translation", {}), path)
    return path


def test_a_checkpoint_replaced_after_planning_is_not_loaded(tmp_path: Path) -> None:
    weights(tmp_path, 0)
    (trial,) = planned(tmp_path, document(ok={"checkpoint": "w.safetensors"})).trials
    loaded = trial.load_checkpoint()
    assert loaded is not None and not loaded.tensors["w"].any()
    weights(tmp_path, 1)
    with pytest.raises(UsageError, match=r"w\.safetensors: has changed since the run was planned"):
        trial.load_checkpoint()


def altered(trial: Trial, **changes: str) -> Trial:
    return dataclasses.replace(trial, spec=trial.spec.model_copy(update=changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"code": "0123"}, "the code of adapter 'fake-translation' here is version .*, not 0123 as planned"),
        ({"dataset": "f" * 64}, "data set 'phrases' here has fingerprint .*, not f{16}… as planned"),
    ],
)
def test_other_code_or_data_than_planned_neither_predicts_nor_times(
    tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    trial = altered(planned(tmp_path, document()).trials[0], **changes)
    with pytest.raises(InfrastructureError, match=message):
        Predictor(trial, None)
    with pytest.raises(InfrastructureError, match=message):
        measure(trial, None, ["offline"], SpeedSettings("smoke", 1, 2))


@pytest.mark.parametrize("bad", [7, 5])
def test_a_sample_that_cannot_be_read_fails_its_batch_only_and_is_named_by_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: int
) -> None:
    read = Phrases.__getitem__

    def damaged(self: Phrases, index: int) -> Sample:
        if index == bad:
            raise OSError(f"image {index} is truncated")
        return read(self, index)

    monkeypatch.setattr(Phrases, "__getitem__", damaged)
    results = run_suite(tmp_path, document(12, ok={"batch_size": 4}), shard_size=12)
    (trial,) = results.trials
    (failure,) = trial.failures
    assert (trial.status, failure.first, failure.last) == ("partial", 4, 7)
    assert (failure.indices, failure.samples) == ([bad], [f"#{bad}"])
    assert failure.error == f"OSError: image {bad} is truncated"
    raw: Any = json.loads((tmp_path / "run" / "results.json").read_text())
    jsonschema.validate(raw, json_schema())


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"raise_at": 0}, "timing words/ok: RuntimeError: poison at 0"),
        ({"exit_at": 0}, "timing words/ok: the process died"),
        ({"hang_at": 0}, "timing words/ok: no answer within 6 s"),
    ],
)
def test_a_timing_process_that_fails_dies_or_hangs_is_an_error_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: dict[str, int], message: str
) -> None:
    if "hang_at" in fault:
        monkeypatch.setattr(SpeedSettings, "deadline", lambda self, scenarios: 6.0)
    (trial,) = planned(tmp_path, document(4, ok={"options": fault})).trials
    with pytest.raises(InfrastructureError, match=message):
        InlineExecutor().measure(trial, ["offline"], SpeedSettings("smoke", 1, 2))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("profile", PROFILES)
def test_the_deadline_leaves_ten_seconds_a_query_and_ten_times_the_duration(profile: str) -> None:
    asked = PROFILES[profile]
    one, two = (SpeedSettings(profile, None, 1).deadline(scenarios) for scenarios in (1, 2))
    assert one >= 10 * max(asked.queries, asked.seconds) + asked.warmup_cap
    assert two - 600 == 2 * (one - 600)
