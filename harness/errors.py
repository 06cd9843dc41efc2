"""Errors, classified by who can fix them; the command line turns each kind into an exit code."""

import errno
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import NoneType, UnionType
from typing import Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

P = ParamSpec("P")
T = TypeVar("T")

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


def checked(function: Callable[P, T]) -> Callable[P, T]:
    """Return a function that raises a UsageError for an argument whose type does not fit its annotation."""
    signature = inspect.signature(function)

    @wraps(function)
    def call(*arguments: P.args, **named: P.kwargs) -> T:
        hints = get_type_hints(function)
        try:
            bound = signature.bind(*arguments, **named).arguments
        except TypeError as error:
            raise TypeError(f"{function.__qualname__}: {error}") from None
        for name, value in bound.items():
            hint = hints.get(name, object)
            parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
            kinds = [str if get_origin(part) is Literal else get_origin(part) or part for part in parts]
            if float in kinds and type(value) is int:  # PEP 484: an int is valid for a float
                continue
            is_text = isinstance(value, str) and not {str, object} & {*kinds}  # a sequence of characters
            if is_text or (type(value) is bool and int in kinds) or not isinstance(value, tuple(kinds)):
                expected = " or ".join("None" if kind is NoneType else kind.__name__ for kind in kinds)
                raise UsageError(f"{name}: expected {expected}, found {value!r:.80}")
        return function(*arguments, **named)

    return call


def printable(text: str) -> str:
    """Return text in which control characters, except tabs and line ends, are replaced by U+FFFD."""
    return "".join(c if c.isprintable() or c in "\t\n" else "\ufffd" for c in text)


def describe(error: BaseException) -> str:
    """Return the kind of error and its message in one printable line of at most 2,000 characters.

    The messages of InfrastructureError and AdapterError say everything, without the kind.
    """
    kind = "" if isinstance(error, InfrastructureError | AdapterError) else f"{type(error).__name__}: "
    return printable(f"{kind}{error}".replace("\n", " ")[:2000])


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the memory of the GPU or of this machine was exhausted.

    Torch raises `OutOfMemoryError` from its own GPU allocator, and a plain RuntimeError elsewhere (cuDNN,
    `DefaultCPUAllocator: not enough memory`).
    """
    text = str(error).lower()
    mentions_memory = "out of memory" in text or "not enough memory" in text
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and mentions_memory)


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
