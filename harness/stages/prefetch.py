"""Loading ahead: prepare the next batch in another thread while the current one is in use."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def prefetch(jobs: Iterable[Callable[[], T]]) -> Iterator[Callable[[], T]]:
    """Yield a function per job, in order, that returns the job's result or raises its error.

    While the caller works on one result, another thread runs the next job.
    """
    with ThreadPoolExecutor(1) as thread:
        current: Future[T] | None = None
        for job in jobs:
            following = thread.submit(job)
            if current is not None:
                yield current.result
            current = following
        if current is not None:
            yield current.result
