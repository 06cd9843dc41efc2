"""Mending of a run directory: what is not as it was written is removed, and the run makes it again."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from harness import environment
from harness.errors import InfrastructureError
from harness.files import read_record
from harness.rundir.digests import Damage
from harness.rundir.records import RunFile
from harness.rundir.speed import common_path, read_timings, timings_path
from harness.rundir.store import RunDirectory, TrialDirectory
from harness.scenarios.scenario import SCENARIOS
from harness.trial import Trial


def mend(
    directory: RunDirectory, trials: Sequence[Trial], only: str | None, note: Callable[[str], None]
) -> None:
    """Remove the files of the run and of these trials that changed since they were written.

    What depends on a removed file and could not be made again without it is removed, too. Each is noted.

    Raises:
        InfrastructureError: A file is damaged that a run restricted by `only` cannot mend, because it belongs
            to the other trials as well.
    """
    distinct = {trial.id: trial for trial in trials}
    if only is not None:
        _check_others(directory, set(distinct))
    lost = set()
    for damage in directory.digests.mend():
        note(f"{damage.path.relative_to(directory.path)} {damage.problem} and is made again")
        if damage.path.parent.name == "environments":
            lost.add(damage.path.stem)
    if lost and (local := environment.describe()).key in lost:
        directory.write_environment(local)
        lost.remove(local.key)
    for trial in distinct.values():
        trial_dir = directory.trial(trial.id)
        for damage in trial_dir.digests.mend():
            name = damage.path.relative_to(trial_dir.path)
            note(f"{trial.name}: {name} {damage.problem} and is made again")
            if damage.path.parent.name == "samples":  # images that analysis.json shows
                trial_dir.digests.remove(trial_dir.path / "analysis.json")
        for path, reason in list(_dependents(trial_dir, lost)):
            note(f"{trial.name}: {path.relative_to(trial_dir.path)} is made again, because {reason}")
            trial_dir.digests.remove(path)
    run_file = read_record(directory.run_file, RunFile)
    if run_file and run_file.run.environment in lost:
        directory.digests.remove(directory.run_file)


def _check_others(directory: RunDirectory, selected: set[str]) -> None:
    """Reject damage that a run of only the selected trials cannot mend."""
    recorded = {path.name for path in directory.path.glob("trials/*")}
    if directory.digests.is_intact(directory.run_file):
        run_file = read_record(directory.run_file, RunFile)
        recorded = {trial.id for trial in run_file.trials} if run_file else recorded
    others = [directory.trial(other) for other in sorted(recorded - selected)]
    files = [other.spec_file for other in others if not other.spec_file.exists()]
    damaged = [Damage(file, "is missing") for file in files]
    damaged += [damage for folder in others for damage in folder.digests.check(required=True)]
    for damage in directory.digests.check(required=True) if others else ():
        if damage.path == directory.run_file or damage.path.parent != directory.path:  # not derived
            damaged.append(damage)
    if damaged:
        raise InfrastructureError(
            f"{damaged[0].path} {damaged[0].problem}; `harness run` without --only makes it again"
        )


def _dependents(trial_dir: TrialDirectory, lost: set[str]) -> Iterator[tuple[Path, str]]:
    """Yield the files that refer to a lost environment or a missing file, and why they are made again."""
    for (start, stop), shard in trial_dir.predictions.provenance().items() if lost else ():
        if shard.environment in lost:
            path = trial_dir.predictions.path(start, stop)
            yield path, f"the record of its environment {shard.environment} was damaged"
    for name in SCENARIOS.entries():
        timings, path = read_timings(trial_dir.path, name), timings_path(trial_dir.path, name)
        if timings and timings.environment in lost:
            yield path, f"the record of its environment {timings.environment} was damaged"
        elif timings and timings.processes and not common_path(trial_dir.path).exists():
            yield path, "common.json, which was measured with it, is missing"
