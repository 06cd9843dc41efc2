"""The parent of the process that drives a run: no ending that Ray causes looks like a regression."""

import atexit
import os
import signal
import sys
from contextlib import suppress

from harness.errors import InfrastructureError
from harness.process import end_with_parent

# Of Ray's C++ code, if a node or the head dies while Ray starts.
_CRASHES = {-signal.SIGABRT, -signal.SIGSEGV}
_MEANINGS = range(5)  # exit codes that say something about a run
_FROM_A_PROCESS = 0  # SI_USER of sigaction(2); a terminal sends its signals to both processes itself


def supervise() -> None:
    """Continue in a child process, and end with its exit code once it has ended.

    Ray's C++ code ends a process with exit code 1, which means a regression, if it loses its node while it
    starts, and a plug-in may call `os._exit(0)`. No code in that process can prevent this: only an exit code
    of Python's own regular end counts.
    """
    signals = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    regular, mark = os.pipe()
    os.set_blocking(regular, False)  # a process that the child leaves behind may hold the other end
    child = os.fork()
    if child == 0:
        atexit.register(os.write, mark, b".")
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        end_with_parent()
        return
    os.close(mark)
    while True:
        received = signal.sigwaitinfo(signals)
        if received.si_signo != signal.SIGCHLD:
            if received.si_code == _FROM_A_PROCESS:
                os.kill(child, received.si_signo)
            continue
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
    code = os.waitstatus_to_exitcode(status)
    is_regular = False
    with suppress(BlockingIOError):
        is_regular = os.read(regular, 1) == b"."
    if code in _CRASHES or (code in _MEANINGS and not is_regular):
        resumes = "; the same command resumes the run" if sys.argv[1:2] == ["run"] else ""
        sys.stderr.write(f"error: Ray or a plug-in ended this process{resumes}\n")
        code = InfrastructureError.exit_code
    sys.stderr.flush()
    if code < 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.kill(os.getpid(), -code)
    os._exit(code)
