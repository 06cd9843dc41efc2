"""The lifetime of processes."""

import ctypes
import os
import signal
from contextlib import suppress
from pathlib import Path

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux, prctl(2)


def end_with_parent() -> None:
    """Let the kernel kill this process when its parent ends, even within C code (on Linux only)."""
    with suppress(AttributeError):  # other systems lack prctl
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def leave_removed_folder() -> None:
    """Change to the folder that now has the name of a removed working directory, or else to `/`.

    Ray unpacks the package of a job again if another node on this host needs it, which removes the working
    directory of everything that already runs there. Starting a process and loading libraries need one.
    """
    try:
        Path.cwd()
    except FileNotFoundError:
        again = Path(os.environ.get("PWD", "/"))
        os.chdir(again if again.is_dir() else "/")
