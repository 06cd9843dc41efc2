"""Everything that a child process needs before it is forked; imported by the server that forks children.

Importing torch takes seconds, so the server does it once for all children of a run.
"""

from __future__ import annotations

import ctypes
import signal
from contextlib import suppress

import torch  # noqa: F401

import harness.stages.predict  # noqa: F401

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux, prctl(2)


def end_with_parent() -> None:
    """Let the kernel kill this process when its parent ends, even within C code (on Linux only)."""
    with suppress(AttributeError):  # other systems lack prctl
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


end_with_parent()
