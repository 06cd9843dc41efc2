"""Timing of a trial by several fresh processes; each is stored at once, so an interrupted run continues."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness import environment
from harness.environment import Environment, Hardware
from harness.errors import InfrastructureError
from harness.executors.executor import Executor
from harness.rundir.records import read_record, write_record
from harness.rundir.speed import common_path, read_timings, timings_path
from harness.rundir.store import RunDirectory
from harness.scenarios.scenario import SCENARIOS
from harness.scenarios.settings import PROFILES, EffectiveSettings, Profile, SpeedSettings
from harness.scenarios.timings import ProcessTiming, ScenarioTimings
from harness.stages.measure import Measurement
from harness.suite.schema import SpeedEntry
from harness.trial import Trial

SPEED_ATTEMPTS = 3  # per process; profiles that never gate, such as `smoke`, do not repeat invalid timings


def measure(
    directory: RunDirectory,
    trial: Trial,
    speed: SpeedEntry,
    executor: Callable[[], Executor],
    note: Callable[[str], None],
    local: Environment | None,
) -> None:
    """Time the scenarios of a trial, in as many fresh processes as the profile requires.

    Every process is stored at once, so the next run of the suite continues after the last one. Until then, a
    scenario's file has an `error` that says what is missing. An invalid timing that is repeated is kept under
    `rejected`.

    Args:
        local: Environment that does the timing; timings from other hardware are repeated. None for a cluster,
            which may have several.
    """
    if directory.trial(trial.id).predictions.count_missing(trial.spec.size):
        return
    settings = SpeedSettings(**dict(speed))
    timing = _TrialTiming(directory, trial, settings, local)
    if not timing.unfinished():
        return
    running = executor()
    try:
        while scenarios := timing.unfinished():
            names = [scenario.name for scenario in scenarios]
            note(f"timing {trial.name}: {', '.join(names)} ({scenarios[0].progress()})")
            timing.add(running.measure(trial, names, settings))
    except InfrastructureError as error:
        note(str(error))
        timing.fail(str(error))


@dataclass(frozen=True)
class _Setup:
    """Conditions that processes must share before their times may be combined."""

    settings: EffectiveSettings
    hardware: Hardware
    torch: str | None

    @staticmethod
    def of(settings: EffectiveSettings, environment: Environment) -> _Setup:
        return _Setup(settings, environment.hardware, environment.torch)

    def differences(self, other: _Setup) -> list[str]:
        """Return the names of the conditions that differ."""
        mine, others = (
            {"settings": setup.settings, **dict(setup.hardware), "torch": setup.torch}
            for setup in (self, other)
        )
        return [name for name, value in mine.items() if value != others[name]]


class _TrialTiming:
    """The scenarios of one trial: stored timings of earlier runs, and those added by this run."""

    def __init__(
        self, directory: RunDirectory, trial: Trial, settings: SpeedSettings, local: Environment | None
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._trial = trial
        self._trial_dir = directory.trial(trial.id).path
        self._setup: _Setup | None = None  # of the processes of this run
        self._scenarios = {
            name: _ScenarioFile(self._trial_dir, name, trial.spec.batch_size, PROFILES[settings.profile])
            for name in trial.scenarios
        }
        for scenario in self._scenarios.values():
            self._resume(scenario, local)

    def unfinished(self) -> list[_ScenarioFile]:
        """Return the scenarios that lack processes."""
        return [scenario for scenario in self._scenarios.values() if scenario.missing]

    def add(self, measurement: Measurement) -> None:
        """Store what one process measured.

        Raises:
            InfrastructureError: Its hardware or settings differ from those of the earlier processes.
        """
        setup = _Setup.of(measurement.settings, measurement.environment)
        if self._setup is None:
            write_record(common_path(self._trial_dir), measurement.common)
            self._setup = setup
        if differences := setup.differences(self._setup):
            raise InfrastructureError(
                f"timing {self._trial.name}: the processes differ in {', '.join(differences)}: they ran on "
                "different machines, whose times must not be mixed"
            )
        self._directory.write_environment(measurement.environment)
        for name, timing in measurement.timings.items():
            scenario = self._scenarios[name]
            if scenario.record and scenario.processes and self._stored_setup(scenario.record) != setup:
                scenario.record = None  # of an earlier run, on other hardware
            scenario.add(timing, measurement)
            scenario.write("interrupted")

    def fail(self, error: str) -> None:
        """Store the error in the files of the scenarios that lack processes."""
        for scenario in self.unfinished():
            if not scenario.processes:
                here = environment.describe()
                self._directory.write_environment(here)
                scenario.record_failure(here.key, self._settings)
            scenario.write(error)

    def _resume(self, scenario: _ScenarioFile, local: Environment | None) -> None:
        """Take over stored timings with the same settings, and on the local hardware if that is given."""
        record = read_timings(self._trial_dir, scenario.name)
        if record is None or not record.settings.satisfy(self._settings):
            return
        if local is None or self._stored_setup(record) == _Setup.of(record.settings, local):
            scenario.resume(record)

    def _stored_setup(self, record: ScenarioTimings) -> _Setup | None:
        """Return the setup of stored processes, or None if their environment is unknown."""
        path = self._directory.path / "environments" / f"{record.environment}.json"
        stored = read_record(path, Environment)
        return _Setup.of(record.settings, stored) if stored else None


class _ScenarioFile:
    """The timings of one scenario of a trial, and the file that stores them."""

    def __init__(self, trial_dir: Path, name: str, trial_batch_size: int, profile: Profile) -> None:
        self.name = name
        self.record: ScenarioTimings | None = None
        self._path = timings_path(trial_dir, name)
        self._profile = profile
        self._scenario = SCENARIOS.get(name)()
        self._batch_size = self._scenario.batch_size(trial_batch_size)

    @property
    def processes(self) -> tuple[ProcessTiming, ...]:
        """The timings that count."""
        return self.record.processes if self.record else ()

    @property
    def missing(self) -> int:
        """The number of processes that are still to be timed."""
        return self._profile.processes - len(self.processes)

    def progress(self) -> str:
        """Return which process is next."""
        return f"process {len(self.processes) + 1}/{self._profile.processes}"

    def resume(self, record: ScenarioTimings) -> None:
        """Take over the timings of an earlier run, except invalid ones under a profile that gates.

        Their attempts do not count: the cause may be gone by now.
        """
        valid = tuple(timing for timing in record.processes if not (timing.reasons and self._profile.gates))
        invalid = (timing for timing in record.processes if timing.reasons and self._profile.gates)
        rejected = tuple(timing.model_copy(update={"process": 0}) for timing in (*record.rejected, *invalid))
        self.record = record.model_copy(update={"processes": valid, "rejected": rejected})

    def add(self, timing: ProcessTiming, measurement: Measurement) -> None:
        """Append a timing to those that count, or to the rejected ones if it is to be repeated."""
        rejected = self.record.rejected if self.record else ()
        number = len(self.processes) + 1
        attempts = 1 + sum(earlier.process == number for earlier in rejected)
        repeat = timing.reasons and self._profile.gates and attempts < SPEED_ATTEMPTS
        self.record = self._scenario.timings(
            scenario=self.name,
            batch_size=self._batch_size,
            processes=self.processes if repeat else (*self.processes, timing),
            rejected=(*rejected, timing.model_copy(update={"process": number})) if repeat else rejected,
            environment=measurement.environment.key,
            settings=measurement.settings,
            samples=measurement.samples,
            units=measurement.units,
        )

    def record_failure(self, environment: str, requested: SpeedSettings) -> None:
        """Describe the failure of a scenario without any timing; `environment` is the key of the driver's."""
        self.record = self._scenario.timings(
            scenario=self.name,
            batch_size=self._batch_size,
            processes=(),
            rejected=self.record.rejected if self.record else (),
            environment=environment,
            settings=EffectiveSettings(**dict(requested), effective_threads=requested.threads or 0),
            samples=[],
        )

    def write(self, error: str) -> None:
        """Write the file; the error is included only if processes are missing."""
        assert self.record is not None
        record = self.record
        if self.missing:
            done = len(self.processes)
            after = f" (after {done} of {self._profile.processes} processes)" if done else ""
            record = record.model_copy(update={"error": f"{error}{after}"})
        write_record(self._path, record)
