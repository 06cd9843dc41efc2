"""Verification of a run directory: every digest, and every figure computed again from the raw evidence."""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import Field

from harness.analysis.record import TranslationAnalysis, read_analysis
from harness.decisions.claims import PARTIAL_RUN
from harness.driver.claims import decide_claims
from harness.driver.pairs import score_pairs
from harness.driver.record import recorded_trials
from harness.driver.scoring import write_scores
from harness.driver.side_by_side import show_disagreements
from harness.driver.slices import score_slices
from harness.errors import UsageError, describe
from harness.files import StrictModel, read_json, read_record
from harness.metrics.metric import StoredArrays
from harness.rundir.collect import collect
from harness.rundir.digests import SUMS
from harness.rundir.records import ClaimsFile
from harness.rundir.results import to_json
from harness.rundir.store import RunDirectory, TrialDirectory
from harness.stages.analyse import analyse, make_analyser
from harness.stages.score import score
from harness.suite.loading import load_suite
from harness.trial import Trial

TOLERANCE = 1e-9  # relative; the order of additions depends on the libraries of the machine
_DERIVED = {"pairs.json", "slices.json", "claims.json", "results.json", "metrics.json", "statistics"}
_LEFT_OUT = {*_DERIVED, "side-by-side", "report", "run.lock", SUMS}


class Verification(StrictModel, frozen=False):
    """The problems of a run directory."""

    run: str
    figures: int = 0  # accuracy figures that were computed again from predictions and data set
    damaged: list[str] = Field(default_factory=list)  # files that are not as they were written
    different: list[str] = Field(default_factory=list)  # stored values that do not follow from the evidence
    not_recomputed: list[str] = Field(default_factory=list)  # figures that could not be, and why
    unlisted: list[str] = Field(default_factory=list)  # folders of trials that the run no longer has

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
    with tempfile.TemporaryDirectory() as temporary:
        copy = RunDirectory(Path(temporary, "run"))
        try:
            _recompute(directory, copy, verification)
        except Exception as error:  # a file from which others follow cannot be read, or has absurd values
            verification.not_recomputed.append(describe(error).replace(str(copy.path), str(path)))
    return verification


def _recompute(directory: RunDirectory, copy: RunDirectory, verification: Verification) -> None:
    """Compute everything again in a copy that has only the raw evidence, and compare the results."""
    recorded = recorded_trials(directory)
    listed = {trial.id for trial in recorded}
    folders = sorted(folder.name for folder in directory.path.glob("trials/*") if folder.is_dir())
    verification.unlisted += [f"trials/{name}" for name in folders if name not in listed]
    complete = [t for t in recorded if directory.trial(t.id).is_scored(t.spec.size, t.metrics)]
    claims = load_suite(directory.path / "suite.yaml").suite.claims
    stored_claims = read_record(directory.path / "claims.json", ClaimsFile)
    incomplete = stored_claims is not None and any(
        claim.reason == PARTIAL_RUN for claim in stored_claims.root
    )
    _link_evidence(directory.path, copy.path)
    for trial_id in {trial.id: None for trial in complete}:
        _rescore(directory, copy, [trial for trial in complete if trial.id == trial_id], verification)
    steps: dict[str, Callable[[], None]] = {
        "pairs.json": lambda: score_pairs(copy, recorded),
        "slices.json": lambda: score_slices(copy, recorded),
        "claims.json": lambda: decide_claims(copy, claims, recorded, incomplete),
    }
    for name, compute_again in steps.items():
        compute_again()  # fails if a table of slices is gone
        # A file that earlier suites needed is empty.
        before, again = (read_json(folder.path / name) or None for folder in (directory, copy))
        verification.different += differences(before, again, f"{name}: ")
    results = json.loads(to_json(collect(copy.path)))
    stored = read_json(directory.path / "results.json")
    verification.different += differences(stored, results, "results.json: ")
    if not verification.not_recomputed:  # it shows samples of the data sets
        show_disagreements(copy, recorded)
        for file in sorted(copy.path.glob("side-by-side/**/*.*")):
            name = file.relative_to(copy.path).as_posix()
            verification.different += _missing(directory.path, [name], "")
            if file.suffix == ".json":
                stored = read_json(directory.path / name) or {}
                verification.different += differences(stored, read_json(file), f"{name}: ")


def _link_evidence(path: Path, copy: Path) -> None:
    """Create a run directory with links to the files that are not computed from others."""
    shutil.copytree(
        path.resolve(),
        copy,
        ignore=lambda _, names: [name for name in names if name in _LEFT_OUT or name.startswith(".")],
        copy_function=os.symlink,
    )


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
        analyser, rows = make_analyser(dataset), stored_dir.predictions.read(trial.spec.task)
        scored = score(dataset, trial.spec.size, rows, names, analyser.add)
        read = partial(stored_dir.predictions.read_at, trial.spec.task)
        analysis, images = analyse(dataset, analyser, read)
    except Exception as error:  # of a plug-in, or of a damaged file
        verification.not_recomputed.append(f"{trial.name}: {describe(error)}")
        for name in ("metrics.json", "statistics"):
            (copy_dir.path / name).symlink_to((stored_dir.path / name).resolve())
        return
    stored = stored_dir.read_metrics()
    records = write_scores(copy_dir, scored, {name: stored[name].key for name in scored}, {})
    where = f"{trial.name}: "
    copy_dir.write_statistics("samples", analyser.columns())
    if stored_dir.predictions.completed_ranges()[-1][1] > trial.spec.size:
        verification.different.append(f"{where}predictions: there are some beyond the last sample")
    verification.different += _missing(stored_dir.path, ["analysis.json", *images], where)
    if stored_analysis := read_analysis(stored_dir.path):
        verification.different += _different_arrays(stored_dir, "samples", analyser.columns(), where)
        before, again = (record.model_dump(mode="json") for record in (stored_analysis, analysis))
        if isinstance(stored_analysis, TranslationAnalysis):  # some parts need the model
            again |= {"alignments": before["alignments"], "rates": before["rates"] | again["rates"]}
        verification.different += differences(before, again, f"{where}analysis.json: ")
    for name, result in scored.items():
        before, again = stored[name].model_dump(mode="json"), records[name].model_dump(mode="json")
        verification.different += differences(before, again, f"{where}metrics.json: {name}.")
        verification.different += _different_arrays(stored_dir, name, result.statistics, where)
        verification.figures += len(result.scores.metrics)


def _missing(folder: Path, names: Iterable[str], where: str) -> list[str]:
    return [f"{where}{name}: is missing" for name in names if not (folder / name).is_file()]


def _different_arrays(stored: TrialDirectory, name: str, again: StoredArrays, where: str) -> Iterator[str]:
    arrays = stored.read_statistics(name)
    for key in sorted(arrays.keys() | again.keys()):
        if not np.array_equal(arrays.get(key, np.empty(0)), again.get(key, np.empty(0))):
            yield f"{where}statistics/{name}.npz: {key} differs from the recomputed one"


def differences(stored: object, again: object, where: str) -> Iterator[str]:
    """Yield the values in which two JSON documents differ, with their keys. Keys of caches do not count."""
    if isinstance(stored, dict) and isinstance(again, dict):
        for key in [*stored, *(key for key in again if key not in stored)]:
            if key not in ("key", "keys"):
                yield from differences(stored.get(key), again.get(key), f"{where}{key}.")
    elif isinstance(stored, list) and isinstance(again, list) and len(stored) == len(again):
        for index, pair in enumerate(zip(stored, again, strict=True)):
            yield from differences(*pair, f"{where}{index}.")
    elif isinstance(stored, float) and isinstance(again, float | int):
        if not math.isclose(stored, again, rel_tol=TOLERANCE, abs_tol=1e-12):
            yield f"{where.rstrip('.: ')}: stored {stored!r}, recomputed {again!r}"
    elif stored != again:
        yield f"{where.rstrip('.: ')}: stored {stored!r:.80}, recomputed {again!r:.80}"
