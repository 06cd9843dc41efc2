"""The usability of the command line: help, version, completion, lists, a closed pipe, `doctor`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

import harness
from harness.cli import app as cli
from harness.cli import doctor
from harness.cli.options import SECTIONS, ProfileName
from harness.scenarios.settings import PROFILES

HARNESS = [sys.executable, "-c", "from harness.cli.app import main; main()"]


def stdout_of(*arguments: str) -> str:
    done = CliRunner().invoke(cli.app, list(arguments))
    assert done.exit_code == 0, done.stderr
    return done.stdout


class TestHelp:
    @pytest.mark.parametrize("flag", ["--help", "-h"])
    def test_greets_with_the_purpose_sections_and_three_examples(self, flag: str) -> None:
        text = stdout_of(flag)
        assert "Which model, at what accuracy, at what speed" in text
        assert all(f"{section}:\n" in text for section in SECTIONS)
        assert text.split("Examples:\n")[1].count("  harness ") == 3

    def test_lists_every_command_once(self) -> None:
        commands = [name for names in SECTIONS.values() for name in names]
        registered = cli.app.registered_groups
        names = {command.name or command.callback.__name__ for group in registered  # type: ignore[union-attr]
                 for command in group.typer_instance.registered_commands}  # type: ignore[union-attr]  # fmt: skip
        names -= {"translation", "detection", "segmentation"}  # of `harness score`
        names -= {"fetch", "check"}  # of `harness data` and `harness weights`
        assert sorted(commands) == sorted(names | {"score", "new", "data", "weights"})

    @pytest.mark.parametrize("command", [name for names in SECTIONS.values() for name in names])
    def test_a_summary_of_a_command_is_not_cut(self, command: str) -> None:
        line = next(line for line in stdout_of("--help").splitlines() if line.split()[:1] == [command])
        assert not line.endswith("...")

    def test_profiles_are_those_that_a_suite_knows(self) -> None:
        assert list(get_args(ProfileName)) == list(PROFILES)


def test_version_is_the_installed_one() -> None:
    assert stdout_of("--version") == f"harness {harness.__version__}\n"


@pytest.mark.parametrize(
    "arguments", [["list"], ["--help"], ["run", "--help"], ["list", "metrics", "--json"]]
)
def test_a_reader_that_closes_the_pipe_ends_the_command_quietly(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*HARNESS, *arguments], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=100, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("arguments", [["list", "metrics"], ["plan", "quickstat"]])
def test_a_closed_stdout_never_looks_like_a_regression(arguments: list[str]) -> None:
    command = f"{sys.executable} -m harness {' '.join(arguments)} >&-"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == (2 if "plan" in arguments else 0), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "stream", "code"),
    [
        ("list metrics", "1", 3),
        ("--version", "1", 3),
        ("list --help", "1", 3),
        ("plan quickstat", "1", 2),
        ("plan quickstat", "2", 2),  # nothing can be said
    ],
)
def test_a_full_disk_never_looks_like_a_regression(arguments: str, stream: str, code: int) -> None:
    command = f"{sys.executable} -m harness {arguments} {stream}>/dev/full"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=100, check=False)
    full = "error: standard output or a temporary file: No space left on device\n"
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
    assert (done.stderr == full) == (code == 3), done.stderr


class TestCompletion:
    @pytest.mark.parametrize(
        ("typed", "completed"),
        [
            ("harness cal", ["calibrate"]),
            ("harness plan --on", ["--only"]),
        ],
    )
    def test_completes_commands_and_options(self, typed: str, completed: list[str]) -> None:
        variables = {
            "_HARNESS_COMPLETE": "complete_bash",
            "COMP_WORDS": typed,
            "COMP_CWORD": str(len(typed.split()) - 1),
        }
        code = "from harness.cli.app import app; app(prog_name='harness')"
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | variables,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.stdout.split() == completed, done.stderr


class TestList:
    def test_adapters_have_task_description_weights_and_origin(self) -> None:
        rows = {row["name"]: row for row in json.loads(stdout_of("list", "adapters", "--json"))}
        yolo = rows["yolo"]
        assert (yolo["task"], yolo["shipped weights"], yolo["origin"]) == (
            "detection",
            "yolo-bccd, yolo-scenes",
            "harness",
        )
        assert yolo["description"].startswith("YOLO")
        assert rows["fake-translation"]["origin"] == "fake-adapters"

    def test_options_of_an_adapter_have_type_default_and_meaning(self) -> None:
        described = json.loads(stdout_of("list", "adapters", "ssd", "--json"))
        options = {option["option"]: option for option in described["options"]}
        assert options["nms_iou"]["type"] == "float" and options["nms_iou"]["default"] == "0.45"
        assert options["backbone"]["type"] == "'small' | 'vgg16'"

    @pytest.mark.parametrize("group", ["adapters", "datasets"])
    def test_every_option_has_a_meaning(self, group: str) -> None:
        for entry in json.loads(stdout_of("list", group, "--json")):
            if entry["origin"] == "harness":
                described = json.loads(stdout_of("list", group, entry["name"], "--json"))
                assert [o["option"] for o in described["options"] if not o["meaning"]] == [], entry["name"]

    @pytest.mark.parametrize("group", ["datasets", "metrics", "suites"])
    def test_every_entry_can_be_described(self, group: str) -> None:
        for entry in json.loads(stdout_of("list", group, "--json")):
            assert json.loads(stdout_of("list", group, entry["name"], "--json"))["description"]

    def test_an_unknown_name_is_one_line(self) -> None:
        done = CliRunner().invoke(cli.app, ["list", "adapters", "sdd"])
        assert done.exit_code == 2
        assert done.stderr.startswith("error: unknown adapter 'sdd'; did you mean 'ssd'?")


class TestDoctor:
    def test_a_machine_that_has_everything_is_ready(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for variable in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            monkeypatch.delenv(variable, raising=False)
        lines = stdout_of("doctor").splitlines()
        assert lines[-1] == "ready"
        names = {line.split("\t")[0] for line in lines}
        assert {"GPU driver", "cache folder", "disk of the runs", "ray", "MLflow address", "weights"} <= names

    def test_what_is_missing_is_named_with_its_remedy(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
        monkeypatch.setattr(doctor, "_adapters", lambda: iter(()))
        monkeypatch.setattr(doctor, "_datasets", lambda: iter(()))
        done = CliRunner().invoke(cli.app, ["doctor"])
        assert done.exit_code == 3
        assert done.stdout.splitlines()[-1] == "not ready: 1 missing"
        assert "missing: MLflow address: start it, or unset MLFLOW_TRACKING_URI" in done.stdout
        assert "secret" not in done.stdout

    @pytest.mark.parametrize(
        ("address", "status"),
        [("auto", "ok"), ("sqlite:////tmp/x.db", "ok"), ("127.0.0.1:9", "missing"), ("host:port", "missing")],
    )
    def test_an_address_is_tried_if_it_names_a_server(self, address: str, status: str) -> None:
        assert doctor._reachable("x", address, "start it").status == status

    def test_a_cache_that_cannot_be_written_and_a_full_disk_are_missing(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
        monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
        monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 2**30}))
        checks = {check.name: check for check in doctor._storage()}
        assert {check.status for check in checks.values()} == {"missing"}
        assert "HARNESS_CACHE" in checks["cache folder"].remedy
        assert checks["disk of the runs"].finding == "1.0 GiB free"
