"""A worker that times trials, each process of a trial in a fresh child."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

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
        """
        seconds, profile = settings.deadline(len(scenarios)), PROFILES[settings.profile]
        number = self._timed[trial.id] % profile.processes
        self._timed[trial.id] += 1
        arguments = (trial, checkpoint, scenarios, settings, number == 0)
        if not profile.forked:
            with Child("spawn") as child:
                return child.call(measure, *arguments, seconds=seconds)
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
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda n: children[n].call(_import, n == 0, seconds=LOAD_SECONDS), children))

    def close(self) -> None:
        """End the interpreters."""
        for interpreter in self._interpreters.values():
            interpreter.close()


def _import(flop_counter: bool) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    import harness.stages.fork_server  # noqa: F401

    if flop_counter:
        with FlopCounterMode(display=False):
            torch.zeros(1).add(1)  # the first counted operation imports a second's worth of modules


def _fork(*arguments: Any) -> Measurement:
    with Child("fork") as child:
        return child.call(measure, *arguments, seconds=None)
