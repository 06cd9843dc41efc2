"""Workers whose code, data or samples are not as planned: errors name the cause, and nothing is scored."""

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
from harness.scenarios.settings import PROFILES, SpeedSettings
from harness.stages.measure import measure
from harness.stages.predict import Predictor
from harness.task import Sample
from harness.trial import Trial

SMOKE = SpeedSettings(profile="smoke", threads=1, samples=2, exclusive="node")


def weights(folder: Path, value: float) -> Path:
    path = folder / "w.safetensors"
    save(Checkpoint({"w": torch.full((4,), value)}, "fake-translation", {}), path)
    return path


def test_a_checkpoint_that_was_replaced_after_planning_is_not_loaded(tmp_path: Path) -> None:
    weights(tmp_path, 0)
    (trial,) = planned(tmp_path, document(ok={"checkpoint": "w.safetensors"})).trials
    checkpoint = trial.load_checkpoint()
    assert checkpoint is not None and not checkpoint.tensors["w"].any()
    weights(tmp_path, 1)
    with pytest.raises(UsageError, match=r"w\.safetensors: has changed since the run was planned"):
        trial.load_checkpoint()


def altered(trial: Trial, **changes: str) -> Trial:
    return dataclasses.replace(trial, spec=trial.spec.model_copy(update=changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"code": "0123"},
            "the code of adapter 'fake-translation' is .* here, but 0123 was planned",
        ),
        ({"dataset": "f" * 64}, "fingerprint of data set 'phrases' is .* here, but f{64} was planned"),
    ],
)
def test_code_or_data_that_differ_from_the_plan_are_an_error(
    tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    trial = altered(planned(tmp_path, document()).trials[0], **changes)
    with pytest.raises(InfrastructureError, match=message):
        Predictor(trial, None)
    with pytest.raises(InfrastructureError, match=message):
        measure(trial, None, ["offline"], SMOKE)


@pytest.mark.parametrize("bad", [7, 5])
@pytest.mark.usefixtures("forked")
def test_an_unreadable_sample_fails_only_its_batch_and_is_named_by_its_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: int
) -> None:
    original = Phrases.__getitem__

    def damaged(self: Phrases, index: int) -> Sample:
        if index == bad:
            raise OSError(f"image {index} is truncated")
        return original(self, index)

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
        ({"exit_at": 0}, "timing words/ok: the adapter's process ended with exit code 1"),
        ({"hang_at": 0}, "timing words/ok: no answer within 6 s"),
    ],
)
def test_a_timing_process_that_fails_dies_or_hangs_is_an_error_and_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: dict[str, int], message: str
) -> None:
    if "hang_at" in fault:
        monkeypatch.setattr(SpeedSettings, "deadline", lambda self, scenarios: 6.0)
    (trial,) = planned(tmp_path, document(4, ok={"options": fault})).trials
    with InlineExecutor() as executor, pytest.raises(InfrastructureError, match=message):
        executor.measure(trial, ["offline"], SMOKE)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("name", PROFILES)
def test_the_deadline_allows_ten_seconds_per_query_and_ten_times_the_duration(name: str) -> None:
    profile, settings = PROFILES[name], SMOKE.model_copy(update={"profile": name})
    assert settings.deadline(1) >= 10 * max(profile.samples, profile.seconds) + profile.warmup_cap
    assert settings.deadline(2) - 600 == 2 * (settings.deadline(1) - 600)
