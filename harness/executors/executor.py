"""Where stages happen. Both executors give the same predictions; they differ in processes and machines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Any, Self

from harness.files import write_bytes
from harness.recipe import CheckpointRef
from harness.stages.measure import SpeedSettings
from harness.stages.shards import Outcome, Work
from harness.trial import Trial


class Executor(ABC):
    """Runs stages; a context manager that releases what it took."""

    name: str
    workers: int
    retries: Mapping[str, int] = MappingProxyType({})
    """Shards whose worker was lost and that are tried again, by trial id."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    @abstractmethod
    def check(self, trials: Sequence[Trial]) -> None:
        """See whether all trials can run here, before anything starts.

        Raises:
            InfrastructureError: one cannot; names the resource that is missing.
        """

    @abstractmethod
    def train(
        self, reference: CheckpointRef, report: Callable[[str], None], workers: int | None = None
    ) -> None:
        """Make a missing checkpoint at `reference.weights`.

        Args:
            workers: how many share each batch, on Ray; None is one without Ray Train, with the same weights.

        Raises:
            UsageError: the recipe asks for something that is not there.
            HarnessError: training failed.
        """

    @abstractmethod
    def predict(self, work: Sequence[Work]) -> Iterator[Outcome]:
        """Outcomes in any order; every sample appears once, whole batches together."""

    @abstractmethod
    def measure(self, trial: Trial, scenarios: Sequence[str], settings: SpeedSettings) -> dict[str, Any]:
        """Time a trial in a fresh process while this executor runs nothing else.

        Raises:
            InfrastructureError: the process died or hung, or the adapter raised an error in it.
        """


def write_made(reference: CheckpointRef, made: Mapping[str, bytes]) -> None:
    """Put the files of a checkpoint (name → content, weights last) where it belongs."""
    for name, content in made.items():
        write_bytes(reference.weights.with_name(name), content)
