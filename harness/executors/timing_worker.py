"""A worker that times trials, each process of a trial in a fresh child."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from harness.checkpoint import Checkpoint
from harness.scenarios.settings import PROFILES, SpeedSettings
from harness.stages.child import LOAD_SECONDS, Child, LostChildError
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
        self._start_interpreters(profile.processes)
        try:
            return self._interpreters[number].call(_fork, *arguments, seconds=seconds)
        except LostChildError:
            self._interpreters.pop(number).close()
            raise

    def _start_interpreters(self, count: int) -> None:
        """Start the missing interpreters at the same time, because each imports torch for seconds."""
        missing = [number for number in range(count) if number not in self._interpreters]
        children = {number: Child("spawn") for number in missing}
        self._interpreters |= children
        with ThreadPoolExecutor(max(1, len(children))) as pool:
            for started in [
                pool.submit(child.call, _import, seconds=LOAD_SECONDS) for child in children.values()
            ]:
                started.result()

    def close(self) -> None:
        """End the interpreters."""
        for interpreter in self._interpreters.values():
            interpreter.close()


def _import() -> None:
    import harness.stages.fork_server  # noqa: F401


def _fork(
    trial: Trial, checkpoint: Checkpoint | None, scenarios: Sequence[str], settings: SpeedSettings
) -> Measurement:
    with Child("fork") as child:
        return child.call(_measure, trial, checkpoint, scenarios, settings, seconds=None)


def _measure(
    trial: Trial, checkpoint: Checkpoint | None, scenarios: Sequence[str], settings: SpeedSettings
) -> Measurement:
    return measure(trial, checkpoint or trial.load_checkpoint(), scenarios, settings)
