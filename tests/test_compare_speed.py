"""Speeds and costs are compared where the conditions agree, and decided by their intervals."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from raw_timings import SETTINGS, offline_timings, single_stream_timings
from sample_results import ENVIRONMENT, trial
from sample_results import speed as scenarios

from harness.cli.terminal import show_comparison
from harness.compare.accuracy import RunPair, RunSide
from harness.compare.cost import cost_changes
from harness.compare.outcome import Change, Comparison, TrialComparison, Verdict
from harness.compare.speed import slowdown, speed_changes
from harness.compare.speed_verdict import DRIFT, judge
from harness.decisions.policy import GatePolicy
from harness.environment import Environment
from harness.files import write_record
from harness.rundir.results import TrialRecord
from harness.rundir.store import TrialDirectory
from harness.scenarios.scenario import Scenario
from harness.task import Figure
from reports.comparison import comparison_to_markdown


def raw(name: str, seconds: list[list[float]], **changes: Any) -> Scenario:
    """Return timings of processes, given as seconds per sample of their windows or queries."""
    if name == "offline":
        return offline_timings([[(8, 8 * s) for s in times] for times in seconds], **changes)
    return single_stream_timings(seconds, **changes)


ENVIRONMENTS = {
    "env1": Environment.model_validate(ENVIRONMENT),
    "updated": Environment.model_validate({**ENVIRONMENT, "packages": {"torch": "3.0.0"}}),
    "other": Environment.model_validate({**ENVIRONMENT, "cpu": "Another"}),
}


def timed(
    folder: Path, factor: float, profile: str = "ci", head: dict[str, Any] | None = None
) -> list[Change]:
    """Return the changes for a head that takes `factor` times as long; `head` updates its record."""
    noise = np.random.default_rng(3).normal(1, 0.002, (2, 6, 4))
    sides = []
    for number, (name, scale) in enumerate((("base", 1.0), ("head", factor))):
        directory = TrialDirectory(folder / name)
        for scenario in ("offline", "single-stream"):
            times = (0.01 * scale * noise[number]).tolist()
            write_record(directory.path / "speed" / f"{scenario}.json", raw(scenario, times))
        record = trial("detection", "model", speed=scenarios(100 / scale))
        for scenario in record["speed"].values():
            scenario.update({"profile": profile, **((head or {}) if name == "head" else {})})
        sides.append(RunSide(TrialRecord.model_validate(record), directory))
    return list(speed_changes(RunPair(*sides), ENVIRONMENTS, ENVIRONMENTS, GatePolicy()))


@pytest.mark.parametrize("name", ["offline", "single-stream"])
def test_a_slowdown_is_the_ratio_of_low_quantiles_and_shrugs_at_a_process_that_is_slow_for_life(
    name: str,
) -> None:
    """Two of 22 repetitions take longer because of other work; the low quantile ignores them."""
    processes = [1.0, 1.01, 1.02, 1.03, 1.04, 1.9]
    base = raw(name, [[scale] * 20 + [9.0] * 2 for scale in processes])
    head = raw(name, [[1.2 * scale] * 22 for scale in processes])
    difference = slowdown(base.seconds_by_process(), head.seconds_by_process())
    assert difference.value == pytest.approx(0.2)
    assert difference.low is not None and difference.high is not None
    assert 0.15 < difference.low < 0.2 < difference.high < 0.25
    assert (difference.n, difference.unit) == (12, "of the time per sample")


@pytest.mark.parametrize(
    ("low", "high", "expected", "detectable"),
    [
        (0.026, 0.046, "regression", 0.0415),
        (0.026, 0.4, "regression", 0.33355),
        (0.024, 0.09, "inconclusive", 0.07945),
        (0.02, 0.049, "pass", 0.048925),
        (-0.03, 0.03, "inconclusive", 0.0745),
        (-0.5, -0.4, "pass", 0.1075),
        (None, None, "inconclusive", None),
    ],
)
def test_a_slowdown_passes_only_if_five_percent_would_have_been_seen(
    low: float | None, high: float | None, expected: Verdict, detectable: float | None
) -> None:
    """Detectable is 2.5% and 1.65 half widths of the interval; at −3% to 3%, a slowdown of 5% is not."""
    judgement = judge(Figure(0.0, low, high, 12, "", ""))
    assert judgement.verdict == expected
    assert judgement.detectable == (None if detectable is None else pytest.approx(detectable))


@pytest.mark.parametrize(("factor", "expected"), [(1.0, "pass"), (1.1, "regression"), (0.8, "pass")])
def test_stored_measurements_decide(factor: float, expected: Verdict, tmp_path: Path) -> None:
    changes = timed(tmp_path, factor)
    assert [change.name for change in changes] == ["offline throughput", "single-stream latency p50"]
    for change in changes:
        assert (change.verdict, change.decides) == (expected, True)
        assert change.difference is not None
        assert change.difference.value == pytest.approx(factor - 1, abs=0.01)


@pytest.mark.parametrize(("factor", "least", "most"), [(1.0, 0.0, 0.01), (1.1, 0.97, 1.0)])
def test_without_drift_equal_speeds_pass_and_ten_percent_is_caught(
    factor: float, least: float, most: float
) -> None:
    """Compare six processes per side that differ by 2%, 200 times."""
    generator = np.random.default_rng(4)
    called = []
    for _ in range(200):
        base, head = generator.normal(1, 0.02, (2, 6)) * [[1.0], [factor]]
        called.append(judge(slowdown(base.tolist(), head.tolist())).verdict)
    assert least <= called.count("regression") / 200 <= most


def test_smoke_never_decides(tmp_path: Path) -> None:
    assert {(change.verdict, change.decides) for change in timed(tmp_path, 2.0, "smoke")} == {
        ("not decided", False)
    }


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"batch_size": 4}, "batch size differs: "),
        ({"threads": 2}, "threads differs: 1 → 2"),
        ({"profile": "release"}, "profile differs: ci → release"),
        ({"environment": "other"}, "cpu differs: Example CPU 3000 → Another"),
        ({"environment": "gone"}, "not described"),
        ({"valid": False, "reasons": ["disturbed"]}, "the run's measurement is not valid: disturbed"),
    ],
)
def test_timings_under_other_conditions_are_incomparable(
    change: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    for compared in timed(tmp_path, 1.1, head=change):
        assert compared.verdict == "incomparable"
        assert reason in compared.reason


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ({"settings": SETTINGS.model_copy(update={"device": "cuda"})}, "device differs: cpu → cuda"),
        ({"samples": ["a", "c"]}, "different samples were timed"),
        (None, "the raw measurements are not in the run directory"),
    ],
)
def test_timings_of_other_work_are_incomparable(
    part: dict[str, Any] | None, reason: str, tmp_path: Path
) -> None:
    record = trial("detection", "model", speed={"offline": scenarios(100)["offline"]})
    times = [[0.01, 0.01]] * 2
    sides = []
    for name, changes in (("base", {}), ("head", part)):
        directory = TrialDirectory(tmp_path / name)
        if changes is not None:
            write_record(directory.path / "speed" / "offline.json", raw("offline", times, **changes))
        sides.append(RunSide(TrialRecord.model_validate(record), directory))
    (change,) = speed_changes(RunPair(*sides), ENVIRONMENTS, ENVIRONMENTS, GatePolicy())
    assert (change.verdict, change.reason) == ("incomparable", reason)


def test_speed_is_always_shown_with_the_caveat_about_drift(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = tuple(timed(tmp_path, 1.1))
    compared = TrialComparison("b", "v", "detection", "compared", samples=1, flipped=0, changes=changes)
    slower = Comparison("tiny", "run-1", None, "run-0", None, (compared,), ())
    show_comparison(slower)
    shown = capsys.readouterr().out
    assert DRIFT in shown
    assert re.search(r"\t\+(9|10)\.\d% \[\+[\d.]+%, \+[\d.]+%\] time\t", shown)
    assert DRIFT in comparison_to_markdown(slower)
    assert DRIFT not in comparison_to_markdown(replace(slower, trials=()))


def test_speed_is_compared_across_an_update_of_a_library(tmp_path: Path) -> None:
    changes = timed(tmp_path, 1.1, head={"environment": "updated"})
    assert {change.verdict for change in changes} == {"regression"}


def cost_verdicts(name: str, before: dict[str, Any], after: dict[str, Any], growth: float) -> list[str]:
    sides = []
    for changes in (before, after):
        record = trial("detection", "model", speed=scenarios(100))
        record["cost"] |= changes.get("cost", {})
        for key in ("energy", "valid", "reasons"):
            if key in changes:
                record["speed"]["offline"][key] = changes[key]
        sides.append(RunSide(TrialRecord.model_validate(record), TrialDirectory(Path("nowhere"))))
    gate = GatePolicy.model_validate([{"cost": name, "max_growth": growth}])
    changes = cost_changes(RunPair(*sides), ENVIRONMENTS, ENVIRONMENTS, gate)
    return [f"{change.verdict}: {change.reason}" for change in changes if change.decides]


def joules(value: float, half: float | None) -> dict[str, Any]:
    low, high = (None, None) if half is None else (value - half, value + half)
    return {"energy": vars(Figure(value, low, high, 3, "J", "energy"))}


@pytest.mark.parametrize(
    ("name", "before", "after", "growth", "verdict"),
    [
        ("memory", {}, {}, 0.0, "pass: within max_growth 0"),
        ("memory", {}, {"cost": {"peak_memory_bytes": 50_000_000}}, 0.05, "pass: within max_growth 0.05"),
        (
            "memory",
            {},
            {"cost": {"peak_memory_bytes": 51_000_000}},
            0.05,
            "regression: more than max_growth 0.05",
        ),
        ("memory", {}, {"cost": {"peak_memory_bytes": None}}, 0.05, "incomparable: not measured in the run"),
        (
            "memory",
            {},
            {"valid": False, "reasons": ["load"]},
            0.05,
            "incomparable: the run's measurement is not valid: load",
        ),
        ("energy", joules(2, 0.1), joules(2.05, 0.1), 0.2, "pass: within max_growth 0.2"),
        ("energy", joules(2, 0.1), joules(2.6, 0.05), 0.2, "regression: more than max_growth 0.2"),
        (
            "energy",
            joules(2, 0.1),
            joules(2.5, 0.1),
            0.2,
            "inconclusive: the intervals contain the limit (max_growth 0.2)",
        ),
        (
            "energy",
            joules(2, None),
            joules(2, 0.1),
            0.2,
            "inconclusive: it has no interval: too few processes",
        ),
        ("energy", {}, joules(2, 0.1), 0.2, "incomparable: not measured in the baseline"),
    ],
)
def test_memory_and_energy_are_held_against_their_growth(
    name: str, before: dict[str, Any], after: dict[str, Any], growth: float, verdict: str
) -> None:
    assert cost_verdicts(name, before, after, growth) == [verdict]
