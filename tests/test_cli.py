"""The command line: exit codes, JSON on standard output, one line for an error, and a light start."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import Result
from small_suite import document, write
from typer.testing import CliRunner

from harness.cli.app import app
from harness.errors import InfrastructureError
from harness.rundir.results import json_schema


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def run_inline(folder: Path, suite: dict[str, Any], *arguments: object) -> Result:
    path = write(folder, suite)
    options = ["--executor", "inline", "--no-sync", "--out", folder / "run"]
    return call("run", path, *options, *arguments)


class TestRun:
    def test_prints_results_as_json_that_fits_the_schema(self, tmp_path: Path) -> None:
        done = run_inline(tmp_path, document(), "--json", "--limit", 8)
        assert done.exit_code == 0, done.stderr
        printed = json.loads(done.stdout)
        assert printed == json.loads((tmp_path / "run" / "results.json").read_text())
        jsonschema.Draft202012Validator(json_schema()).validate(printed)
        assert printed["trials"][0]["dataset"]["size"] == 8
        assert (tmp_path / "run" / "report" / "index.html").exists()

    def test_prints_a_plain_table_when_not_on_a_terminal(self, tmp_path: Path) -> None:
        done = run_inline(tmp_path, document())
        header, row = (line.split("\t") for line in done.stdout.splitlines())
        assert header == ["frontier", "trial", "status", "accuracy", "n", "samples/s", "median latency"]
        assert row[1:3] == ["words/ok", "complete"]
        assert row[3].startswith("bleu ") and "[" in row[3], "never a number without its interval"
        assert "\x1b" not in done.stdout + done.stderr

    def test_incomplete_trials_exit_with_3(self, tmp_path: Path) -> None:
        done = run_inline(tmp_path, document(bad={"options": {"raise_at": 3}}), "--shard-size", 4)
        assert done.exit_code == 3
        assert "words/bad: samples 0–15 failed: RuntimeError: poison at 3" in done.stderr

    def test_set_only_and_profile_reach_the_run(self, tmp_path: Path) -> None:
        done = run_inline(
            tmp_path, document(one={}, two={}), "--set", "adapters.two.batch_size=4", "--only", "words/two",
            "--profile", "ci", "--json",
        )  # fmt: skip
        printed = json.loads(done.stdout)
        assert [(t["variant"], t["settings"]["batch_size"]) for t in printed["trials"]] == [("two", 4)]
        assert printed["run"]["profile"] == "ci"


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["run", "nowhere.yaml"], "suite nowhere.yaml: no such file"),
            (["plan", "quickstat"], "unknown suite 'quickstat'; did you mean 'quickstart'?"),
            (["validate"], "name at least one suite"),
            (
                ["run", "SUITE", "--executor", "inline", "--workers", "2"],
                "inline accepts neither --address nor --workers",
            ),
            (["run", "SUITE", "--executor", "inline", "--out", "FOREIGN"], "contains other files (mine.txt)"),
            (
                ["run", "SUITE", "--executor", "inline", "--set", "nam=x"],
                "unknown key 'nam'; did you mean 'name'?",
            ),
            (["plan", "SUITE", "--only", "x"], "--only x: matches no trial"),
            (["report", "FOREIGN"], "results.json: cannot be read"),
            (["new", "adapter", "Bad Name"], "adapter name 'Bad Name': expected"),
        ],
    )
    def test_is_one_line_on_stderr_and_exits_with_2(
        self, tmp_path: Path, arguments: list[str], says: str
    ) -> None:
        foreign = tmp_path / "foreign"
        foreign.mkdir()
        (foreign / "mine.txt").write_text("")
        places = {"SUITE": write(tmp_path, document()), "FOREIGN": foreign}
        done = call(*(places.get(argument, argument) for argument in arguments))
        assert done.exit_code == 2
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: ")
        assert says in line
        assert [path.name for path in foreign.iterdir()] == ["mine.txt"]

    @pytest.mark.parametrize(
        "arguments", [["--limit", "0"], ["--shard-size", "0"], ["--executor", "inlin"], ["--x"]]
    )
    def test_options_out_of_range_exit_with_2_and_write_nothing(
        self, tmp_path: Path, arguments: list[str]
    ) -> None:
        done = run_inline(tmp_path, document(), *arguments)
        assert (done.exit_code, done.stdout) == (2, "")
        assert arguments[0] in done.stderr
        assert not (tmp_path / "run").exists()


class TestPlain:
    def test_list_names_every_entry_and_its_origin(self) -> None:
        entries = json.loads(call("list", "--json").stdout)
        origins = {(entry["group"], entry["name"]): entry["origin"] for entry in entries}
        assert origins["adapters", "fake-translation"] == "fake-adapters"
        assert (
            origins["datasets", "scenes"]
            == origins["metrics", "bleu"]
            == origins["suites", "quickstart"]
            == "harness"
        )
        groups = {entry["group"] for entry in json.loads(call("list", "metrics", "--json").stdout)}
        assert groups == {"metrics"}

    def test_plan_runs_nothing_and_says_what_is_on_disk(self, tmp_path: Path) -> None:
        path = write(tmp_path, document())
        before = json.loads(call("plan", path, "--out", tmp_path / "run", "--json").stdout)
        assert not (tmp_path / "run").exists()
        run_inline(tmp_path, document())
        after = json.loads(call("plan", path, "--out", tmp_path / "run", "--json").stdout)
        assert [(t["trial"], t["done"], t["samples"]) for t in before["trials"]] == [("words/ok", 0, 20)]
        assert [(t["trial"], t["done"], t["samples"]) for t in after["trials"]] == [("words/ok", 20, 20)]
        assert before["trials"][0]["id"] == after["trials"][0]["id"]

    def test_validate_counts_trials_and_prints_the_schema(self, tmp_path: Path) -> None:
        path = write(tmp_path, document(ok={"batch_size": [1, 2, 3]}))
        assert json.loads(call("validate", path, "--json").stdout) == [
            {"suite": str(path), "valid": True, "trials": 3, "skipped": []}
        ]
        assert json.loads(call("validate", "--schema").stdout)["title"] == "Suite"

    def test_train_does_not_call_a_suite_trained_whose_data_are_not_there(self, tmp_path: Path) -> None:
        faces = {
            "dataset": "masks",
            "options": {"root": "gone", "images": "i", "labels": "l", "classes": ["a"]},
        }
        digits = {"dataset": "faces", "adapters": ["net"], "metrics": ["iou"], "when_unavailable": "skip"}
        suite = {
            "name": "s",
            "data_root": ".",
            "datasets": {"faces": faces},
            "adapters": {"net": {"adapter": "fcn-8s"}},
        }
        done = call(
            "train", write(tmp_path, suite | {"benchmarks": {"digits": digits}}), "--executor", "inline"
        )
        assert done.exit_code == 2
        assert "nothing to run, every benchmark is skipped (digits: " in done.stderr

    @pytest.mark.parametrize(
        ("name", "content", "says"),
        [
            ("broken.pth", "no weights", "broken.pth"),
            (
                "wrong.yaml",
                "recipe: {adapter: fcn-8s, task: segmentation, dataset: {name: scene}, steps: 1, "
                "batch_size: 1, learning_rate: 1.0, metric: iou}",
                "unknown data set 'scene'; did you mean 'scenes'?",
            ),
            (None, None, "digits/net"),  # a network of ours without weights
        ],
    )
    def test_validate_opens_checkpoints_and_recipes(
        self, tmp_path: Path, name: str | None, content: str | None, says: str
    ) -> None:
        if name and content:
            (tmp_path / name).write_text(content)
        net = {"adapter": "fcn-8s"} | ({"checkpoint": name} if name else {})
        digits = {"dataset": "scenes", "task": "segmentation", "adapters": ["net"], "metrics": ["iou"]}
        path = write(tmp_path, {"name": "s", "adapters": {"net": net}, "benchmarks": {"digits": digits}})
        done = call("validate", path)
        assert (done.exit_code, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: ") and says in line

    def test_new_adapter_writes_outside(self, tmp_path: Path) -> None:
        done = call("new", "adapter", "my-model", "--task", "segmentation", "--out", tmp_path)
        assert done.exit_code == 0
        assert (tmp_path / "my-model" / "my_model.py").exists()


def python(code: str, *arguments: object) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=100).stdout


CALL = """
import sys
from harness.cli.app import app
try:
    app(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
print(sorted({"torch", "ray", "mlflow"} & set(sys.modules)))
"""


class TestLight:
    def test_the_command_line_imports_no_heavy_library(self) -> None:
        heavy = '{"torch", "ray", "mlflow", "pandas"}'
        code = f"import sys, harness.cli.app; print(sorted({heavy} & set(sys.modules)))"
        assert python(code).splitlines() == ["[]"]

    def test_help_imports_no_heavy_library(self) -> None:
        assert python(CALL, "--help").splitlines()[-1] == "[]"

    def test_help_takes_at_most_three_tenths_of_a_second_of_cpu(self) -> None:
        """Takes the best of five measurements of CPU time, to tolerate a busy machine."""

        def cpu_seconds() -> float:
            command = [sys.executable, "-c", "from harness.cli.app import main; main()", "--help"]
            child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            assert child.returncode == 0
            return usage.ru_utime + usage.ru_stime

        assert min(cpu_seconds() for _ in range(5)) <= 0.3

    def test_an_inline_run_imports_neither_ray_nor_mlflow(self, tmp_path: Path) -> None:
        path = write(tmp_path, document())
        out = python(CALL, "run", path, "--executor", "inline", "--no-sync", "--out", tmp_path / "run")
        assert out.splitlines()[-1] == "['torch']"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError("no space left"), "internal error: OSError: no space left"),
        (InfrastructureError("down"), "down"),
    ],
)
def test_a_sync_that_fails_says_so_and_leaves_the_exit_code(
    error: Exception, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("harness.tracking.sync", broken)
    path = write(tmp_path, document())
    done = call("run", path, "--executor", "inline", "--out", tmp_path / "run", "--limit", 4)
    assert done.exit_code == 0
    assert f"not logged to MLflow: {said}; `harness sync" in " ".join(done.stderr.split())
    assert done.stdout.startswith("frontier\t")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    assert run_inline(folder, document(8)).exit_code == 0
    return folder / "run"


@pytest.mark.parametrize(("number", "code"), [(errno.EROFS, 2), (errno.ENOSPC, 3)])
@pytest.mark.parametrize("command", ["report", "compare"])
def test_storage_that_takes_no_files_is_one_line(
    finished: Path, command: str, number: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails where the kernel does: `unlink` of a missing file fails on read-only storage too."""
    opened = Path.open

    def refuse(path: Path, mode: str = "", *arguments: Any, **settings: Any) -> Any:
        if mode.startswith("r"):
            return opened(path, mode, *arguments, **settings)
        raise OSError(number, os.strerror(number))

    for method in ("open", "unlink", "replace"):
        monkeypatch.setattr(Path, method, refuse)
    done = call(command, finished, *(["--baseline", finished] if command == "compare" else []))
    assert done.exit_code == code
    assert re.fullmatch(rf"error: {finished}/report/\S+: cannot be written: [^\n]+\n", done.stderr)


def test_a_defect_of_ours_never_looks_like_a_regression(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("harness.suite.loading.find_suite", broken)
    done = call("plan", "quickstart")
    assert done.exit_code == 3
    assert done.stderr.splitlines() == [
        "internal error: ZeroDivisionError: a defect (set HARNESS_DEBUG=1 to see where)"
    ]
