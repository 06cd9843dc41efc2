"""Provenance that is ours, or none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness import environment


def test_the_revision_of_a_repository_that_only_contains_our_installation_is_not_ours(tmp_path: Path) -> None:
    package = tmp_path / ".venv" / "harness"
    package.mkdir(parents=True)
    (package / "environment.py").touch()
    (tmp_path / "theirs.txt").touch()
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q"], ["add", "theirs.txt"], [*identity, "commit", "-qm", "theirs"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    assert environment.git_state(package) == (None, None)


def test_the_command_can_be_pasted_into_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys, "argv", ["/some/where/harness", "run", "s", "--only", "a/*", "--set", "x=[1, 8]"]
    )
    assert environment.command_line() == "harness run s --only 'a/*' --set 'x=[1, 8]'"


PULL = {"GITHUB_HEAD_REF": "main", "GITHUB_REF_NAME": "7/merge", "GITHUB_REF": "refs/pull/7/merge"}
TARGET = {"GITHUB_HEAD_REF": "main", "GITHUB_REF_NAME": "main", "GITHUB_REF": "refs/heads/main"}
MERGE = {
    "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME": "main",
    "CI_MERGE_REQUEST_REF_PATH": "refs/merge-requests/7/head",
    "CI_COMMIT_REF_NAME": "main",
}


@pytest.mark.parametrize(
    ("variables", "branch"),
    [
        (PULL, "pull/7/merge"),
        (TARGET, "pull/main"),
        (MERGE, "merge-requests/7/head"),
        ({"GITHUB_REF_NAME": "main", "GITHUB_REF": "refs/heads/main", "GITHUB_HEAD_REF": ""}, "main"),
        ({"CI_COMMIT_REF_NAME": "main"}, "main"),
        ({environment.SENT_BRANCH: "pull/7/merge", "GITHUB_REF_NAME": "main"}, "pull/7/merge"),
        ({}, None),
    ],
)
def test_the_main_of_a_fork_is_not_main(
    variables: dict[str, str], branch: str | None, tmp_path: Path
) -> None:
    assert environment.git_branch(tmp_path, variables) == branch
