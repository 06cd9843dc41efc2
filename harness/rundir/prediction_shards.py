"""Predictions of one trial on disk: one Parquet file per shard, whose metadata contain its provenance."""

import io
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from pydantic import ValidationError

from harness.errors import InfrastructureError, UsageError
from harness.files import StrictModel
from harness.identity import digest
from harness.rundir.digests import Digests
from harness.rundir.predictions import from_table, to_table
from harness.task import Prediction, TaskName

_SHARD = re.compile(r"^(\d{8})-(\d{8})\.parquet$")
Range: TypeAlias = tuple[int, int]  # sample indices [start, stop)


class ShardProvenance(StrictModel):
    """The place, time and conditions in which the predictions of one shard were made."""

    environment: str = "unknown"  # key into the run's environments
    node: str | None = None
    started: str | None = None  # ISO 8601, UTC
    finished: str | None = None
    batch_size: int | None = None
    """Maximum number of samples predicted at once; below the trial's batch size if memory was exhausted."""
    flags: str = ""
    """Settings of torch, such as `cudnn.benchmark=False`, separated by spaces; empty without torch."""
    parameters: int | None = None
    """Number of parameters of the model; None if its adapter does not count them."""
    artefacts: str = ""
    """The files that the backend executed, as a JSON list of `ArtefactRecord`; empty without any."""


class PredictionShards:
    """The folder of a trial's shards; each file name contains the range of its samples."""

    def __init__(self, folder: Path, digests: Digests) -> None:
        self.folder = folder
        self._digests = digests

    def write(
        self,
        task: TaskName,
        start: int,
        ids: Sequence[str],
        predictions: Sequence[Prediction],
        provenance: ShardProvenance,
    ) -> None:
        """Store the predictions of samples [start, start + len(ids)) as one shard."""
        import pyarrow.parquet as pq

        metadata = {key: str(value) for key, value in provenance.model_dump(exclude_none=True).items()}
        table = to_table(task, ids, predictions).replace_schema_metadata(metadata)
        stream = io.BytesIO()
        pq.write_table(table, stream, write_page_checksum=True)
        self._digests.write(self.path(start, start + len(ids)), stream.getvalue())

    def path(self, start: int, stop: int) -> Path:
        """Return the file of samples [start, stop)."""
        return self.folder / f"{start:08d}-{stop:08d}.parquet"

    def completed_ranges(self) -> list[Range]:
        """Return the ranges that are on disk, in ascending order."""
        matches = (_SHARD.match(path.name) for path in self.folder.glob("*.parquet"))
        return sorted((int(match[1]), int(match[2])) for match in matches if match)

    def missing_ranges(self, size: int) -> list[Range]:
        """Return the gaps between completed ranges among the first `size` samples, in ascending order."""
        gaps, position = [], 0
        for start, stop in [*self.completed_ranges(), (size, size)]:
            if start > position:
                gaps.append((position, start))
            position = max(position, stop)
        return gaps

    def count_missing(self, size: int) -> int:
        """Return how many of the first `size` samples have no prediction on disk."""
        return sum(stop - start for start, stop in self.missing_ranges(size))

    def read(self, task: TaskName) -> Iterator[tuple[str, Prediction]]:
        """Yield (sample id, prediction) in sample order, with one shard in memory at a time."""
        for start, stop in self.completed_ranges():
            yield from self._rows(task, start, stop, range(start, stop))

    def read_at(self, task: TaskName, indices: Collection[int]) -> dict[int, Prediction]:
        """Return the predictions of the samples with these indices, without those that are not on disk."""
        predictions: dict[int, Prediction] = {}
        for start, stop in self.completed_ranges():
            inside = sorted(index for index in indices if start <= index < stop)
            if inside:
                rows = self._rows(task, start, stop, inside)
                predictions |= zip(inside, (prediction for _, prediction in rows), strict=True)
        return predictions

    def _rows(
        self, task: TaskName, start: int, stop: int, indices: Sequence[int]
    ) -> list[tuple[str, Prediction]]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.path(start, stop)
        try:
            # pq.read_table and Table.take would import pandas, which takes 1.4 s.
            with pq.ParquetFile(path) as file:
                table = file.read()
            if len(indices) < table.num_rows:
                table = pa.concat_tables([table.slice(index - start, 1) for index in indices])
            return from_table(task, table)
        except (pa.ArrowException, OSError, KeyError) as error:  # KeyError: of another task
            raise InfrastructureError(f"{path}: damaged ({error}); `harness run` makes it again") from error

    def fingerprint(self) -> str:
        """Return the SHA-256 (hex) of the names and rows of all shards, independent of their provenance."""
        paths = [self.path(start, stop) for start, stop in self.completed_ranges()]
        return digest(part for path in paths for part in (path.name, _serialized_rows(path)))

    def provenance(self) -> dict[Range, ShardProvenance]:
        """Return the provenance of every shard, in ascending order of ranges.

        Metadata that other tools added are ignored.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        records = {}
        for start, stop in self.completed_ranges():
            path = self.path(start, stop)
            try:
                metadata = pq.read_schema(path).metadata or {}
            except (pa.ArrowException, OSError) as error:
                raise InfrastructureError(
                    f"{path}: damaged ({error}); `harness run` makes it again"
                ) from error
            keys = [key for key in ShardProvenance.model_fields if key.encode() in metadata]
            known = {key: metadata[key.encode()].decode(errors="replace") for key in keys}
            try:
                records[start, stop] = ShardProvenance.model_validate(known)
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                where = f"{path}: {'.'.join(map(str, first['loc']))}"
                raise UsageError(f"{where}: {first['msg']}") from error
        return records


def _serialized_rows(shard: Path) -> bytes:
    """Return a shard's rows as an Arrow stream, without the metadata that contain its provenance."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(shard).replace_schema_metadata(None).combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content
