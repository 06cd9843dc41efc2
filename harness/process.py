"""The lifetime of processes."""

from __future__ import annotations

import ctypes
import signal
from contextlib import suppress

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux, prctl(2)


def end_with_parent() -> None:
    """Let the kernel kill this process when its parent ends, even within C code (on Linux only)."""
    with suppress(AttributeError):  # other systems lack prctl
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
