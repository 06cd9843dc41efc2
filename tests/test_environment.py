"""The recorded environment, revision and branch."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from harness import environment


def test_the_revision_of_a_repository_that_contains_an_installation_does_not_count(tmp_path: Path) -> None:
    package = tmp_path / ".venv" / "harness"
    package.mkdir(parents=True)
    (package / "environment.py").touch()
    (tmp_path / "other.txt").touch()
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q"], ["add", "other.txt"], [*identity, "commit", "-qm", "other"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    assert environment.revision_of(package / "environment.py") == (None, None)


def test_the_revision_of_this_checkout_is_found() -> None:
    root = Path(__file__).parent
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    revision = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    assert environment.git_state()[0] == (revision or None)


def test_every_direct_dependency_and_plug_in_is_recorded_with_its_version() -> None:
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[\[>=<]", requirement)[0] for requirement in project["dependencies"]}
    packages = environment.describe().packages
    assert names | {"harness", "fake-adapters"} <= packages.keys()
    assert {name: packages[name] for name in names} == {name: version(name) for name in names}


def test_a_file_outside_git_has_no_revision(tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text("name: a")
    assert environment.revision_of(tmp_path / "suite.yaml") == (None, None)


def test_the_recorded_command_is_quoted_for_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_the_main_branch_of_a_fork_is_not_main(
    variables: dict[str, str], branch: str | None, tmp_path: Path
) -> None:
    assert environment.git_branch(tmp_path, variables) == branch


def test_environments_are_equal_by_content_and_comparable_by_hardware() -> None:
    here = environment.describe()
    again = environment.Environment.model_validate_json(here.model_dump_json())
    assert again == here and again.key == here.key
    updated = here.model_copy(update={"host": "b", "packages": {"torch": "9.9"}})
    assert updated.key != here.key and updated.hardware == here.hardware
    gpu = environment.Gpu(name="H200", memory_bytes=2**37, driver="1")
    accelerated = here.model_copy(update={"gpus": (gpu, gpu)})
    assert accelerated.hardware != here.hardware
    assert accelerated.hardware_name == "2 × H200"


def test_the_key_is_the_hash_of_the_json_content() -> None:
    here = environment.describe()
    text = json.dumps(json.loads(here.model_dump_json()), sort_keys=True)
    assert here.key == hashlib.sha256(text.encode()).hexdigest()[:12]
