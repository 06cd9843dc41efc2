"""Where stages happen. Both executors give the same predictions; they differ in processes and machines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from harness.plan import Trial
from harness.recipe import CheckpointRef
from harness.stages.measure import SpeedSettings
from harness.stages.predict import Shard, ShardError, ShardResult


class Executor(ABC):
    """Runs stages; a context manager that releases what it took."""

    name: str
    workers: int

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    @abstractmethod
    def train(self, reference: CheckpointRef, report: Callable[[str], None]) -> None:
        """Make a missing checkpoint at `reference.weights`.

        Raises:
            UsageError: the recipe asks for something that is not there.
            HarnessError: training failed.
        """

    @abstractmethod
    def predict(self, work: Sequence[Shard]) -> Iterator[ShardResult | ShardError]:
        """Outcomes in any order; every shard appears once."""

    @abstractmethod
    def measure(self, trial: Trial, scenarios: Sequence[str], settings: SpeedSettings) -> dict[str, Any]:
        """Time a trial in a fresh process while this executor runs nothing else.

        Raises:
            InfrastructureError: the process died or hung, or the adapter raised an error in it.
        """
