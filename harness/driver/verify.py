"""Verification of a run directory: every digest, and every figure computed again from the raw evidence."""

import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from pydantic import Field

from harness.analysis.record import AnalysisFile, TranslationAnalysis
from harness.decisions.claims import PARTIAL_RUN
from harness.driver.claims import decide_claims
from harness.driver.pairs import score_pairs
from harness.driver.record import recorded_trials
from harness.driver.scoring import score_trial
from harness.driver.side_by_side import show_disagreements
from harness.driver.slices import score_slices
from harness.errors import HarnessError, UsageError, describe
from harness.files import StrictModel, read_json, read_record
from harness.rundir.collect import collect
from harness.rundir.digests import SUMS
from harness.rundir.records import ClaimsFile
from harness.rundir.results import to_json
from harness.rundir.store import RunDirectory, TrialDirectory
from harness.suite.loading import load_suite
from harness.trial import Trial

TOLERANCE = 1e-9  # relative; the order of additions depends on the libraries of the machine
_DERIVED = {"pairs.json", "slices.json", "claims.json", "results.json", "side-by-side"}
_DERIVED_OF_TRIAL = {"metrics.json", "statistics", "analysis.json", "samples"}
_LEFT_OUT = {*_DERIVED, *_DERIVED_OF_TRIAL, "report", "run.lock", SUMS}
# Of files that cannot be read or hold absurd values. Other errors are defects of the harness.
_BROKEN_EVIDENCE = (HarnessError, OSError, ValueError, LookupError, ArithmeticError, MemoryError)


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
    """Check every digest, and compute every figure again from predictions, data set and raw timings."""
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
        except _BROKEN_EVIDENCE as error:
            verification.not_recomputed.append(describe(error).replace(str(copy.path), str(path)))
    return verification


def _recompute(directory: RunDirectory, copy: RunDirectory, verification: Verification) -> None:
    """Compute everything again in a copy that has only the raw evidence, and compare the files."""
    recorded = recorded_trials(directory)
    names = {trial.id: trial.name for trial in reversed(recorded)}
    folders = sorted(folder.name for folder in directory.path.glob("trials/*") if folder.is_dir())
    verification.unlisted += [f"trials/{name}" for name in folders if name not in names]
    complete = [t for t in recorded if directory.trial(t.id).is_scored(t.spec.size, t.metrics)]
    claims = load_suite(directory.path / "suite.yaml").suite.claims
    stored_claims = read_record(directory.path / "claims.json", ClaimsFile)
    incomplete = stored_claims is not None and any(
        claim.reason == PARTIAL_RUN for claim in stored_claims.root
    )
    shutil.copytree(
        directory.path.resolve(),
        copy.path,
        ignore=lambda _, files: [name for name in files if name in _LEFT_OUT or name.startswith(".")],
        copy_function=os.symlink,
    )
    try:
        for trial in complete:
            _rescore(directory, copy, trial, verification)
        score_pairs(copy, recorded)
        score_slices(copy, recorded)  # fails if a table of slices is gone
        decide_claims(copy, claims, recorded, incomplete)
        copy.digests.write(copy.path / "results.json", to_json(collect(copy.path)).encode())
        if not verification.not_recomputed:  # it shows samples of the data sets
            show_disagreements(copy, recorded)
    finally:
        _compare(directory, copy, names, verification)


def _compare(
    directory: RunDirectory, copy: RunDirectory, names: Mapping[str, str], verification: Verification
) -> None:
    """Compare every file that was made again with the stored one."""
    for file in sorted(copy.path.rglob("*.*")):
        if file.is_file() and not file.is_symlink():
            name = file.relative_to(copy.path)
            trial_id = name.parts[1] if name.parts[0] == "trials" else ""
            where = f"{names[trial_id]}: {name.relative_to('trials', trial_id)}" if trial_id else str(name)
            try:
                verification.different += _different(directory.path / name, file, f"{where}: ")
            except (*_BROKEN_EVIDENCE, TypeError) as error:  # a document of another form
                verification.different.append(f"{where}: {describe(error)}")


def _rescore(directory: RunDirectory, copy: RunDirectory, trial: Trial, verification: Verification) -> None:
    """Score the predictions of a trial, which several benchmarks may share, again into the copy."""
    stored_dir, copy_dir = directory.trial(trial.id), copy.trial(trial.id)
    if copy_dir.metrics_file.is_symlink():  # it failed for another benchmark
        return
    before = len(copy_dir.read_metrics())
    try:
        if trial.dataset.open().fingerprint != trial.spec.dataset:
            raise UsageError(f"data set '{trial.dataset.name}' has changed since the run")
        score_trial(copy_dir, trial, verification.not_recomputed.append, with_model=False)
    except Exception as error:  # of a plug-in, or of a damaged file
        verification.not_recomputed.append(f"{trial.name}: {describe(error)}")
        for name in ("metrics.json", "statistics"):
            if not (copy_dir.path / name).exists():
                (copy_dir.path / name).symlink_to((stored_dir.path / name).resolve())
        return
    records = list(copy_dir.read_metrics().values())
    verification.figures += sum(len(record.metrics) for record in records[before:])
    if stored_dir.predictions.completed_ranges()[-1][1] > trial.spec.size:
        verification.different.append(f"{trial.name}: predictions: there are some beyond the last sample")


def _different(stored: Path, again: Path, where: str) -> Iterator[str]:
    """Yield how a stored file differs from the one that was made again."""
    if not stored.is_file():
        yield f"{where}is missing"
    elif stored.suffix == ".npz":
        before, after = (
            TrialDirectory(file.parents[1]).read_statistics(file.stem) for file in (stored, again)
        )
        for key in sorted(before.keys() | after.keys()):
            if not np.array_equal(before.get(key, np.empty(0)), after.get(key, np.empty(0))):
                yield f"{where}{key} differs from the recomputed one"
    elif stored.suffix == ".json":
        old, new = read_json(stored) or {}, read_json(again) or {}
        if stored.name == "metrics.json":  # earlier suites may have asked for other metrics
            old = {name: dict(old).get(name) for name in new}
        if stored.name == "analysis.json" and new["analysis"]["task"] == "translation":
            explained = read_record(stored, AnalysisFile)
            if not explained or not isinstance(explained.analysis, TranslationAnalysis):
                raise UsageError(f"{stored}: not the analysis of a translation model")
            model_parts = explained.analysis.model_dump(mode="json", include={"alignments", "rates"})
            model_parts["rates"] |= new["analysis"]["rates"]
            new["analysis"] |= model_parts
        yield from differences(old, new, where)


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
            yield f"{where.rstrip('.: ')}: stored {stored!r}, recomputed {again!r}"
    elif stored != again:
        yield f"{where.rstrip('.: ')}: stored {stored!r:.80}, recomputed {again!r:.80}"
