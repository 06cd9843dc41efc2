"""Adapters that misbehave spoil their own trial, and change neither other trials nor the driver."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from misbehaving import FAULTS
from small_suite import document, planned

from harness.driver.preflight import preflight
from harness.errors import InfrastructureError
from harness.executors.inline import InlineExecutor

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from fault_adapters import misbehave, run_group

QUICK = [
    "os._exit(0) in load",
    "sys.exit(0) in load",
    "sys.exit(0) in forward",
    "sys.exit(5) in postprocess",
    "KeyboardInterrupt in forward",
    "SIGSEGV in forward",
    "all descriptors closed",
    "removed working directory",
    "libraries replaced",
    "environment",
    "output replaced",
    "signal handlers",
]
"""The faults of `make test`, one of each kind; the others are slow."""


def suite_of(fault: str) -> dict[str, Any]:
    """Return a suite of this fault and an adapter that behaves."""
    return document(12, fault={"adapter": "misbehaving", "options": {"fault": fault}}, ok={})


def check(outcomes: Mapping[str, int], tried: int) -> None:
    assert outcomes["tried"] == outcomes["noticed"] + outcomes["did no harm"] == tried
    assert not any(outcomes[name] for name in ("silent", "figures changed", "other exit code"))


def test_each_spoils_its_own_trial_alone(tmp_path: Path) -> None:
    directory = Path.cwd()
    check(run_group(tmp_path / "group", QUICK, InlineExecutor()), len(QUICK))
    assert Path.cwd() == directory


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("executor", ["inline", "ray"])
def test_all_spoil_their_own_trials_alone(executor: str, tmp_path: Path) -> None:
    check(misbehave(tmp_path, None, seed=0, together=8, executor=executor), len(FAULTS))


def test_an_adapter_that_exits_while_it_is_checked_is_an_error_of_validate(tmp_path: Path) -> None:
    from harness.checkpoint import Checkpoint, save

    save(Checkpoint({}, "misbehaving", {}), tmp_path / "w.safetensors")
    for name, message in [
        ("sys.exit(5) in load", r"words/fault \(.*w\.safetensors\): SystemExit: 5"),
        ("os._exit(0) in load", r"words/fault \(.*\): the adapter's process ended with exit code 0"),
    ]:
        suite = suite_of(name)
        suite["adapters"]["fault"]["checkpoint"] = "w.safetensors"
        trials = planned(tmp_path, suite).trials
        with pytest.raises(InfrastructureError, match=message):
            preflight(trials)
        reports: list[str] = []
        preflight(trials, reports.append)
        assert len(reports) == 1


@pytest.mark.parametrize(
    ("fault", "processes", "blamed"),
    [
        ("sleep in forward", 1, []),  # loads well
        ("later loads broken", 2, []),
        ("os._exit(0) in load", 3, ["words/second"]),
        ("sys.exit(5) in load", 3, ["words/second"]),
    ],
)
def test_trials_that_are_checked_in_one_process_are_not_blamed_for_each_other(
    fault: str, processes: int, blamed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.checkpoint import Checkpoint, save
    from harness.stages.child import Child

    save(Checkpoint({}, "misbehaving", {}), tmp_path / "w.safetensors")
    faults = {"first": "signal handlers", "second": fault, "third": "signal handlers", "fourth": "atexit"}
    entry = {"adapter": "misbehaving", "checkpoint": "w.safetensors"}
    suite = document(12, **{label: {**entry, "options": {"fault": name}} for label, name in faults.items()})
    started: list[Child] = []

    def start() -> Child:
        started.append(Child())
        return started[-1]

    monkeypatch.setattr("harness.driver.preflight.Child", start)
    reports: list[str] = []
    preflight(planned(tmp_path, suite).trials, reports.append)
    assert [report.partition(" ")[0] for report in reports] == blamed
    assert len(started) == processes
