"""A worker that times trials, each process of a trial in a fresh child."""

from collections import Counter
from collections.abc import Sequence

from harness.checkpoint import Checkpoint
from harness.scenarios.settings import PROFILES, SpeedSettings
from harness.stages.child import Child, LostChildError
from harness.stages.measure import Measurement, measure
from harness.trial import Trial


class TimingWorker:
    """Times the processes of trials one after another.

    Forked processes start at once, but all that one interpreter forks share its layout in memory and its
    hashes, and with these its speed: they differ far less than processes of different interpreters
    (docs/speed.md). The first process of every trial is therefore forked by one interpreter, the second by
    another, and so on.
    """

    def __init__(self) -> None:
        self._interpreters: dict[int, Child] = {}
        self._timed: Counter[str] = Counter()

    def measure(
        self, trial: Trial, checkpoint: Checkpoint | None, scenarios: Sequence[str], settings: SpeedSettings
    ) -> Measurement:
        """Time scenarios of a trial in one process.

        Args:
            checkpoint: None if the process can read the file.

        Raises:
            LostChildError: The process died or hung.
            HarnessError: As raised in the process.
        """
        arguments = (trial, checkpoint, scenarios, settings)
        seconds, profile = settings.deadline(len(scenarios)), PROFILES[settings.profile]
        if not profile.forked:
            with Child("spawn") as child:
                return child.call(_measure, *arguments, seconds=seconds)
        number = self._timed[trial.id] % profile.processes
        self._timed[trial.id] += 1
        if number not in self._interpreters:
            self._interpreters[number] = Child("spawn")
        try:
            return self._interpreters[number].call(_fork, *arguments, seconds=seconds)
        except LostChildError:
            self._interpreters.pop(number).close()
            raise

    def close(self) -> None:
        """End the interpreters."""
        for interpreter in self._interpreters.values():
            interpreter.close()


def _fork(
    trial: Trial, checkpoint: Checkpoint | None, scenarios: Sequence[str], settings: SpeedSettings
) -> Measurement:
    with Child() as child:
        return child.call(_measure, trial, checkpoint, scenarios, settings, seconds=None)


def _measure(
    trial: Trial, checkpoint: Checkpoint | None, scenarios: Sequence[str], settings: SpeedSettings
) -> Measurement:
    return measure(trial, checkpoint or trial.load_checkpoint(), scenarios, settings)
