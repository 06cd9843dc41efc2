"""Scenarios: one module and one registry line each; their files are read strictly."""

from __future__ import annotations

import ast
import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from raw_timings import offline_timings, single_stream_timings
from small_suite import document, run_suite

from harness.compare.accuracy import RunPair, RunSide
from harness.compare.speed import speed_changes
from harness.decisions.policy import GatePolicy
from harness.errors import UsageError
from harness.executors.inline import InlineExecutor
from harness.files import write_record
from harness.rundir.speed import read_timings, timings_path
from harness.rundir.store import TrialDirectory
from harness.scenarios.loop import DisturbedWindow
from harness.scenarios.offline import Offline
from harness.scenarios.scenario import OFFLINE, SCENARIOS, SINGLE_STREAM, Scenario
from harness.scenarios.settings import SpeedSettings
from harness.stages.measure import Measurement, measure
from harness.trial import Trial

ROOT = Path(__file__).parent.parent


def test_no_other_module_contains_a_scenarios_name() -> None:
    containing = {
        path.relative_to(ROOT).as_posix()
        for package in ("harness", "adapters", "reports")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in (OFFLINE, SINGLE_STREAM)
    }
    assert containing == {"harness/scenarios/scenario.py"}


class Pairs(Offline):
    """A third party's scenario: offline in batches of two."""

    headline_name = "throughput of pairs"
    samples_per_query = 2


class InProcess(InlineExecutor):
    """Times in this process, which knows the scenario of the test."""

    def measure(self, trial: Trial, scenarios: Sequence[str], settings: SpeedSettings) -> Measurement:
        return measure(trial, trial.load_checkpoint(), scenarios, settings)


def test_a_registered_scenario_is_accepted_timed_stored_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SCENARIOS, "_builtin", {"pairs": f"{__name__}:Pairs"})
    suite = document(4, ok={"batch_size": 4})
    suite["benchmarks"]["words"]["speed"] = ["pairs"]
    suite["speed"] = {"samples": 4, "threads": 1}
    results = run_suite(tmp_path, suite, executor=InProcess)
    (trial,) = results.trials
    record, folder = trial.speed["pairs"], tmp_path / "run" / "trials" / trial.id
    timings = read_timings(folder, "pairs")
    assert timings is not None and record.throughput is not None
    assert isinstance(timings, Offline)
    # A pass over the four samples is one window of two queries.
    windows = [window for process in timings.processes for window in process.windows]
    assert {window.samples for window in windows} == {4}
    assert (record.batch_size, record.queries) == (2, 2 * len(windows))
    side = RunSide(trial, TrialDirectory(folder))
    (change,) = speed_changes(RunPair(side, side), results.environments, results.environments, GatePolicy())
    assert (change.name, change.base) == ("pairs throughput of pairs", record.throughput)


@pytest.mark.parametrize("raw", [offline_timings([[(8, 0.5)]]), single_stream_timings([[0.1, 0.2]])])
def test_raw_timings_survive_the_file_and_the_way_between_processes(tmp_path: Path, raw: Scenario) -> None:
    path = timings_path(tmp_path, raw.scenario)
    write_record(path, raw)
    assert read_timings(tmp_path, raw.scenario) == raw == pickle.loads(pickle.dumps(raw))
    stored = json.loads(path.read_text())
    assert not {"error", "units"} & stored.keys(), "keys that say nothing are omitted"
    assert "process" not in stored["processes"][0]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda raw: raw["processes"][0].pop("latencies_ns"),
            "processes.0.latencies_ns: this key is missing",
        ),
        (lambda raw: raw["processes"][0].update(windows=[]), "processes.0.windows: this key is unknown"),
        (lambda raw: raw["settings"].pop("samples"), "settings.samples: this key is missing"),
        (lambda raw: raw.update(samples=3), "samples: Input should be a valid array"),
    ],
)
def test_a_file_that_does_not_match_its_model_is_one_message_with_the_key(
    tmp_path: Path, damage: Callable[[dict[str, Any]], object], message: str
) -> None:
    path = timings_path(tmp_path, SINGLE_STREAM)
    write_record(path, single_stream_timings([[0.1, 0.2]]))
    raw = json.loads(path.read_text())
    damage(raw)
    path.write_text(json.dumps(raw))
    with pytest.raises(UsageError) as raised:
        read_timings(tmp_path, SINGLE_STREAM)
    assert str(raised.value) == f"{path}: {message}"


def test_an_unknown_scenario_is_named_with_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown scenario 'ofline'; did you mean 'offline'\?"):
        read_timings(tmp_path, "ofline")


def test_a_note_says_if_most_windows_that_count_were_disturbed() -> None:
    raw = offline_timings([[(8, 0.5)] * 6])
    [process] = raw.processes
    timed_on = process.timed_on.model_copy(update={"windows": 10})
    for counted, expected in ((3, 0), (4, 1)):
        disturbed = [DisturbedWindow(0, 1.0, "busy", number < 4) for number in range(4 + counted)]
        changed = process.model_copy(update={"timed_on": timed_on, "disturbed": disturbed})
        assert len(raw.model_copy(update={"processes": (changed,)}).disturbed_medians()) == expected
