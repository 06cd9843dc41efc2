"""Timing of a trial by several fresh processes; each is stored at once, so an interrupted run continues."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from harness import environment
from harness.driver.answers import with_checked_answers
from harness.driver.progress import RunProgress
from harness.environment import Environment
from harness.errors import InfrastructureError
from harness.executors.executor import Executor
from harness.files import read_record
from harness.rundir.speed import CommonFile, common_path, read_timings, timings_path
from harness.rundir.store import RunDirectory
from harness.scenarios.scenario import SCENARIOS, Scenario
from harness.scenarios.settings import PROFILES, EffectiveSettings, SpeedSettings
from harness.stages.measure import Measurement
from harness.suite.schema import SpeedEntry
from harness.trial import Trial

ATTEMPTS = 3  # per process, except under profiles that never gate, such as `smoke`


def measure(
    directory: RunDirectory,
    trial: Trial,
    earlier: Sequence[Trial],
    speed: SpeedEntry,
    executor: Callable[[], Executor],
    progress: RunProgress,
    local: Environment | None,
) -> None:
    """Time the scenarios of a trial, in as many fresh processes as the profile requires.

    Every process is stored at once, so the next run of the suite continues after the last stored one. Until
    all are stored, the `error` of a scenario's file says what is missing. An invalid timing is repeated, and
    the last one counts. Work that an earlier trial shares is not timed again.

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
            progress.timing(trial.name, scenarios, *timing.processes(scenarios[0]))
            timing.add(running.measure(trial, scenarios, timing.settings), progress.note)
    except InfrastructureError as error:
        progress.note(str(error))
        timing.fail(str(error))


def work_key(trial: Trial, scenario: str, settings: SpeedSettings) -> tuple[str, str, int]:
    """Return a key that trials share if their queries and samples in a scenario are the same."""
    size = trial.spec.batch_size
    spec = trial.spec.model_copy(update={"batch_size": SCENARIOS.get(scenario).query_size(size)})
    return scenario, spec.id, settings.whole_batches(size)


def _conditions(settings: EffectiveSettings, machine: Environment) -> dict[str, object]:
    """Return the conditions that processes must share before their times may be combined, by name."""
    return {"settings": settings, **dict(machine.hardware), "torch": machine.torch}


class _TrialTiming:
    """Stored timings of the scenarios of one trial, to which the processes of this run are added."""

    def __init__(
        self, directory: RunDirectory, trial: Trial, settings: SpeedSettings, local: Environment | None
    ) -> None:
        self.settings = settings
        self._directory = directory
        self._trial = trial
        self._trial_dir = directory.trial(trial.id)
        self._profile = PROFILES[settings.profile]
        self._conditions: dict[str, object] = {}  # of the processes of this run
        self._common: CommonFile | None = None  # of these processes
        self._local = local
        self._attempts: Counter[str] = Counter()  # of the next process, by scenario
        self._stored = {
            name: self._resume(name, self._trial_dir.path) or self._empty(name) for name in trial.scenarios
        }

    def _empty(self, scenario: str) -> Scenario:
        cls, threads = SCENARIOS.get(scenario), self.settings.threads or 0
        return cls(
            scenario=scenario,
            batch_size=cls.query_size(self._trial.spec.batch_size),
            processes=(),
            environment=environment.describe().key,
            settings=EffectiveSettings(**dict(self.settings), effective_threads=threads),
            samples=[],
        )

    def unfinished(self) -> list[str]:
        """Return the scenarios that lack processes."""
        required = self._profile.processes
        return [name for name, stored in self._stored.items() if len(stored.processes) < required]

    def copy_shared(self, earlier: Sequence[Trial]) -> None:
        """Copy timings of earlier trials whose work in a scenario was the same.

        The last scenario is timed if common.json is missing, because that depends on the batch size.
        """
        for scenario in self.unfinished():
            key = work_key(self._trial, scenario, self.settings)
            timed = (trial for trial in earlier if scenario in trial.scenarios)
            same = [trial for trial in timed if work_key(trial, scenario, self.settings) == key]
            if not same or not (len(self.unfinished()) > 1 or common_path(self._trial_dir.path).exists()):
                continue
            stored = self._resume(scenario, self._directory.trial(same[0].id).path)
            if stored is not None and len(stored.processes) == self._profile.processes:
                self._stored[scenario] = stored.model_copy(update={"timed_for": same[0].name})
                self._write(scenario, "")

    def processes(self, scenario: str) -> tuple[int, int]:
        """Return the number of a scenario's next process, from 1, and that of all."""
        return len(self._stored[scenario].processes) + 1, self._profile.processes

    def add(self, measurement: Measurement, note: Callable[[str], None]) -> None:
        """Store the timings of one process on the hardware of the others, except invalid ones to repeat."""
        conditions = _conditions(measurement.settings, measurement.environment)
        self._conditions = self._conditions or conditions
        if differences := [name for name, value in conditions.items() if value != self._conditions[name]]:
            raise InfrastructureError(
                f"timing {self._trial.name}: the processes differ in {', '.join(differences)}, so "
                "their times must not be mixed"
            )
        self._common = self._common.joined(measurement.common) if self._common else measurement.common
        self._trial_dir.write_record(common_path(self._trial_dir.path), self._common)
        self._directory.write_environment(measurement.environment)
        for scenario, timing in measurement.timings.items():
            checked = with_checked_answers(timing, self._trial, self._trial_dir, measurement.classes)
            self._attempts[scenario] += 1
            if checked.reasons and self._profile.gates and self._attempts[scenario] < ATTEMPTS:
                note(f"timing {self._trial.name}, {scenario}, again: {'; '.join(checked.reasons)}")
                continue
            self._attempts[scenario] = 0
            stored = self._stored[scenario]
            if stored.processes and self._differs(stored, conditions):
                stored = self._empty(scenario)  # in place of an earlier run's, on different hardware
            changes = {name: getattr(measurement, name) for name in ("settings", "samples", "units")}
            changes |= {"processes": (*stored.processes, checked), "environment": measurement.environment.key}
            changes |= {"error": None, "timed_for": None}
            self._stored[scenario] = stored.model_copy(update=changes)
            self._write(scenario, "interrupted")

    def fail(self, error: str) -> None:
        """Store the error in the files of the scenarios that lack processes."""
        self._directory.write_environment(environment.describe())
        for scenario in self.unfinished():
            self._write(scenario, error)

    def _resume(self, scenario: str, trial_dir: Path) -> Scenario | None:
        """Read stored timings with these settings and on this hardware; leave out invalid ones that gate."""
        stored = read_timings(trial_dir, scenario)
        if stored is None or not stored.satisfies(self.settings):
            return None
        if self._local is not None and self._differs(stored, _conditions(stored.settings, self._local)):
            return None
        valid = tuple(timing for timing in stored.processes if not (timing.reasons and self._profile.gates))
        return stored.model_copy(update={"processes": valid})

    def _differs(self, stored: Scenario, conditions: Mapping[str, object]) -> bool:
        """Return whether stored processes were timed under different or unknown conditions."""
        path = self._directory.path / "environments" / f"{stored.environment}.json"
        described = read_record(path, Environment)
        return described is None or _conditions(stored.settings, described) != conditions

    def _write(self, scenario: str, error: str) -> None:
        """Write a scenario's file; the error is included only if processes are missing."""
        stored = self._stored[scenario]
        done, required = len(stored.processes), self._profile.processes
        if done < required:
            after = f" (after {done} of {required} processes)" if done else ""
            stored = stored.model_copy(update={"error": f"{error}{after}"})
        self._trial_dir.write_record(timings_path(self._trial_dir.path, scenario), stored)
