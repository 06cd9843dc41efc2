"""Verification of a run directory: every digest, and every figure computed again from the raw evidence."""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

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


class Verification(StrictModel):
    """The problems of a run directory."""

    run: str
    figures: int  # number of accuracy figures that were computed again from predictions and data set
    damaged: list[str]  # files that are not as they were written
    different: list[str]  # stored values that do not follow from the evidence
    not_recomputed: list[str]  # figures that could not be computed again, and why

    @property
    def ok(self) -> bool:
        """Return whether everything was computed again and nothing is wrong."""
        return not (self.damaged or self.different or self.not_recomputed)


@dataclass
class _Findings:
    figures: int = 0
    different: list[str] = field(default_factory=list)
    not_recomputed: list[str] = field(default_factory=list)


def verify(path: Path) -> Verification:
    """Check every digest, and compute every figure again from predictions, data set and raw timings.

    Raises:
        UsageError: The path is not a run directory.
    """
    directory = RunDirectory(path)
    if not directory.run_file.exists() and not directory.digests.file.exists():
        raise UsageError(f"{path}: not a run directory (it has no run.json)")
    findings = _Findings()
    damaged = [f"{damage.path.relative_to(path)} {damage.problem}" for damage in directory.check()]
    folders = [path, *(folder for folder in sorted(path.glob("trials/*")) if folder.is_dir())]
    unchecked = [folder / SUMS for folder in folders if not (folder / SUMS).exists()]
    damaged += [
        f"{file.relative_to(path)} is missing: nothing beside it can be checked" for file in unchecked
    ]
    try:
        _recompute(directory, findings)
    except Exception as error:  # a file from which others follow cannot be read, or has absurd values
        if not damaged and not isinstance(error, HarnessError):
            raise
        findings.not_recomputed.append(describe(error))
    return Verification(
        run=str(path),
        figures=findings.figures,
        damaged=damaged,
        different=findings.different,
        not_recomputed=findings.not_recomputed,
    )


def _recompute(directory: RunDirectory, findings: _Findings) -> None:
    """Compute everything again in a copy that has only the raw evidence, and compare the results."""
    run_file = read_record(directory.run_file, RunFile)
    if run_file is None:
        raise UsageError(f"{directory.run_file} is missing")
    status = {trial.id: trial.status for trial in collect(directory.path).trials}
    planned = [_trial(entry, directory) for entry in run_file.trials if status[entry.id] == "complete"]
    with _evidence(directory.path) as copy:
        for trial_id in {trial.id: None for trial in planned}:
            _rescore(directory, copy, [trial for trial in planned if trial.id == trial_id], findings)
        score_pairs(copy, planned)
        for name, again in (
            ("pairs.json", read_json(copy.path / "pairs.json")),
            ("results.json", json.loads(to_json(collect(copy.path)))),
        ):
            findings.different += differences(read_json(directory.path / name), again, f"{name}: ")


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


def _rescore(directory: RunDirectory, copy: RunDirectory, same: Sequence[Trial], findings: _Findings) -> None:
    """Score the predictions of a trial, which several benchmarks may share, again into the copy."""
    trial, names = same[0], sorted({name for other in same for name in other.metrics})
    stored_dir, copy_dir = directory.trial(trial.id), copy.trial(trial.id)
    try:
        dataset = trial.dataset.open()
        if dataset.fingerprint != trial.spec.dataset:
            raise UsageError(f"data set '{trial.dataset.name}' has changed since the run")
        scored = score(dataset, trial.spec.size, stored_dir.predictions.read(trial.spec.task), names)
    except Exception as error:  # of a plug-in, or of a damaged file
        findings.not_recomputed.append(f"{trial.name}: {describe(error)}")
        for name in ("metrics.json", "statistics"):
            (copy_dir.path / name).symlink_to((stored_dir.path / name).resolve())
        return
    stored = stored_dir.read_metrics()
    records = write_scores(copy_dir, scored, {name: stored[name].key for name in scored}, {})
    where = f"{trial.name}: "
    for name, result in scored.items():
        before, again = stored[name].model_dump(mode="json"), records[name].model_dump(mode="json")
        findings.different += differences(before, again, f"{where}metrics.json: {name}.")
        findings.different += _different_arrays(stored_dir, name, result, where)
        findings.figures += len(result.scores.metrics)


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
