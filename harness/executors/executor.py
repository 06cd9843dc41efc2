"""The contract of executors, which run stages in different processes and machines with equal predictions."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Self

from harness.recipe import CheckpointRef
from harness.scenarios.settings import SpeedSettings
from harness.stages.measure import Measurement
from harness.stages.shards import Outcome, Work
from harness.trial import Trial

FIRST_SHARD_DEADLINE_SECONDS = 900.0  # including loading, but not the time in a queue


class Executor(ABC):
    """Runs stages; a context manager that releases its resources on exit."""

    name: str
    workers: int
    retries: Mapping[str, int] = MappingProxyType({})
    """Number of shards whose worker was lost, by trial id."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None

    @abstractmethod
    def check(self, trials: Sequence[Trial]) -> None:
        """Check that all trials can run here, before anything starts.

        Raises:
            InfrastructureError: A trial cannot run; the message names the missing resource.
        """

    @abstractmethod
    def train(
        self, reference: CheckpointRef, report: Callable[[str], None], workers: int | None = None
    ) -> None:
        """Train a missing checkpoint and write it to `reference.weights`.

        Args:
            report: Called with each line of progress.
            workers: On Ray, the number of workers that share each batch. None trains in one process without
                Ray Train, which gives the same weights.

        Raises:
            UsageError: The recipe names something that does not exist.
            HarnessError: Training failed.
        """

    @abstractmethod
    def predict(self, work: Sequence[Work]) -> Iterator[Outcome]:
        """Yield outcomes in any order: every sample once, and whole batches together."""

    @abstractmethod
    def measure(self, trial: Trial, scenarios: Sequence[str], settings: SpeedSettings) -> Measurement:
        """Time a trial in a fresh process while this executor runs nothing else.

        Raises:
            InfrastructureError: The process died or hung, or the adapter raised an error in it.
        """
