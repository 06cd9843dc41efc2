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
from harness.driver.timing import work_key
from harness.driver.turns import IN_TURNS, SIDES, SpeedComparison, compare_in_turns, open_version
from harness.environment import Hardware
from harness.errors import InfrastructureError, UsageError
from harness.files import StrictModel, read_record, write_record
from harness.identity import content_id
from harness.rundir.speed import turns_path
from harness.rundir.store import RunDirectory
from harness.stages.child import Child
from harness.suite.loading import LoadedSuite
from harness.trial import Trial


class Calibration(StrictModel):
    """Comparisons of a version with itself on one machine."""

    host: str
    hardware: Hardware
    finished: str = Field(description="ISO 8601, UTC")
    load: tuple[float, float, float] = Field(description="average load of the last 1, 5 and 15 minutes then")
    differences: dict[str, list[float]] = Field(description="scenario → slowdowns found, which should be 0")

    def half_width(self, scenario: str) -> float:
        """Return the 95% quantile of the sizes of the differences of a scenario, or 0 if there are none."""
        sizes = [abs(difference) for difference in self.differences.get(scenario, ())]
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
    """Compare trials with themselves, and store the result for the gates on this machine."""
    present = Version("present", loaded.path, settings.overrides)
    differences: dict[str, list[float]] = {}
    for repeat in range(repeats):
        note(f"repetition {repeat + 1} of {repeats}")
        comparisons = _required(comparisons_of(loaded, trials, None))
        compare_in_turns((present, present), comparisons, settings.limit, settings.turn_seconds, note)
        for comparison in comparisons:
            record, name = comparison.record("itself"), f"{comparison.trial.name} {comparison.scenario}"
            if record.slowdown is None or record.slowdown.value is None:
                raise InfrastructureError(f"{name}: {record.reason}; no calibration was stored")
            note(f"{name}: {record.slowdown.value:+.2%} after {record.pairs} pairs")
            differences.setdefault(comparison.scenario, []).append(record.slowdown.value)
    local = environment.describe()
    calibration = Calibration(
        host=local.host,
        hardware=local.hardware,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        load=os.getloadavg(),
        differences=differences,
    )
    write_record(calibration_path(), calibration)
    return calibration


@contextmanager
def open_baseline(
    loaded: LoadedSuite, trials: Sequence[Trial], settings: RunSettings
) -> Iterator[Version | None]:
    """Unpack the baseline that a run names, if any, and plan its suite before anything runs."""
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
    comparisons = _required(comparisons_of(loaded, trials, _read_calibration()))
    names = sorted({comparison.trial.name for comparison in comparisons})
    trained_first = {str(ref.weights) for trial in trials if (ref := trial.checkpoint) and ref.missing}
    with unpacked(revision, loaded.path, settings.overrides, run and run / "suite.yaml") as baseline:
        with Child("spawn", baseline.folders) as child:
            opened = open_version(baseline, child, names, settings.limit)
        if untrained := sorted(set(opened["untrained"]) - trained_first):
            raise UsageError(
                f"baseline {revision}: {untrained[0]} is not trained; train it at that revision first"
            )
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
    for path in directory.path.glob("trials/*/turns/*.json"):
        directory.trial(path.parent.parent.name).digests.remove(path)
    if baseline is None:
        return
    complete = [
        trial for trial in trials if not directory.trial(trial.id).predictions.count_missing(trial.spec.size)
    ]
    comparisons = comparisons_of(loaded, complete, _read_calibration())
    local = environment.describe()
    directory.write_environment(local)

    def store(comparison: SpeedComparison) -> None:
        trial_dir, scenario = directory.trial(comparison.trial.id), comparison.scenario
        for side, timings in enumerate(comparison.timings):
            if timings:
                path = turns_path(trial_dir.path, f"{scenario}-{SIDES[side]}")
                trial_dir.write_record(path, comparison.raw(side, timings, local.key))
        trial_dir.write_record(turns_path(trial_dir.path, scenario), comparison.record(baseline.name))

    versions = baseline, Version("present", loaded.path, settings.overrides)
    compare_in_turns(versions, comparisons, settings.limit, settings.turn_seconds, note, store)


def _read_calibration() -> Calibration | None:
    try:
        return read_record(calibration_path(), Calibration)
    except UsageError as error:
        raise UsageError(f"calibration {error}; remove the file or run `harness calibrate`") from error


def _required(comparisons: list[SpeedComparison]) -> list[SpeedComparison]:
    """Return the comparisons, of which there must be one."""
    if not comparisons:
        raise UsageError(f"no trial has a scenario that is timed in turns ({' or '.join(IN_TURNS)})")
    return comparisons


def comparisons_of(
    loaded: LoadedSuite, trials: Sequence[Trial], calibration: Calibration | None
) -> list[SpeedComparison]:
    """Return the comparisons of trials, with the limits of the suite and what the machine resolves.

    Trials whose work in a scenario is the same share a comparison, under the strictest of their blocking
    rules, or of their advisory ones if none is blocking.
    """
    comparisons: dict[object, SpeedComparison] = {}
    for trial in trials:
        rules = loaded.suite.gate.of(trial.spec.task, trial.name)
        for scenario in (name for name in trial.scenarios if name in IN_TURNS):
            rule = rules.rule("speed", scenario)
            assert rule is not None and rule.max_slowdown is not None
            resolution = calibration.half_width(scenario) if calibration else 0.0
            new = SpeedComparison(trial, scenario, rule.max_slowdown, resolution, rule.tier == "blocking")
            known = comparisons.setdefault(work_key(trial, scenario, loaded.suite.speed.settings(None)), new)
            if (not new.decides, new.limit) < (not known.decides, known.limit):
                known.decides, known.limit = new.decides, new.limit
    for comparison in comparisons.values():
        comparison.family = max(1, sum(other.decides for other in comparisons.values()))
    return [*comparisons.values()]
