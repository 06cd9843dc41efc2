"""The run directory: the record of a run, from which results, reports and tracking are derived.

Every file is written under a temporary name and then renamed, so that it is complete even if its writer was
killed, and its digest is recorded (see `harness.rundir.digests`). One driver at a time holds the directory's
lock.
"""

import fcntl
import io
import re
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from harness.environment import Environment
from harness.errors import InfrastructureError, UsageError
from harness.files import json_text, read_record, record_bytes
from harness.rundir.digests import SUMS, Damage, Digests
from harness.rundir.prediction_shards import PredictionShards
from harness.rundir.records import FailuresFile, MetricRecord, MetricsFile, RunFile, TrialSpec
from harness.rundir.results import Failure, Results, read_results

_TEMPORARY = re.compile(r"^\..+\.\d+$")
_WRITTEN_BEFORE_RUN_FILE = {"run.lock", "environments", "trials", "suite.yaml", SUMS}
_RUN_FILES = (
    *("run.json", "suite.yaml", "pairs.json", "slices.json", "claims.json", "results.json"),
    *("environments/*.json", "side-by-side/**/*.*"),
)
_TRIAL_FILES = (
    *("trial.json", "metrics.json", "analysis.json", "probes.json", "error.json"),
    *("predictions/[0-9]*.parquet", "statistics/*.npz", "samples/*.*", "speed/*.json", "turns/*.json"),
)


def run_folder(out: str) -> Path:
    """Return the absolute path of the folder that `--out` names; `~` is the home folder.

    Raises:
        UsageError: No folder can have this name, or `out` is a URL. A run directory needs file locks and
            renames, which object stores lack.
    """
    if "://" in out:
        scheme = out.partition("://")[0]
        raise UsageError(
            f"--out {scheme}://…: expected a folder; mount the storage, or share runs through MLflow"
        )
    try:
        folder = Path(out).expanduser().absolute()  # a plug-in may change the working directory
        folder.exists()
    except (OSError, RuntimeError) as error:  # a long name; an unknown user
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"--out {out[:200]}: no folder can have this name: {reason}") from error
    return folder


def read_run(path: Path, whole: bool = True) -> Results:
    """Return results.json of a run whose files are all as they were written.

    Args:
        whole: Check every file of the run; otherwise only results.json, for readers of nothing else.
    """
    directory = RunDirectory(path)
    damaged = directory.check() if whole else directory.digests.check()
    if not whole:
        damaged = [damage for damage in damaged if damage.path.name == "results.json"]
    if damaged:
        more = f", and {len(damaged) - 1} other files" if len(damaged) > 1 else ""
        raise InfrastructureError(
            f"{damaged[0].path} {damaged[0].problem}{more}; the same `harness run` makes it again"
        )
    return read_results(path)


class TrialDirectory:
    """Files of one trial, trials/ID: predictions, sample statistics and analysis."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spec_file = path / "trial.json"
        self.metrics_file = path / "metrics.json"
        self.error_file = path / "error.json"  # exists only if predictions failed
        self.digests = Digests(path, _TRIAL_FILES, self._is_own)
        self.predictions = PredictionShards(path / "predictions", self.digests)

    def _is_own(self) -> bool:
        """Return whether the folder is named after its trial.json, as far as this can be read."""
        with suppress(UsageError):
            spec = read_record(self.spec_file, TrialSpec)
            return spec is None or spec.id == self.path.name
        return True

    def write_record(self, path: Path, record: BaseModel) -> None:
        """Replace a file by a record as JSON."""
        self.digests.write(path, record_bytes(record))

    def read_spec(self) -> TrialSpec:
        """Return the trial's specification."""
        spec = read_record(self.spec_file, TrialSpec)
        if spec is None:
            raise UsageError(f"{self.spec_file}: this file is missing; run the suite again")
        return spec

    def read_failures(self) -> list[Failure]:
        """Return the recorded failures; none if error.json does not exist."""
        failures = read_record(self.error_file, FailuresFile)
        return list(failures.root) if failures else []

    def read_metrics(self) -> dict[str, MetricRecord]:
        """Return the figures of metrics.json by metric; none before the first score."""
        metrics = read_record(self.metrics_file, MetricsFile)
        return dict(metrics.root) if metrics else {}

    def is_scored(self, size: int, metrics: Collection[str]) -> bool:
        """Return whether all predictions and the figures of these metrics are on disk."""
        return not self.predictions.count_missing(size) and self.read_metrics().keys() >= set(metrics)

    def statistics_path(self, metric: str) -> Path:
        """Return the file of a metric's sample statistics."""
        return self.path / "statistics" / f"{metric}.npz"

    def write_statistics(self, metric: str, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Store the sample statistics from which a metric's figures are computed."""
        stream = io.BytesIO()
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
        self.digests.write(self.statistics_path(metric), stream.getvalue())

    def read_statistics(self, metric: str) -> dict[str, NDArray[np.generic]]:
        """Return the arrays of a metric's sample statistics, or an empty dict if there is no file."""
        path = self.statistics_path(metric)
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        except FileNotFoundError:
            return {}
        except (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, MemoryError) as error:
            raise InfrastructureError(f"{path}: damaged ({error}); `harness run` makes it again") from error

    def write_analysis(self, analysis: BaseModel, images: Mapping[str, bytes]) -> None:
        """Replace analysis.json and the images to which it refers, given by path in the trial directory."""
        for name, content in images.items():
            self.digests.write(self.path / name, content)
        document = json_text(analysis.model_dump(mode="json", by_alias=True))
        self.digests.write(self.path / "analysis.json", document.encode())
        for path in self.path.glob("samples/*"):
            if path.relative_to(self.path).as_posix() not in images:
                self.digests.remove(path)


class RunDirectory:
    """Directory of one run, runs/SUITE."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run_file = path / "run.json"
        self.digests = Digests(path, _RUN_FILES)

    def write_record(self, path: Path, record: BaseModel) -> None:
        """Replace a file of the run itself by a record as JSON."""
        self.digests.write(path, record_bytes(record))

    def check(self) -> list[Damage]:
        """Return the files of the run and of all its trials that are not as they were written."""
        folders = sorted(path for path in self.path.glob("trials/*") if path.is_dir())
        required = self.digests.file.exists()
        trials = (damage for folder in folders for damage in TrialDirectory(folder).digests.check(required))
        return [*self.digests.check(), *trials]

    def trial(self, trial_id: str) -> TrialDirectory:
        """Return the directory of a trial, whether it exists or not."""
        return TrialDirectory(self.path / "trials" / trial_id)

    def write_environment(self, environment: Environment) -> None:
        """Store an environment under its key, by which figures refer to it."""
        path = self.path / "environments" / f"{environment.key}.json"
        if not path.exists():
            self.write_record(path, environment)

    @contextmanager
    def open(self, suite: str) -> Iterator[None]:
        """Create the directory if necessary and hold its lock for this process."""
        self._check_content(suite)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / "run.lock").open("w")
        except OSError as error:
            raise UsageError(f"--out {self.path}: cannot be written: {error.strerror}") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UsageError(f"--out {self.path}: another harness process is writing this run") from error
            for path in self.path.rglob(".*"):
                if _TEMPORARY.match(path.name):  # left by a killed writer, since this process has the lock
                    path.unlink()
            yield

    def _check_content(self, suite: str) -> None:
        """Raise a UsageError unless the path does not exist or contains a run of this suite."""
        option = f"--out {self.path}"
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise UsageError(f"{option}: is a file, expected a directory")
        try:
            run = read_record(self.run_file, RunFile)
        except UsageError as error:
            if self.digests.is_intact(self.run_file) or not self._is_of(suite):
                raise UsageError(f"{option}: cannot be continued: {error}") from error
            return
        if run is None:
            names = {path.name for path in self.path.iterdir() if not _TEMPORARY.match(path.name)}
            others = sorted(names - _WRITTEN_BEFORE_RUN_FILE)
            if others and not self._is_of(suite):
                raise UsageError(f"{option}: contains other files ({others[0]}) and no run; choose another")
        elif run.suite != suite and (self.digests.is_intact(self.run_file) or not self._is_of(suite)):
            raise UsageError(f"{option}: contains a run of suite '{run.suite}', not of '{suite}'")

    def _is_of(self, suite: str) -> bool:
        """Return whether suite.yaml names this suite: then run.json, if it is damaged, is made again."""
        try:
            lines = (self.path / "suite.yaml").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return False
        return any(line.partition(": ")[::2] in {("name", suite), ("name", f"'{suite}'")} for line in lines)
