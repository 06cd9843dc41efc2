"""The gate of a run on speed, and the calibration of a machine for it: versions timed in turns."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pydantic import Field

from harness import environment
from harness.cache import cache_folder
from harness.driver.baseline import Version, revision_of_run, unpacked
from harness.driver.settings import RunSettings
from harness.driver.turns import IN_TURNS, SIDES, Contest, compare_in_turns, open_version
from harness.environment import Hardware
from harness.errors import UsageError
from harness.files import StrictModel, read_record, write_record
from harness.identity import content_id
from harness.rundir.results import TurnsRecord
from harness.rundir.speed import turns_path
from harness.rundir.store import RunDirectory
from harness.scenarios.scenario import SCENARIOS
from harness.stages.child import Child
from harness.suite.loading import LoadedSuite
from harness.trial import Trial


class Calibration(StrictModel):
    """Comparisons of a version with itself on one machine."""

    host: str
    hardware: Hardware
    finished: str = Field(description="ISO 8601, UTC")
    load: tuple[float, float, float] = Field(description="average load of the last 1, 5 and 15 minutes then")
    trials: dict[str, dict[str, list[TurnsRecord]]] = Field(description="trial → scenario → repetitions")

    def half_width(self, scenario: str) -> float:
        """Return the 95% quantile of the sizes of the estimates of a scenario, all of which should be 0."""
        records = [record for scenarios in self.trials.values() for record in scenarios.get(scenario, ())]
        slowdowns = [record.slowdown.value for record in records if record.slowdown]
        sizes = [abs(value) for value in slowdowns if value is not None]
        return float(np.quantile(sizes, 0.95, method="higher")) if sizes else 0.0


def calibration_path() -> Path:
    """Return the calibration file of this machine, whose name follows from its host name and hardware."""
    local = environment.describe()
    key = content_id({"host": local.host, **local.hardware.model_dump(mode="json")})
    return cache_folder().with_name("calibration") / f"{key}.json"


def calibrate(
    loaded: LoadedSuite,
    trials: Sequence[Trial],
    settings: RunSettings,
    repeats: int,
    note: Callable[[str], None],
) -> Calibration:
    """Compare trials with themselves, and store the result for the gates on this machine.

    Raises:
        UsageError: No trial has a scenario that is timed in turns.
    """
    present = Version("present", loaded.path, settings.overrides)
    records: dict[str, dict[str, list[TurnsRecord]]] = {}
    for repeat in range(repeats):
        note(f"repetition {repeat + 1} of {repeats}")
        contests = _contests(loaded, trials, None)
        compare_in_turns((present, present), contests, settings.limit, settings.turn_seconds, note)
        for contest in contests:
            of_trial = records.setdefault(contest.trial.name, {})
            of_trial.setdefault(contest.scenario, []).append(contest.record("itself", len(contests)))
    local = environment.describe()
    now = datetime.now(UTC).isoformat(timespec="seconds")
    load = os.getloadavg()
    calibration = Calibration(
        host=local.host, hardware=local.hardware, finished=now, load=load, trials=records
    )
    write_record(calibration_path(), calibration)
    return calibration


@contextmanager
def open_baseline(
    loaded: LoadedSuite, trials: Sequence[Trial], settings: RunSettings
) -> Iterator[Version | None]:
    """Unpack the baseline that a run names and plan its suite, before anything runs; None if it names none.

    Raises:
        HarnessError: The baseline cannot be timed in turns with these trials.
    """
    run, revision = settings.baseline_run, settings.baseline_checkout
    if run is None and revision is None:
        yield None
        return
    if run and revision:
        raise UsageError("give either --baseline-checkout or --baseline-run")
    if settings.on_cluster:
        raise UsageError(
            "a baseline is timed in turns on this machine only, not on a cluster: drop --address"
        )
    revision = revision_of_run(run) if run else revision
    assert revision is not None
    names = sorted({contest.trial.name for contest in _contests(loaded, trials, _read_calibration())})
    with unpacked(revision, loaded.path, settings.overrides, run and run / "suite.yaml") as baseline:
        with Child("spawn", baseline.folders) as child:
            open_version(baseline, child, names, settings.limit)
        yield baseline


def run_gate(
    directory: RunDirectory,
    loaded: LoadedSuite,
    trials: Sequence[Trial],
    baseline: Version | None,
    settings: RunSettings,
    note: Callable[[str], None],
) -> None:
    """Compare complete trials with a baseline. The comparisons of an earlier run are removed."""
    for trial in trials:
        trial_dir = directory.trial(trial.id)
        for path in trial_dir.path.glob("turns/*.json"):
            trial_dir.digests.remove(path)
    complete = [
        trial for trial in trials if not directory.trial(trial.id).predictions.count_missing(trial.spec.size)
    ]
    if baseline is None or not complete:
        return
    contests = _contests(loaded, complete, _read_calibration())
    present = Version("present", loaded.path, settings.overrides)
    compare_in_turns((baseline, present), contests, settings.limit, settings.turn_seconds, note)
    local = environment.describe()
    directory.write_environment(local)
    for contest in contests:
        trial_dir = directory.trial(contest.trial.id)
        for side, timings in zip(SIDES, contest.timings, strict=True):
            if timings:
                path = turns_path(trial_dir.path, f"{contest.scenario}-{side}")
                trial_dir.write_record(path, contest.raw(timings, local.key))
        record = contest.record(baseline.name, len(contests))
        trial_dir.write_record(turns_path(trial_dir.path, contest.scenario), record)


def _read_calibration() -> Calibration | None:
    try:
        return read_record(calibration_path(), Calibration)
    except UsageError as error:
        raise UsageError(f"calibration {error}; remove the file or run `harness calibrate`") from error


def _contests(loaded: LoadedSuite, trials: Sequence[Trial], calibration: Calibration | None) -> list[Contest]:
    """Return the comparisons of trials, with the limits of the suite and what the machine resolves."""
    contests: dict[tuple[str, str], Contest] = {}
    for trial in trials:
        for scenario in (name for name in trial.scenarios if name in IN_TURNS):
            # The queries of trials that differ in batch size may be the same: one comparison is enough.
            size = SCENARIOS.get(scenario).query_size(trial.spec.batch_size)
            work = trial.spec.model_copy(update={"batch_size": size}).id, scenario
            rule = loaded.suite.gate.of(trial.name, trial.spec.task).rule("speed", scenario)
            assert rule is not None and rule.max_slowdown is not None
            resolution = calibration.half_width(scenario) if calibration else 0.0
            decides = rule.tier == "blocking"
            contests.setdefault(work, Contest(trial, scenario, rule.max_slowdown, resolution, decides))
    if not contests:
        raise UsageError(f"no trial has a scenario that is timed in turns ({' or '.join(IN_TURNS)})")
    return [*contests.values()]
