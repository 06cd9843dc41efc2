"""The contract of executors, which run stages in different processes and machines with equal predictions."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from types import MappingProxyType

from harness.recipe import CheckpointRef, Report
from harness.scenarios.settings import SpeedSettings
from harness.stages.measure import Measurement
from harness.stages.shards import Outcome, Work
from harness.trial import Trial

FIRST_SHARD_DEADLINE_SECONDS = 900.0  # including loading, but not the time in a queue


class Executor(AbstractContextManager["Executor"]):
    """Runs stages; a context manager that releases its resources on exit."""

    name: str
    workers: int
    retries: Mapping[str, int] = MappingProxyType({})
    """Number of shards whose worker was lost, by trial id."""

    @abstractmethod
    def check(self, trials: Sequence[Trial]) -> None:
        """Check that all trials can run here, before anything starts.

        Raises:
            InfrastructureError: A trial cannot run; the message names the missing resource.
        """

    @abstractmethod
    def train(self, reference: CheckpointRef, report: Report) -> None:
        """Train a missing checkpoint and write it to `reference.weights`.

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
