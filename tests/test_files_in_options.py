"""A file that an adapter's option names counts in the trial's id by its content, not by its path."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_suite import document, planned

from harness.errors import InfrastructureError, UnavailableError, UsageError
from harness.trial import Trial


def suite(file: object, **more: Any) -> dict[str, Any]:
    return document(ok={"options": {"glossary": file}}) | more


def only_trial(folder: Path, file: object, **more: Any) -> Trial:
    (trial,) = planned(folder, suite(file, **more)).trials
    return trial


def test_the_content_of_a_file_counts_and_its_path_does_not(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("one")
    first, second = only_trial(tmp_path, "a.txt"), only_trial(tmp_path, str(tmp_path / "b.txt"))
    assert first.id == second.id
    assert first.spec.options["glossary"] == f"sha256:{hashlib.sha256(b'one').hexdigest()}"
    assert first.options["glossary"] == str(tmp_path / "a.txt"), "workers read the path"
    (tmp_path / "a.txt").write_text("two")
    assert only_trial(tmp_path, "a.txt").id != first.id


def test_an_option_without_a_file_keeps_its_value(tmp_path: Path) -> None:
    assert only_trial(tmp_path, None).spec.options["glossary"] is None


def test_every_file_of_a_folder_counts(tmp_path: Path) -> None:
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "a.txt").write_text("one")
    first = only_trial(tmp_path, "words")
    (tmp_path / "words" / "b.txt").write_text("")
    assert only_trial(tmp_path, "words").id != first.id


def test_values_of_a_matrix_name_their_files(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name)
    trials = planned(tmp_path, suite(["a.txt", "b.txt"])).trials
    assert [trial.variant for trial in trials] == ["ok[glossary=a.txt]", "ok[glossary=b.txt]"]
    assert trials[0].id != trials[1].id


def test_relative_paths_start_at_the_data_root_and_do_not_leave_it(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("inside")
    (tmp_path / "b.txt").write_text("outside")
    trial = only_trial(tmp_path, "a.txt", data_root="data")
    assert trial.options["glossary"] == str(tmp_path / "data" / "a.txt")
    with pytest.raises(UsageError, match=r"suite\.yaml:\d+: .*glossary: path '\.\./b\.txt' leaves the data"):
        only_trial(tmp_path, "../b.txt", data_root="data")


def test_a_variable_may_name_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("one")
    monkeypatch.setenv("HARNESS_TEST_FILE", str(tmp_path / "a.txt"))
    assert only_trial(tmp_path, "${HARNESS_TEST_FILE}").id == only_trial(tmp_path, "a.txt").id


def test_a_missing_file_names_the_line(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"suite\.yaml:\d+: adapters.ok.options.glossary: .*no such"):
        only_trial(tmp_path, "absent.txt")


def test_a_worker_refuses_a_file_that_changed_after_planning(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    trial = only_trial(tmp_path, "a.txt")
    trial.open_planned_dataset()
    (tmp_path / "a.txt").write_text("two")
    with pytest.raises(InfrastructureError, match=r"content of glossary .*a\.txt\) is sha256:.* was planned"):
        trial.open_planned_dataset()
    elsewhere = replace(trial, options=trial.options | {"glossary": str(tmp_path / "absent")})
    with pytest.raises(InfrastructureError, match="is missing here"):
        elsewhere.open_planned_dataset()
