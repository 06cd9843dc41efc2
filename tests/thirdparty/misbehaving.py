"""Adapters that misbehave: each may spoil its own trial, and nothing else.

`FAULTS` lists them by name. They must run in a child process of the harness, never in the process of a test.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import locale
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

import harness.trial
from harness.adapter import AdapterOptions, TranslationAdapter
from harness.checkpoint import Checkpoint
from harness.task import Prediction, Sample, Translation

Stage = Literal["load", "forward", "postprocess"]


class Unclassified(BaseException):
    """An exception that `except Exception` does not catch, of a class that the driver cannot import."""


def _raise(error: BaseException) -> None:
    raise error


def _recurse(depth: int = 0) -> int:
    return _recurse(depth + 1) + 1


def _overflow_the_stack() -> None:
    sys.setrecursionlimit(10**9)
    threading.stack_size(0)
    _recurse()


def _hang_in_c() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    re.match(r"(a+)+$", "a" * 64 + "b")  # holds the interpreter's lock for ages


def _exhaust_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))  # so that a test leaves the machine alone
    hoard = []
    while True:
        hoard.append(np.ones(1 << 25))


def _close_everything() -> None:
    os.closerange(3, 4096)


def _close_standard_streams() -> None:
    for number in range(3):
        os.close(number)


def _chdir_to_a_removed_folder() -> None:
    folder = tempfile.mkdtemp()
    os.chdir(folder)
    shutil.rmtree(folder)


def _print_escapes() -> None:
    sys.stdout.write('\x1b[2J\x1b]0;owned\x07\x1b[31m{"not": "json"}\n')
    os.write(1, b"\x00\x1b[1A\xff\n")


def _spam() -> None:
    for _ in range(200):
        sys.stdout.write("spam " * 4000 + "\n")


def _leak_threads() -> None:
    for _ in range(50):
        threading.Thread(target=time.sleep, args=(3600,)).start()


def _leak_processes() -> None:
    if os.fork() == 0:
        time.sleep(3600)


def _replace_libraries() -> None:
    json.dumps = lambda *_, **__: "{}"  # type: ignore[assignment]
    np.asarray = np.array = lambda *_, **__: np.zeros(3)  # type: ignore[assignment]
    np.random.seed(0)
    torch.set_default_dtype(torch.float64)
    torch.Tensor.__matmul__ = lambda *_: torch.zeros(1)  # type: ignore[method-assign, assignment]


def _change_locale() -> None:
    for name in ("C", "POSIX"):
        locale.setlocale(locale.LC_ALL, name)
    os.environ.update(LC_ALL="C", LANG="C", TZ="Pacific/Kiritimati")
    time.tzset()


def _change_environment() -> None:
    os.environ.clear()
    os.umask(0o777)


def _remove_temporary_folder() -> None:
    tempfile.tempdir = tempfile.mkdtemp()
    os.environ["TMPDIR"] = tempfile.tempdir
    shutil.rmtree(tempfile.tempdir)


def _take_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGPIPE):
        signal.signal(number, lambda *_: os._exit(0))
    os.kill(0, signal.SIGWINCH)


def _replace_output() -> None:
    sys.stdout = sys.stderr = None  # type: ignore[assignment]
    sys.excepthook = lambda *_: os._exit(0)


def _write_to_descriptors() -> None:
    """Write to every open descriptor, the connection to the driver included."""
    for number in range(3, 64):
        with suppress(OSError):
            os.write(number, b"\x00\x00\x00\x08garbage!")


def _kill_parent() -> None:
    """Kill the server that forks children, and nothing else."""
    parent = os.getppid()
    if b"forkserver" in Path(f"/proc/{parent}/cmdline").read_bytes():
        os.kill(parent, signal.SIGKILL)
    time.sleep(60)


@dataclass(frozen=True)
class Fault:
    """A way to misbehave, and what becomes of the trial."""

    act: Callable[[], object]
    stage: Stage = "forward"
    complete: bool | None = False
    """Whether the trial's predictions are nevertheless complete; None if both are right."""
    hangs: bool = False
    """True if a deadline must end it, so that a test sets a short one."""


FAULTS: dict[str, Fault] = {
    **{
        f"{name} in {stage}": Fault(act, stage)  # type: ignore[arg-type]
        for stage in ("load", "forward", "postprocess")
        for name, act in {
            "os._exit(0)": lambda: os._exit(0),
            "os._exit(7)": lambda: os._exit(7),
            "sys.exit(0)": lambda: sys.exit(0),
            "sys.exit(5)": lambda: sys.exit(5),
            "KeyboardInterrupt": lambda: _raise(KeyboardInterrupt()),
            "BaseException": lambda: _raise(Unclassified("x")),
            "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
            "SIGSEGV": lambda: ctypes.string_at(0),
            "SIGABRT": os.abort,
            "RecursionError": _recurse,
            "GeneratorExit": lambda: _raise(GeneratorExit()),
        }.items()
    },
    "stack overflow": Fault(_overflow_the_stack),
    "memory": Fault(_exhaust_memory),
    "all descriptors closed": Fault(_close_everything),
    "garbage to the driver": Fault(_write_to_descriptors),
    "sleep in load": Fault(lambda: time.sleep(3600), "load", hangs=True),
    "sleep in forward": Fault(lambda: time.sleep(3600), hangs=True),
    "loop in C": Fault(_hang_in_c, hangs=True),
    "SIGSTOP": Fault(lambda: os.kill(os.getpid(), signal.SIGSTOP), hangs=True),
    "its parent killed": Fault(_kill_parent),
    "its group killed": Fault(lambda: os.kill(0, signal.SIGKILL)),
    "other working directory": Fault(lambda: os.chdir("/"), complete=True),
    "removed working directory": Fault(_chdir_to_a_removed_folder, complete=True),
    "standard streams closed": Fault(_close_standard_streams, complete=True),
    "escapes printed": Fault(_print_escapes, complete=True),
    "output without end": Fault(_spam, complete=True),
    "threads left": Fault(_leak_threads, complete=True),
    "processes left": Fault(_leak_processes, complete=True),
    "libraries replaced": Fault(_replace_libraries, "load", complete=None),
    "locale": Fault(_change_locale, complete=True),
    "environment": Fault(_change_environment, complete=True),
    "temporary folder removed": Fault(_remove_temporary_folder, complete=True),
    "signal handlers": Fault(_take_signals, complete=True),
    "output replaced": Fault(_replace_output, complete=True),
    "atexit": Fault(lambda: atexit.register(lambda: os._exit(7)), complete=True),
    "recursion limit": Fault(lambda: sys.setrecursionlimit(120), "load", complete=None),
    "collector off": Fault(lambda: (__import__("gc").disable(), __import__("gc").freeze()), complete=True),
    "priority": Fault(lambda: os.nice(19), complete=True),
    "limits": Fault(lambda: resource.setrlimit(resource.RLIMIT_NPROC, (1, 1)), complete=True),
    "child that exits": Fault(lambda: os.fork() or os._exit(0), complete=True),
}


SHARED_FAULTS = {"later loads broken": Fault(lambda: setattr(harness.trial, "load", None), "load")}
"""What harms other trials only in a process that they share, which is the one that checks them."""


class MisbehavingOptions(AdapterOptions):
    """The name of a fault, and the sample at which it occurs."""

    fault: str
    at: int = 5


class Misbehaving(TranslationAdapter):
    """Answers with the source, except that it misbehaves once at one sample."""

    Options = MisbehavingOptions

    def load(self, checkpoint: Checkpoint | None) -> None:
        self._act("load")

    def preprocess(self, samples: Sequence[Sample]) -> list[Sample]:
        return list(samples)

    def forward(self, batch: list[Sample]) -> list[str]:
        if any(sample.id.endswith(f"{self.options.at:07d}") for sample in batch):
            self._act("forward")
        return [str(sample.input) for sample in batch]

    def postprocess(self, raw: Any, batch: list[Sample]) -> list[Prediction]:
        if any(sample.id.endswith(f"{self.options.at:07d}") for sample in batch):
            self._act("postprocess")
        return [Translation(text) for text in raw]

    def _act(self, stage: Stage) -> None:
        fault = (FAULTS | SHARED_FAULTS)[self.options.fault]  # type: ignore[attr-defined]
        if fault.stage == stage:
            fault.act()
