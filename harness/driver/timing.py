"""Timing of a trial by several fresh processes; each is stored at once, so an interrupted run continues."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import environment
from harness.driver.answers import with_checked_answers
from harness.environment import Environment
from harness.errors import InfrastructureError
from harness.executors.executor import Executor
from harness.files import read_record
from harness.rundir.speed import CommonFile, common_path, read_timings, timings_path
from harness.rundir.store import RunDirectory
from harness.scenarios.scenario import SCENARIOS, ProcessTiming, Scenario
from harness.scenarios.settings import PROFILES, EffectiveSettings, SpeedSettings
from harness.stages.measure import Measurement
from harness.suite.schema import SpeedEntry
from harness.trial import Trial

SPEED_ATTEMPTS = 3  # attempts per process, except under profiles that never gate, such as `smoke`


def measure(
    directory: RunDirectory,
    trial: Trial,
    earlier: Sequence[Trial],
    speed: SpeedEntry,
    executor: Callable[[], Executor],
    note: Callable[[str], None],
    local: Environment | None,
) -> None:
    """Time the scenarios of a trial, in as many fresh processes as the profile requires.

    Every process is stored at once, so the next run of the suite continues after the last stored one. Until
    all are stored, the `error` of a scenario's file says what is missing. An invalid timing that is repeated
    is kept under `rejected`. Work that an earlier trial shares is not timed again.

    Args:
        earlier: Trials that have been timed.
        local: Environment in which processes are timed; timings from other hardware are repeated. None for a
            cluster, which may have several environments.
    """
    if directory.trial(trial.id).predictions.count_missing(trial.spec.size):
        return
    timing = _TrialTiming(directory, trial, speed.settings(trial.spec.threads), local)
    timing.copy_shared(earlier)
    if not timing.unfinished():
        return
    running = executor()
    try:
        while scenarios := timing.unfinished():
            note(f"timing {trial.name}: {', '.join(scenarios)} ({timing.progress(scenarios[0])})")
            timing.add(running.measure(trial, scenarios, timing.settings))
    except InfrastructureError as error:
        note(str(error))
        timing.fail(str(error))


@dataclass(frozen=True)
class _Setup:
    """Conditions that processes must share before their times may be combined."""

    settings: EffectiveSettings
    environment: Environment

    def differences(self, other: _Setup) -> list[str]:
        """Return the names of the conditions that differ."""
        mine, others = (
            {"settings": setup.settings, **dict(setup.environment.hardware), "torch": setup.environment.torch}
            for setup in (self, other)
        )
        return [name for name, value in mine.items() if value != others[name]]


class _TrialTiming:
    """Stored timings of the scenarios of one trial, to which the processes of this run are added."""

    def __init__(
        self, directory: RunDirectory, trial: Trial, settings: SpeedSettings, local: Environment | None
    ) -> None:
        self.settings = settings
        self._directory = directory
        self._trial = trial
        self._trial_dir = directory.trial(trial.id)
        self._path = self._trial_dir.path
        self._profile = PROFILES[settings.profile]
        self._setup: _Setup | None = None  # of the processes of this run
        self._common: CommonFile | None = None  # of these processes
        self._local = local
        self._stored = {name: self._resume(name, self._path) for name in trial.scenarios}

    def unfinished(self) -> list[str]:
        """Return the scenarios that lack processes."""
        return [name for name in self._stored if len(self._processes(name)) < self._profile.processes]

    def copy_shared(self, earlier: Sequence[Trial]) -> None:
        """Copy timings of earlier trials whose work in a scenario was the same.

        The last scenario of a trial without common measurements is timed, because these depend on the batch
        size.
        """
        for scenario in self.unfinished():
            same = [trial for trial in earlier if self._is_same_work(scenario, trial)]
            if not same or not (len(self.unfinished()) > 1 or common_path(self._path).exists()):
                continue
            stored = self._resume(scenario, self._directory.trial(same[0].id).path)
            if stored is not None and len(stored.processes) == self._profile.processes:
                self._stored[scenario] = stored.model_copy(update={"timed_for": same[0].name})
                self._write(scenario, "")

    def _is_same_work(self, scenario: str, other: Trial) -> bool:
        """Return whether a trial differs in batch size only, and its queries and samples are the same."""
        sizes = [trial.spec.batch_size for trial in (self._trial, other)]
        spec = other.spec.model_copy(update={"batch_size": sizes[0]})
        if spec != self._trial.spec or scenario not in other.scenarios:
            return False
        samples = set(map(self.settings.whole_batches, sizes))
        return len(samples) == len(set(map(SCENARIOS.get(scenario).query_size, sizes))) == 1

    def progress(self, scenario: str) -> str:
        """Return the number of a scenario's next process."""
        return f"process {len(self._processes(scenario)) + 1}/{self._profile.processes}"

    def add(self, measurement: Measurement) -> None:
        """Store the measurement of one process.

        Raises:
            InfrastructureError: Its hardware or settings differ from those of the earlier processes.
        """
        setup = _Setup(measurement.settings, measurement.environment)
        if self._setup is None:
            self._setup = setup
        if differences := setup.differences(self._setup):
            raise InfrastructureError(
                f"timing {self._trial.name}: the processes differ in {', '.join(differences)}: they ran on "
                "different machines, whose times must not be mixed"
            )
        self._common = self._common.joined(measurement.common) if self._common else measurement.common
        self._trial_dir.write_record(common_path(self._path), self._common)
        self._directory.write_environment(measurement.environment)
        for scenario, timing in measurement.timings.items():
            checked = with_checked_answers(timing, self._trial, self._trial_dir, measurement.classes)
            stored = self._stored[scenario]
            if stored and stored.processes and self._differs(stored, setup):
                self._stored[scenario] = None  # of an earlier run, on different hardware
            self._append(scenario, checked, measurement)
            self._write(scenario, "interrupted")

    def fail(self, error: str) -> None:
        """Store the error in the files of the scenarios that lack processes."""
        for scenario in self.unfinished():
            if not self._processes(scenario):
                self._stored[scenario] = self._describe_failure(scenario)
            self._write(scenario, error)

    def _processes(self, scenario: str) -> tuple[ProcessTiming, ...]:
        stored = self._stored[scenario]
        return stored.processes if stored else ()

    def _resume(self, scenario: str, trial_dir: Path) -> Scenario | None:
        """Read stored timings with the same settings, on the local hardware if that is given.

        Invalid timings under a profile that gates are rejected, and the attempts are counted from 0 again,
        because the disturbance may be over.
        """
        stored = read_timings(trial_dir, scenario)
        if stored is None or not stored.satisfies(self.settings):
            return None
        if self._local is not None and self._differs(stored, _Setup(stored.settings, self._local)):
            return None
        valid = tuple(timing for timing in stored.processes if not (timing.reasons and self._profile.gates))
        invalid = (timing for timing in stored.processes if timing.reasons and self._profile.gates)
        rejected = tuple(timing.model_copy(update={"process": 0}) for timing in (*stored.rejected, *invalid))
        return stored.model_copy(update={"processes": valid, "rejected": rejected})

    def _differs(self, stored: Scenario, setup: _Setup) -> bool:
        """Return whether stored processes had a different or an unknown setup."""
        path = self._directory.path / "environments" / f"{stored.environment}.json"
        described = read_record(path, Environment)
        return described is None or bool(setup.differences(_Setup(stored.settings, described)))

    def _append(self, scenario: str, timing: ProcessTiming, measurement: Measurement) -> None:
        """Append a timing to the accepted ones, or to the rejected ones if it will be repeated."""
        stored = self._stored[scenario]
        processes, rejected = (stored.processes, stored.rejected) if stored else ((), ())
        number = len(processes) + 1
        attempts = 1 + sum(earlier.process == number for earlier in rejected)
        if timing.reasons and self._profile.gates and attempts < SPEED_ATTEMPTS:
            rejected = (*rejected, timing.model_copy(update={"process": number}))
        else:
            processes = (*processes, timing)
        cls = SCENARIOS.get(scenario)
        self._stored[scenario] = cls(
            scenario=scenario,
            batch_size=cls.query_size(self._trial.spec.batch_size),
            processes=processes,
            rejected=rejected,
            environment=measurement.environment.key,
            settings=measurement.settings,
            samples=measurement.samples,
            units=measurement.units,
        )

    def _describe_failure(self, scenario: str) -> Scenario:
        """Return the file of a scenario that no process has timed."""
        local, cls, stored = environment.describe(), SCENARIOS.get(scenario), self._stored[scenario]
        self._directory.write_environment(local)
        return cls(
            scenario=scenario,
            batch_size=cls.query_size(self._trial.spec.batch_size),
            processes=(),
            rejected=stored.rejected if stored else (),
            environment=local.key,
            settings=EffectiveSettings(**dict(self.settings), effective_threads=self.settings.threads or 0),
            samples=[],
        )

    def _write(self, scenario: str, error: str) -> None:
        """Write a scenario's file; the error is included only if processes are missing."""
        stored = self._stored[scenario]
        assert stored is not None
        done, required = len(stored.processes), self._profile.processes
        if done < required:
            after = f" (after {done} of {required} processes)" if done else ""
            stored = stored.model_copy(update={"error": f"{error}{after}"})
        self._trial_dir.write_record(timings_path(self._path, scenario), stored)
