"""How `harness` ends: signals, internal errors, impossible folders and a removed run directory."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_suite import document, run_suite, write
from typer.testing import CliRunner

from harness.cli import app as cli
from harness.cli.app import app
from harness.errors import InfrastructureError
from harness.executors.inline import InlineExecutor

SUPERVISED = """
import os, signal, sys, time
from harness.cli.supervisor import supervise
supervise()
print(os.getpid(), flush=True)
{code}
"""


def start_supervised(code: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SUPERVISED.format(code=code), "run"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("sys.exit(0)", 0),
        ("sys.exit(2)", 2),
        ("sys.exit(130)", 130),
        ("os._exit(1)", 3),  # as Ray's C++ code ends a process
        ("os._exit(0)", 3),  # as a plug-in may
        ("os.fork() or (os.closerange(0, 3), time.sleep(5)); os._exit(0)", 3),  # a process stays behind
        ("os.abort()", 3),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
    ],
)
def test_a_supervised_process_never_ends_with_the_code_of_a_regression(code: str, expected: int) -> None:
    with start_supervised(code) as process:
        _, errors = process.communicate(timeout=100)
    assert process.returncode == expected
    assert ("the same command resumes the run" in errors) == (expected == 3)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_supervisor_reaches_the_process_that_works(number: signal.Signals) -> None:
    handler = (
        f"signal.signal({int(number)}, lambda *_: os._exit(7)); print('ready', flush=True); time.sleep(60)"
    )
    with start_supervised(handler) as process:
        assert process.stdout is not None
        process.stdout.readline(), process.stdout.readline()
        process.send_signal(number)
        process.communicate(timeout=50)
    assert process.returncode == 7


def test_a_killed_supervisor_takes_the_process_that_works_with_it() -> None:
    with start_supervised("time.sleep(60)") as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.kill()
        assert process.stdout.read() == "", "the pipe closes when the process has ended"
    assert not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.parametrize("debug", ["", "1"])
@pytest.mark.parametrize("error", [RuntimeError("broken"), SystemExit(0), SystemExit(1)])
def test_an_internal_error_never_looks_like_success_or_a_regression(
    error: BaseException, debug: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("harness.suite.loading.find_suite", fail)
    monkeypatch.setenv("HARNESS_DEBUG", debug)
    done = CliRunner().invoke(cli.app, ["plan", "quickstart"])
    assert done.exit_code == 3
    assert ("Traceback" in done.stderr) == bool(debug)


@pytest.mark.parametrize("out", ["x" * 300, "~nosuchuser/run"])
@pytest.mark.parametrize("command", ["plan", "run"])
def test_an_impossible_folder_is_one_line(tmp_path: Path, command: str, out: str) -> None:
    done = CliRunner().invoke(cli.app, [command, str(write(tmp_path, document(2))), "--out", out])
    assert done.exit_code == 2
    assert done.stderr.startswith("error: --out ") and "no folder can have this name" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_run_directory_that_is_removed_under_its_run_is_an_error_that_says_so(tmp_path: Path) -> None:
    class Removing(InlineExecutor):
        def predict(self, work: Any) -> Any:
            for number, outcome in enumerate(super().predict(work)):
                if number == 1:
                    shutil.rmtree(tmp_path / "run")
                yield outcome

    with pytest.raises(InfrastructureError, match="run: was removed while this run was writing to it"):
        run_suite(tmp_path, document(8, ok={"batch_size": 2}), executor=Removing, shard_size=2)
    assert not (tmp_path / "run" / "trials").exists(), "it is not created again"


@pytest.mark.parametrize("kib", [24, 64, 120, 1000])  # full at a shard, the record, the report
def test_a_run_whose_disk_fills_up_is_one_line_and_completes_once_there_is_room(
    tmp_path: Path, kib: int
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small disk")
    suite = write(tmp_path, document(20, ok={"batch_size": 4}, worse={"batch_size": 4}))
    run = ["run", str(suite), "--executor", "inline", "--no-sync", "--out", str(disk / "run")]
    try:
        full = CliRunner().invoke(app, run)
        errors = [line for line in full.stderr.splitlines() if not line.startswith("words/")]
        assert full.exit_code == 3, full.output
        assert len(errors) == 1 and errors[0].endswith("cannot be written: No space left on device"), errors
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        assert CliRunner().invoke(app, run).exit_code == 0
        verified = CliRunner().invoke(app, ["verify", str(disk / "run")])
        assert verified.exit_code == 0, verified.output
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_an_adapter_that_changes_folder_or_exits_when_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.errors import UsageError
    from harness.registry import Registry

    (tmp_path / "wandering.py").write_text("import os\nos.chdir('/')\nAdapter = 1\n")
    (tmp_path / "exiting.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry: Registry[Any] = Registry("thing", "none", {"a": "wandering:Adapter", "b": "exiting:Adapter"})
    before = Path.cwd()
    assert registry.get("a") == 1
    assert Path.cwd() == before
    with pytest.raises(UsageError, match=r"thing 'b' of harness cannot be imported from exiting:Adapter: 0"):
        registry.get("b")


def test_an_adapter_that_ends_the_command_when_it_is_imported_is_not_green(tmp_path: Path) -> None:
    (tmp_path / "exiting.py").write_text("import os\nos._exit(0)\n")
    package = tmp_path / "exiting-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: exiting\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[harness.adapters]\nexiting = exiting:Adapter\n")
    suite = write(tmp_path, document(4, ok={"adapter": "exiting"}))
    done = subprocess.run(
        [sys.executable, "-m", "harness", "plan", str(suite)],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stderr) == (3, "error: Ray or a plug-in ended this process\n")


def test_a_data_set_that_changes_the_working_directory_moves_no_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = "".join(f"word {number} of them\n" for number in range(60))
    (tmp_path / "data").mkdir()
    for name in ("data/test.en", "data/test.de"):
        (tmp_path / name).write_text(texts)
    (tmp_path / "answers.txt").write_text(texts.replace("of", "off"))
    corpus = {"directory": "data", "source": "{split}.en", "references": ["{split}.de"]}
    suite = document(3)
    suite["datasets"] = {"few": {"dataset": "fake-wandering", "options": corpus}}
    suite["adapters"] = {"ok": {"adapter": "predictions", "options": {"file": "answers.txt"}}}
    write(tmp_path, suite)
    run = ["run", "suite.yaml", "--executor", "inline", "--no-sync", "--out"]
    for command in (
        *([*run, out] for out in ("run", "again")),
        *([*run, out, "--shard-size", "1"] for out in ("run",)),
        ["verify", "run"],
        ["compare", "run", "--baseline", "again"],
        ["report", "run"],
    ):
        monkeypatch.chdir(tmp_path)
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, (command, done.output)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "again",
        "answers.txt",
        "data",
        "run",
        "suite.yaml",
    ]
    assert (tmp_path / "run" / "report" / "compare.html").exists()


def test_a_negative_number_of_parameters_is_refused_with_its_name(tmp_path: Path) -> None:
    suite = document(4, ok={}, odd={"options": {"parameters": -5}})
    ok, odd = run_suite(tmp_path, suite).trials
    assert (ok.status, odd.status, odd.cost.parameters) == ("complete", "failed", None)
    assert "parameters" in str(odd.reason) and "-5" in str(odd.reason)


UI = """
import sys
from pathlib import Path
import harness.tracking
from harness.cli.results import ui
harness.tracking.ui_command = lambda root, port: [sys.executable, "-c", sys.argv[1]]
harness.tracking.served_views = lambda port: {"tiny": "the view of tiny"}
ui(Path("runs"), 5123)
"""
SERVER = "import os, time; os.fork(); print(os.getpid(), flush=True); time.sleep(60)"


def test_a_terminated_ui_ends_its_server_and_all_of_its_processes() -> None:
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", UI, SERVER], **pipes) as process:
        assert process.stdout is not None
        first, second = process.stdout.readline(), process.stdout.readline()
        process.terminate()
        rest, errors = process.communicate(timeout=50)  # the pipe closes when all processes have ended
    assert first != second and rest == ""
    assert "MLflow: http://127.0.0.1:5123 (Ctrl-C ends it)\n  tiny: the view of tiny\n" in errors


def test_a_ui_whose_server_ends_before_it_answers_is_an_infrastructure_failure() -> None:
    code = UI.replace("lambda port: {", "lambda port: None and {")
    command = [sys.executable, "-c", code, "raise SystemExit(7)"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "MLflow's server ended with exit code 7" in done.stderr
    assert "http://" not in done.stderr
