"""The run directory: the record that everything else is a projection of.

Every file is written to a temporary name and renamed, so that whatever is there is whole, whenever the
writer was killed. One driver at a time holds the directory's lock.
"""

from __future__ import annotations

import fcntl
import os
import re
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import InfrastructureError, UsageError
from harness.files import read_json, write_bytes, write_json
from harness.identity import digest
from harness.rundir.predictions import from_table, to_table
from harness.task import Prediction, TaskName

_SHARD = re.compile(r"^(\d{8})-(\d{8})\.parquet$")
_TEMPORARY = re.compile(r"^\..+\.\d+$")
_BEFORE_RECORD = {"run.lock", "environments", "trials", "suite.yaml"}  # what a driver killed early leaves
Range = tuple[int, int]
"""Sample indices [start, stop)."""


def run_folder(out: str) -> Path:
    """Return the folder that `--out` names; `~` is the home folder.

    Raises:
        UsageError: `out` is a URL. A run directory needs file locks and renames, which object stores lack.
    """
    if "://" in out:
        scheme = out.partition("://")[0]
        raise UsageError(
            f"--out {scheme}://…: expected a folder; mount the storage, or share runs through MLflow"
        )
    return Path(out).expanduser()


class TrialDirectory:
    """trials/ID: the specification, its predictions by shard, raw speed measurements, figures."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.predictions = path / "predictions"

    def write_shard(
        self,
        task: TaskName,
        start: int,
        ids: Sequence[str],
        predictions: Sequence[Prediction],
        environment: str,
        made: Mapping[str, object] | None = None,
    ) -> None:
        """Keep the predictions of samples [start, start + len(ids)) and how they were made.

        Args:
            environment: key of the machine that made them.
            made: more about it, such as node, times and the number of samples at once.
        """
        import pyarrow.parquet as pq

        self.predictions.mkdir(parents=True, exist_ok=True)
        table = to_table(task, ids, predictions).replace_schema_metadata(
            {"environment": environment, **{key: str(value) for key, value in (made or {}).items()}}
        )
        path = self.predictions / f"{start:08d}-{start + len(ids):08d}.parquet"
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        pq.write_table(table, temporary)
        temporary.replace(path)

    def done(self) -> list[Range]:
        """The ranges that are on disk, ascending."""
        names = (_SHARD.match(path.name) for path in self.predictions.glob("*.parquet"))
        return sorted((int(name[1]), int(name[2])) for name in names if name)

    def todo(self, size: int) -> list[Range]:
        """The gaps between what is on disk, up to `size`."""
        gaps, position = [], 0
        for start, stop in [*self.done(), (size, size)]:
            if start > position:
                gaps.append((position, start))
            position = max(position, stop)
        return gaps

    def read(self, task: TaskName) -> Iterator[tuple[str, Prediction]]:
        """(sample id, prediction) in order of sample, a shard in memory at a time.

        Raises:
            InfrastructureError: a shard is damaged, by a copy that broke off, say.
        """
        for start, stop in self.done():
            yield from self._rows(task, start, stop, range(start, stop))

    def read_at(self, task: TaskName, indices: Collection[int]) -> dict[int, Prediction]:
        """Predictions by the samples' places in the data set; those that are on disk.

        Raises:
            InfrastructureError: as `read`.
        """
        found: dict[int, Prediction] = {}
        for start, stop in self.done():
            inside = sorted(index for index in indices if start <= index < stop)
            if inside:
                rows = self._rows(task, start, stop, inside)
                found |= zip(inside, (prediction for _, prediction in rows), strict=True)
        return found

    def _rows(
        self, task: TaskName, start: int, stop: int, indices: Sequence[int]
    ) -> list[tuple[str, Prediction]]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.predictions / f"{start:08d}-{stop:08d}.parquet"
        try:
            # Neither pq.read_table nor Table.take, which import pandas: 1.4 s.
            with pq.ParquetFile(path) as file:
                table = file.read()
            if len(indices) < table.num_rows:
                table = pa.concat_tables([table.slice(index - start, 1) for index in indices])
            return from_table(task, table)
        except (pa.ArrowException, OSError) as error:
            raise InfrastructureError(f"{path}: damaged ({error}); remove it and run again") from error

    def drop_damaged(self) -> list[str]:
        """Remove shards whose footer is unreadable or counts other rows; their names.

        A copy that broke off, or a full disk, leaves such files; they are simply made again.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        dropped = []
        for start, stop in self.done():
            path = self.predictions / f"{start:08d}-{stop:08d}.parquet"
            try:
                footer = pq.read_metadata(path)
                whole = footer.num_rows == stop - start and "sample" in footer.schema.names
            except (pa.ArrowException, OSError):
                whole = False
            if not whole:
                path.unlink()
                dropped.append(path.name)
        return dropped

    def statistics(self, metric: str) -> Path:
        """The file of a metric's statistics of samples."""
        return self.path / "statistics" / f"{metric}.npz"

    def write_statistics(self, metric: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep what a metric's figures follow from."""
        path = self.statistics(metric)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with temporary.open("wb") as stream:
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
        temporary.replace(path)

    def read_statistics(self, metric: str) -> dict[str, NDArray[Any]]:
        """The arrays; empty where there is no such file.

        Raises:
            InfrastructureError: the file is damaged.
        """
        path = self.statistics(metric)
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        except FileNotFoundError:
            return {}
        except (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError) as error:
            raise InfrastructureError(f"{path}: damaged ({error}); remove it and run again") from error

    def write_analysis(self, document: Any, pictures: Mapping[str, bytes]) -> None:
        """Replace analysis.json and the pictures that it names, by their paths below the trial."""
        for name, content in pictures.items():
            write_bytes(self.path / name, content)
        write_json(self.path / "analysis.json", document)
        for path in self.path.glob("samples/*"):
            if path.relative_to(self.path).as_posix() not in pictures:
                path.unlink()

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the names and predictions of all shards, wherever and whenever these were made."""
        names = [f"{start:08d}-{stop:08d}.parquet" for start, stop in self.done()]
        return digest(part for name in names for part in (name, _content(self.predictions / name)))

    def made(self) -> dict[Range, dict[str, str]]:
        """How each shard was made: environment, node, times, samples at once."""
        import pyarrow.parquet as pq

        found = {}
        for start, stop in self.done():
            metadata = pq.read_schema(self.predictions / f"{start:08d}-{stop:08d}.parquet").metadata or {}
            found[start, stop] = {key.decode(): value.decode() for key, value in metadata.items()}
        return found


def _content(shard: Path) -> bytes:
    """A shard's rows; its metadata, which say where and when it was made, left out."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(shard).replace_schema_metadata(None).combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


class RunDirectory:
    """runs/SUITE: one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def open(self, suite: str) -> Iterator[None]:
        """Hold the directory for this process.

        Raises:
            UsageError: it holds another suite's run or other files, cannot be written, or another process is
                writing it.
        """
        here = f"--out {self.path}"
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{here}: is a file, expected a directory")
        record = read_json(self.path / "run.json") if self.path.exists() else None
        if record is None and self.path.exists():
            names = {path.name for path in self.path.iterdir() if not _TEMPORARY.match(path.name)}
            foreign = sorted(names - _BEFORE_RECORD)
            if foreign:
                raise UsageError(f"{here}: holds other files ({foreign[0]}) and no run; choose another")
        if record is not None and not isinstance(record, dict):
            raise UsageError(f"{here}: its run.json is not a run's record; choose another")
        if record is not None and record.get("suite") != suite:
            raise UsageError(
                f"--out {self.path}: holds a run of suite '{record.get('suite')}', not of '{suite}'"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / "run.lock").open("w")
        except OSError as error:
            raise UsageError(f"{here}: cannot be written: {error.strerror}") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UsageError(f"{here}: another harness process is writing this run") from error
            for path in self.path.rglob(".*"):
                if _TEMPORARY.match(path.name):  # of a writer that was killed: we hold the lock
                    path.unlink()
            yield

    def trial(self, trial_id: str) -> TrialDirectory:
        return TrialDirectory(self.path / "trials" / trial_id)
