"""Errors, classified by who can fix them; the command line turns each kind into an exit code."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class HarnessError(Exception):
    """Base of the errors that the user sees as one message, without a traceback."""

    exit_code = 3


class UsageError(HarnessError):
    """Wrong input: an unknown name, a malformed file, a path outside the data root."""

    exit_code = 2


class UnavailableError(HarnessError):
    """A missing resource, such as a data set. A suite may allow skipping the benchmark in this case."""

    exit_code = 2


class InfrastructureError(HarnessError):
    """Failure of a worker, node or server; never the model's fault and never scored as a wrong answer."""

    exit_code = 3


class AdapterError(HarnessError):
    """An exception of an adapter, as `describe` describes it."""


def printable(text: str) -> str:
    """Return text in which control characters, except tabs and line ends, are replaced by U+FFFD."""
    return "".join(c if c.isprintable() or c in "\t\n" else "\ufffd" for c in text)


def describe(error: BaseException) -> str:
    """Return the kind of error and its message in one printable line of at most 2,000 characters.

    The messages of InfrastructureError and AdapterError say everything, without the kind.
    """
    kind = "" if isinstance(error, InfrastructureError | AdapterError) else f"{type(error).__name__}: "
    return printable(f"{kind}{error}".replace("\n", " ")[:2000])


@contextmanager
def catch_all() -> Iterator[None]:
    """Turn every exception of an adapter into a HarnessError.

    Raises:
        AdapterError: For an exception.
        InfrastructureError: For an attempt to end the process, such as SystemExit or KeyboardInterrupt.
    """
    try:
        yield
    except HarnessError as error:
        if type(error).__module__ != __name__:  # defined by an adapter; this class may not exist elsewhere
            raise AdapterError(describe(error)) from error
        raise
    except Exception as error:
        raise AdapterError(describe(error)) from error
    except BaseException as error:
        raise InfrastructureError(describe(error)) from error
