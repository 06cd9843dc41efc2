"""The files of a run in MLflow."""

from __future__ import annotations

from pathlib import Path

import pytest
from sample_run import write_run

import reports.write
from harness.rundir.results import read_results
from harness.tracking.artifacts import write_run_artifacts
from reports.write import write_reports


def test_a_report_that_was_just_written_is_logged_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run")
    report = write_reports(run).parent
    written = {path.name: path.read_bytes() for path in report.iterdir()}
    made, copied = tmp_path / "made", tmp_path / "copied"
    write_run_artifacts(run, read_results(run), None, made)
    assert written.keys() == {path.name for path in (made / "report").iterdir()}
    monkeypatch.setattr(reports.write, "write_reports", None)
    write_run_artifacts(run, read_results(run), report, copied)
    assert written == {path.name: path.read_bytes() for path in (copied / "report").iterdir()}
