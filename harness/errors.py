"""What can go wrong, sorted by who can mend it; the CLI turns each kind into its exit code."""


class HarnessError(Exception):
    """Base of the errors that reach the user as one message, never as a traceback."""

    exit_code = 3


class UsageError(HarnessError):
    """The user's input is wrong: an unknown name, a malformed file, a path outside the data root."""

    exit_code = 2


class UnavailableError(HarnessError):
    """Something this machine lacks (catalogues, a data root); a benchmark may choose to be skipped."""

    exit_code = 2


class InfrastructureError(HarnessError):
    """A worker, node or server failed; never the model's fault and never scored as a wrong answer."""

    exit_code = 3


def describe(error: BaseException) -> str:
    """One line for records: the kind of error and its message."""
    return f"{type(error).__name__}: {error}".replace("\n", " ")[:2000]
