"""A child process: its functions may end, block or alter it, and the parent gets an answer or a reason."""

from __future__ import annotations

import os
import signal
import sys
import time
from multiprocessing.context import ForkProcess
from pathlib import Path

import psutil
import pytest

from harness.errors import AdapterError, InfrastructureError, UsageError
from harness.stages.child import Child, HungChildError, LostChildError, send_progress

SECONDS = 100.0


def fail_with(error: BaseException) -> None:
    raise error


def exit_with(code: int) -> None:
    sys.exit(code)


def kill_itself(number: int) -> None:
    os.kill(os.getpid(), number)


def close_descriptors() -> None:
    os.closerange(3, 4096)
    time.sleep(SECONDS)


def answer_unreadably() -> object:
    """Return an object whose class the parent cannot import."""
    sys.modules["nowhere"] = type(sys)("nowhere")
    cls = type("Strange", (), {"__module__": "nowhere"})
    sys.modules["nowhere"].Strange = cls  # type: ignore[attr-defined]
    return cls()


def start_another() -> int:
    pid = os.fork()
    if pid == 0:
        time.sleep(SECONDS)
    return pid


def report_twice() -> str:
    send_progress("first")
    send_progress("second")
    return "done"


def print_escapes() -> None:
    print("\x1b[2Jvisible")
    os.write(2, b"\xffraw\n")


def test_a_child_answers_one_call_after_another() -> None:
    with Child() as child:
        assert child.call(os.path.join, "a", "b", seconds=SECONDS) == "a/b"
        assert child.call(os.getpid, seconds=SECONDS) != os.getpid()


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (UsageError("wrong"), UsageError, "wrong"),
        (RuntimeError("poison\x1b[2J"), AdapterError, "RuntimeError: poison\ufffd[2J"),
        (KeyboardInterrupt(), InfrastructureError, "KeyboardInterrupt: "),
        (SystemExit(0), InfrastructureError, "SystemExit: 0"),
    ],
)
def test_an_exception_reaches_the_parent_and_the_child_goes_on(
    error: BaseException, raised: type[Exception], message: str
) -> None:
    with Child() as child:
        with pytest.raises(raised) as caught:
            child.call(fail_with, error, seconds=SECONDS)
        assert (type(caught.value), str(caught.value)) == (raised, message)
        assert child.call(abs, -1, seconds=SECONDS) == 1


@pytest.mark.parametrize(
    ("function", "argument", "message"),
    [
        (os._exit, (0,), "the adapter's process ended with exit code 0"),
        (os._exit, (7,), "the adapter's process ended with exit code 7"),
        (kill_itself, (signal.SIGKILL,), "the adapter's process was ended by SIGKILL"),
        (kill_itself, (signal.SIGSEGV,), "the adapter's process was ended by SIGSEGV"),
        (close_descriptors, (), "the adapter's process closed its connection"),
        (answer_unreadably, (), "the answer of the adapter's process cannot be read: No module named"),
    ],
)
def test_a_lost_child_is_an_error_that_says_what_happened(
    function: object, argument: tuple[object, ...], message: str
) -> None:
    with Child() as child, pytest.raises(LostChildError, match=message):
        child.call(function, *argument, seconds=SECONDS)  # type: ignore[arg-type]


def test_a_child_that_hangs_is_ended_at_its_deadline_with_all_that_it_started() -> None:
    with Child() as child:
        grandchild = child.call(start_another, seconds=SECONDS)
        with pytest.raises(HungChildError, match=r"no answer within 0\.2 s"):
            child.call(time.sleep, SECONDS, seconds=0.2)
    until = time.monotonic() + SECONDS
    while psutil.pid_exists(grandchild) and psutil.Process(grandchild).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until, "it outlives the child"


def test_lines_of_progress_arrive_before_the_answer() -> None:
    lines: list[str] = []
    with Child() as child:
        assert child.call(report_twice, seconds=SECONDS, report=lines.append) == "done"
    assert lines == ["first", "second"]


def test_a_child_has_the_environment_and_folder_of_its_parent_at_its_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with Child():
        pass  # the server that forks children runs now
    monkeypatch.setenv("SET_LATER", "yes")
    monkeypatch.chdir(tmp_path)
    with Child() as child:
        assert child.call(os.getenv, "SET_LATER", seconds=SECONDS) == "yes"
        assert child.call(os.getcwd, seconds=SECONDS) == str(tmp_path)
        child.call(os.chdir, "/", seconds=SECONDS)
    assert Path.cwd() == tmp_path


def test_what_a_child_prints_goes_to_stderr_without_control_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Child() as child:
        child.call(print_escapes, seconds=SECONDS)
    until, printed = time.monotonic() + SECONDS, ""
    while "raw" not in printed and time.monotonic() < until:
        captured = capsys.readouterr()
        printed += captured.err
        assert not captured.out
    assert printed == "\ufffd[2Jvisible\n\ufffdraw\n"


def test_a_child_starts_though_the_working_directory_was_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "unpacked"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PWD", str(folder))
    folder.rmdir()
    folder.mkdir()  # as Ray does when it unpacks a package again
    with Child() as child:
        assert child.call(os.getcwd, seconds=SECONDS) == str(folder)


def test_a_child_starts_once_the_server_that_an_adapter_ended_runs_again(
    forked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, pauses = ForkProcess.start, list[float]()
    errors = iter([ConnectionRefusedError(), EOFError()])

    def start_at_the_third_try(process: ForkProcess) -> None:
        for error in errors:
            raise error
        start(process)

    monkeypatch.setattr(ForkProcess, "start", start_at_the_third_try)
    monkeypatch.setattr("harness.stages.child.time.sleep", pauses.append)
    with Child() as child:
        assert child.call(os.getppid, seconds=SECONDS) == os.getpid()
    assert pauses == [0.1, 1.0]
    errors = iter([ConnectionRefusedError("refused")] * 4)
    with pytest.raises(LostChildError, match="no process for the adapter could start: refused"):
        Child()
