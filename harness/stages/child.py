"""A child process for the code of adapters, which may end, hang or alter the process that it runs in."""

import atexit
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Literal, TypeVar

from harness.errors import HarnessError, InfrastructureError, catch_all, printable
from harness.process import end_with_parent, leave_removed_folder
from harness.recipe import Report, TrainingStep

T = TypeVar("T")

LOAD_SECONDS = 600.0  # until loading a model counts as hanging
OUTPUT_LIMIT = 1 << 20  # bytes that a child may print; the rest is dropped
EXIT_SECONDS = 2.0  # for the exit code of a child that has closed its connection

_connection: Connection | None = None  # of a child to its parent
_starting = threading.Lock()  # for what all threads share and a start changes for a moment


class LostChildError(InfrastructureError):
    """The child died, hung or closed its connection; the message says which."""


class HungChildError(LostChildError):
    """The child has not answered in time."""


class Child(AbstractContextManager["Child"]):
    """A process that runs functions one after another; a context manager that ends it.

    The code in it may change whatever it likes: environment, working directory, signal handlers, descriptors,
    libraries. What it prints goes to stderr of this process, without control characters.

    Args:
        start: `forkserver` starts a child in 20 ms, because torch is imported once for all children. `spawn`
            starts a fresh interpreter, whose peak memory is its own. `fork` copies this process, which must
            not have used torch.
        folders: Where a spawned child looks for modules first.
    """

    def __init__(
        self, start: Literal["forkserver", "spawn", "fork"] = "forkserver", folders: Sequence[Path] = ()
    ) -> None:
        leave_removed_folder()
        context = multiprocessing.get_context(start)
        if start == "forkserver":
            start_fork_server()
        self._connection, theirs = context.Pipe()
        output, printed = context.Pipe(duplex=False)
        self._folders = [str(folder) for folder in folders]
        arguments = (theirs, printed, dict(os.environ))
        self._process = context.Process(target=_serve, args=arguments)  # type: ignore[attr-defined]
        self._start()
        atexit.register(self.close)  # before multiprocessing waits for its processes
        theirs.close()
        printed.close()
        threading.Thread(target=_relay, args=(output,), daemon=True).start()

    def _start(self) -> None:
        for pause in (0.1, 1.0, 5.0, None):
            try:
                with _starting, _start_settings(self._folders):
                    self._process.start()
                break
            except (OSError, EOFError) as error:  # an adapter has just ended the server that forks children
                if pause is None:
                    raise LostChildError(f"no process for the adapter could start: {error}") from error
                time.sleep(pause)

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the child and the processes that it started."""
        atexit.unregister(self.close)
        self._connection.close()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.join()

    def call(
        self,
        function: Callable[..., T],
        *arguments: object,
        seconds: float | None,
        report: Report | None = None,
    ) -> T:
        """Return what a function of a module returns in the child.

        Args:
            seconds: Maximum time until the function returns or reports the next line; None if the caller's
                own end is the limit.
            report: Receives what the function passes to `send_progress`.

        Raises:
            HarnessError: As raised by the function; other exceptions as in `catch_all`.
            LostChildError: The child died, hung or closed its connection. It must not be used again.
        """
        with self._losses():
            self._connection.send((function, arguments))
        while True:
            with self._losses():
                if not self._connection.poll(seconds):
                    raise HungChildError(f"no answer within {seconds or 0:g} s")
                event, error, result = self._connection.recv()
            if event is None:
                break
            if report:
                report(event)
        if error is not None:
            raise error
        returned: T = result
        return returned

    @contextmanager
    def _losses(self) -> Iterator[None]:
        """Turn errors of the connection into LostChildError."""
        try:
            yield
        except LostChildError:
            raise
        except (EOFError, OSError) as error:
            raise LostChildError(self._ending()) from error
        except Exception as error:  # the adapter wrote to the connection, or the answer has an unknown class
            raise LostChildError(f"the answer of the adapter's process cannot be read: {error}") from error

    def _ending(self) -> str:
        self._process.join(EXIT_SECONDS)
        code = self._process.exitcode
        if code is None:
            return "the adapter's process closed its connection"
        if code >= 0:
            return f"the adapter's process ended with exit code {code}"
        return f"the adapter's process was ended by {signal.Signals(-code).name}"


def start_fork_server() -> None:
    """Start the server that forks children unless it runs, and do not wait while it imports torch."""
    multiprocessing.set_forkserver_preload(["harness.stages.fork_server"])
    forkserver.ensure_running()


def send_progress(event: TrainingStep | str) -> None:
    """Send progress from a child to its parent."""
    assert _connection is not None
    _connection.send((event, None, None))


@contextmanager
def _start_settings(folders: list[str]) -> Iterator[None]:
    """Hide this program's main module from a child, and let the child search folders for modules first.

    Otherwise multiprocessing would import the main module there. It hands sys.path to the child.
    """
    main, path = sys.modules["__main__"], sys.path[:]
    sys.modules["__main__"] = ModuleType("__main__")
    sys.path[:0] = folders
    try:
        yield
    finally:
        sys.modules["__main__"], sys.path[:] = main, path


def _serve(connection: Connection, printed: Connection, environment: Mapping[str, str]) -> None:
    """Answer calls until the parent closes the connection."""
    global _connection, _starting
    _connection = connection
    _starting = threading.Lock()  # a forked child has its parent's, which is held
    os.setsid()  # Ctrl-C is for the parent, and signals to this group do not reach it
    end_with_parent()
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # if memory runs out, this process goes first
    os.environ.clear()
    os.environ.update(environment)
    logging.getLogger("harness.datasets").setLevel(logging.ERROR)  # the driver's plan has warned already
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        os.dup2(printed.fileno(), number)
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    printed.close()
    with suppress(EOFError, OSError):
        while True:
            function, arguments = connection.recv()
            error = result = None
            try:
                with catch_all():
                    result = function(*arguments)
            except HarnessError as raised:
                error = raised
            connection.send((None, error, result))


def _relay(output: Connection) -> None:
    """Write what a child prints to stderr."""
    left = OUTPUT_LIMIT
    with output, suppress(OSError):
        while content := os.read(output.fileno(), 1 << 16):
            if left > 0:
                sys.stderr.write(printable(content[:left].decode(errors="replace")))
            left -= len(content)
