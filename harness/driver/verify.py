"""Verification of a run directory: every digest, and every figure computed again from the raw evidence."""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from pydantic import Field

from harness.driver.pairs import score_pairs
from harness.driver.scoring import write_scores
from harness.errors import HarnessError, UsageError, describe
from harness.files import StrictModel, read_json, read_record
from harness.rundir.collect import collect
from harness.rundir.digests import SUMS
from harness.rundir.records import PlannedTrial, RunFile
from harness.rundir.results import to_json
from harness.rundir.store import RunDirectory, TrialDirectory
from harness.stages.score import ScoredMetric, score
from harness.trial import DatasetUse, Trial

TOLERANCE = 1e-9  # relative; the order of additions depends on the libraries of the machine
_COMPUTED = {"report", "run.lock", "pairs.json", "results.json", "metrics.json", "statistics", SUMS}


class Verification(StrictModel, frozen=False):
    """The problems of a run directory."""

    run: str
    figures: int = 0  # accuracy figures that were computed again from predictions and data set
    damaged: list[str] = Field(default_factory=list)  # files that are not as they were written
    different: list[str] = Field(default_factory=list)  # stored values that do not follow from the evidence
    not_recomputed: list[str] = Field(default_factory=list)  # figures that could not be, and why

    @property
    def ok(self) -> bool:
        """Return whether everything was computed again and nothing is wrong."""
        return not (self.damaged or self.different or self.not_recomputed)


def verify(path: Path) -> Verification:
    """Check every digest, and compute every figure again from predictions, data set and raw timings.

    Raises:
        UsageError: The path is not a run directory.
    """
    directory = RunDirectory(path)
    if not directory.run_file.exists() and not directory.digests.file.exists():
        raise UsageError(f"{path}: not a run directory (it has no run.json)")
    damaged = [f"{damage.path.relative_to(path)} {damage.problem}" for damage in directory.check()]
    folders = [path, *(folder for folder in sorted(path.glob("trials/*")) if folder.is_dir())]
    unchecked = [folder / SUMS for folder in folders if not (folder / SUMS).exists()]
    damaged += [
        f"{file.relative_to(path)} is missing: nothing beside it can be checked" for file in unchecked
    ]
    verification = Verification(run=str(path), damaged=damaged)
    try:
        _recompute(directory, verification)
    except Exception as error:  # a file from which others follow cannot be read, or has absurd values
        if not damaged and not isinstance(error, HarnessError):
            raise
        verification.not_recomputed.append(describe(error))
    return verification


def _recompute(directory: RunDirectory, verification: Verification) -> None:
    """Compute everything again in a copy that has only the raw evidence, and compare the results."""
    run_file = read_record(directory.run_file, RunFile)
    if run_file is None:
        raise UsageError(f"{directory.run_file} is missing")
    status = {trial.id: trial.status for trial in collect(directory.path).trials}
    planned = [_trial(entry, directory) for entry in run_file.trials if status[entry.id] == "complete"]
    with _evidence(directory.path) as copy:
        for trial_id in {trial.id: None for trial in planned}:
            _rescore(directory, copy, [trial for trial in planned if trial.id == trial_id], verification)
        score_pairs(copy, planned)
        for name, again in (
            ("pairs.json", read_json(copy.path / "pairs.json")),
            ("results.json", json.loads(to_json(collect(copy.path)))),
        ):
            verification.different += differences(read_json(directory.path / name), again, f"{name}: ")


def _trial(entry: PlannedTrial, directory: RunDirectory) -> Trial:
    spec, data = directory.trial(entry.id).read_spec(), entry.dataset
    use = DatasetUse(data.name, data.options, data.split, entry.task)
    return Trial(
        entry.benchmark, entry.variant, spec, spec.options, use, None, entry.metrics, entry.scenarios
    )


@contextmanager
def _evidence(path: Path) -> Iterator[RunDirectory]:
    """Create a temporary run directory with links to the files that are not computed from others."""
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary, "run")
        shutil.copytree(
            path.resolve(),
            copy,
            ignore=lambda _, names: [name for name in names if name in _COMPUTED or name.startswith(".")],
            copy_function=os.symlink,
        )
        yield RunDirectory(copy)


def _rescore(
    directory: RunDirectory, copy: RunDirectory, same: Sequence[Trial], verification: Verification
) -> None:
    """Score the predictions of a trial, which several benchmarks may share, again into the copy."""
    trial, names = same[0], sorted({name for other in same for name in other.metrics})
    stored_dir, copy_dir = directory.trial(trial.id), copy.trial(trial.id)
    try:
        dataset = trial.dataset.open()
        if dataset.fingerprint != trial.spec.dataset:
            raise UsageError(f"data set '{trial.dataset.name}' has changed since the run")
        scored = score(dataset, trial.spec.size, stored_dir.predictions.read(trial.spec.task), names)
    except Exception as error:  # of a plug-in, or of a damaged file
        verification.not_recomputed.append(f"{trial.name}: {describe(error)}")
        for name in ("metrics.json", "statistics"):
            (copy_dir.path / name).symlink_to((stored_dir.path / name).resolve())
        return
    stored = stored_dir.read_metrics()
    records = write_scores(copy_dir, scored, {name: stored[name].key for name in scored}, {})
    where = f"{trial.name}: "
    for name, result in scored.items():
        before, again = stored[name].model_dump(mode="json"), records[name].model_dump(mode="json")
        verification.different += differences(before, again, f"{where}metrics.json: {name}.")
        verification.different += _different_arrays(stored_dir, name, result, where)
        verification.figures += len(result.scores.metrics)


def _different_arrays(stored: TrialDirectory, name: str, again: ScoredMetric, where: str) -> Iterator[str]:
    arrays = stored.read_statistics(name)
    for key in sorted(arrays.keys() | again.statistics.keys()):
        if not np.array_equal(arrays.get(key, np.empty(0)), again.statistics.get(key, np.empty(0))):
            yield f"{where}statistics/{name}.npz: {key} differs from the recomputed one"


def differences(stored: object, again: object, where: str) -> Iterator[str]:
    """Yield the values in which two JSON documents differ, with their keys. Keys of caches do not count."""
    if isinstance(stored, dict) and isinstance(again, dict):
        for key in [*stored, *(key for key in again if key not in stored)]:
            if key != "key":
                yield from differences(stored.get(key), again.get(key), f"{where}{key}.")
    elif isinstance(stored, list) and isinstance(again, list) and len(stored) == len(again):
        for index, pair in enumerate(zip(stored, again, strict=True)):
            yield from differences(*pair, f"{where}{index}.")
    elif isinstance(stored, float) and isinstance(again, float | int):
        if not math.isclose(stored, again, rel_tol=TOLERANCE, abs_tol=1e-12):
            yield f"{where.rstrip('.')}: stored {stored!r}, recomputed {again!r}"
    elif stored != again:
        yield f"{where.rstrip('.')}: stored {stored!r:.80}, recomputed {again!r:.80}"
