"""Errors, classified by who can fix them; the command line turns each kind into an exit code."""


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


def describe(error: BaseException) -> str:
    """Return the kind of error and its message in one line of at most 2,000 characters."""
    return f"{type(error).__name__}: {error}".replace("\n", " ")[:2000]
