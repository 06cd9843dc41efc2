"""Adapters that misbehave spoil their own trial, and change neither other trials nor the driver."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from misbehaving import FAULTS
from small_suite import document, figures, planned, run_suite

from harness.errors import InfrastructureError
from harness.executors.inline import InlineExecutor
from harness.run.driver import exit_code
from harness.run.preflight import preflight
from harness.rundir.results import Results

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
ENDLESS = [name for name, fault in FAULTS.items() if fault.hangs]


def suite_of(faults: list[str], size: int = 12) -> dict[str, Any]:
    """Return a suite with these faults between two adapters that behave."""
    bad = [{"adapter": "misbehaving", "options": {"fault": name}} for name in faults]
    entries: dict[str, Any] = {"first": {}, **{f"fault{i}": entry for i, entry in enumerate(bad)}}
    entries["last"] = {"options": {"drop": 2}}
    return document(size, **{name: {"batch_size": 4, **entry} for name, entry in entries.items()})


def check(results: Results, faults: Mapping[str, str], expected: Mapping[str, Any]) -> None:
    """Check the trials of all adapters, those that behave against `expected`."""
    trials = {trial.variant: trial for trial in results.trials}
    assert {name: figures(results)[name] for name in expected} == expected
    for variant, name in faults.items():
        complete = FAULTS[name].complete
        assert complete is None or (trials[variant].status == "complete") == complete, (name, trials[variant])
        reason = trials[variant].reason or ""
        assert trials[variant].status == "complete" or "first error: " in reason, (name, reason)
    assert exit_code(results) == 3


def run_faults(names: list[str], folder: Path, executor: Any = InlineExecutor) -> None:
    expected = figures(run_suite(folder, suite_of([]), out="alone"))
    results = run_suite(folder, suite_of(names), executor, shard_size=4)
    check(results, {f"fault{i}": name for i, name in enumerate(names)}, expected)


def test_each_spoils_its_own_trial_alone(tmp_path: Path) -> None:
    directory = Path.cwd()
    run_faults(QUICK, tmp_path)
    assert Path.cwd() == directory


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_spoil_their_own_trials_alone(tmp_path: Path) -> None:
    run_faults([name for name in FAULTS if name not in ENDLESS], tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_spoil_their_own_trials_alone_on_ray(tmp_path: Path) -> None:
    from harness.executors.ray.executor import RayExecutor

    with RayExecutor(max_workers=2) as executor:
        run_faults([name for name in FAULTS if name not in ENDLESS], tmp_path, nullcontext(executor))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ENDLESS)
def test_a_hang_ends_at_its_deadline(name: str, tmp_path: Path) -> None:
    class Impatient(InlineExecutor):
        def __init__(self) -> None:
            super().__init__(first_deadline=5.0, load_seconds=30.0)

    suite = document(2, ok={}, hang={"adapter": "misbehaving", "options": {"fault": name, "at": 1}})
    results = run_suite(tmp_path, suite, Impatient, shard_size=1)
    ok, hanging = results.trials
    assert (ok.status, hanging.status) == ("complete", "failed" if "load" in name else "partial")
    assert "no answer within" in (hanging.reason or "")


def test_an_adapter_that_exits_while_it_is_checked_is_an_error_of_validate(tmp_path: Path) -> None:
    from harness.checkpoint import Checkpoint, save

    save(Checkpoint({}, "misbehaving", {}), tmp_path / "w.safetensors")
    for name, message in [
        ("sys.exit(5) in load", r"words/fault0 \(.*w\.safetensors\): SystemExit: 5"),
        ("os._exit(0) in load", r"words/fault0 \(.*\): the adapter's process ended with exit code 0"),
    ]:
        suite = suite_of([name])
        suite["adapters"]["fault0"]["checkpoint"] = "w.safetensors"
        trials = planned(tmp_path, suite).trials
        with pytest.raises(InfrastructureError, match=message):
            preflight(trials)
        reports: list[str] = []
        preflight(trials, reports.append)
        assert len(reports) == 1
