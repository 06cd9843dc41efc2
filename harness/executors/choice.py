"""The choice of an executor by name; nothing heavy is imported before it starts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.executors.executor import Executor


def executor_factory(
    name: str, address: str | None = None, workers: int | None = None
) -> Callable[[], AbstractContextManager[Executor]]:
    """Return a function that creates the executor. Ray is imported only when that function is called.

    Without an address, Ray starts a local cluster.

    Raises:
        UsageError: The name is unknown, or `inline` is given an address or several workers.
    """
    if name == "inline":
        if address or (workers or 1) > 1:
            raise UsageError("--executor inline accepts neither --address nor --workers")
        from harness.executors.inline import InlineExecutor

        return InlineExecutor
    if name != "ray":
        raise UsageError(f"unknown executor '{name}' (known: inline, ray)")

    def make() -> AbstractContextManager[Executor]:
        from harness.executors.ray.executor import RayExecutor

        return RayExecutor(address, workers)

    return make
