"""A translation corpus exported to files for use on another machine: a manifest, and JSON lines per split.

    DIR/manifest.json   data set, options, and per split its file, number of samples, fingerprint and SHA-256
        train.jsonl     {"id": …, "source": …, "references": […]}, one sample per line, in order of id

`parallel-text` reads it on machines without the catalogues, libraries or files of the original data set.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, JsonValue, ValidationError

from harness.datasets.dataset import DATASETS, Dataset
from harness.datasets.files import check_inside, read_json
from harness.datasets.sentence_pairs import SentencePairs, fingerprint_of
from harness.errors import UsageError
from harness.files import StrictModel
from harness.registry import first_mistake, unknown
from harness.task import Sample

MANIFEST = "manifest.json"


class ExportedSplit(StrictModel):
    """The file of a split and its content."""

    file: str
    samples: int
    sha256: str
    """Hash of the file."""
    fingerprint: str
    """Fingerprint of the content. `parallel-text` has the same fingerprint when it reads the file."""
    original_fingerprint: str
    """Fingerprint of the original data set, which may be one of a generator's options."""
    skipped: tuple[str, ...]
    """Descriptions of what the original data set excluded."""


class Manifest(StrictModel):
    """The content of an exported folder."""

    version: Literal[1] = 1
    dataset: str
    options: dict[str, JsonValue]
    splits: dict[str, ExportedSplit]


class _Row(StrictModel):
    """A line of a split's file."""

    id: str
    source: str
    references: tuple[str, ...] = Field(min_length=1)


def export_text(name: str, options: Mapping[str, object], splits: Sequence[str], out: Path) -> Manifest:
    """Write splits (all if none is named) of a translation data set into the new folder `out`.

    Raises:
        UsageError: the data set, a split or an option is unknown, the data set is not for translation, or
            `out` exists.
        UnavailableError: this machine lacks the data or libraries of the data set.
    """
    cls = DATASETS.get(name)
    if "translation" not in cls.tasks:
        exportable = [known for known in DATASETS.entries() if "translation" in DATASETS.get(known).tasks]
        raise UsageError(
            f"data set '{name}' is for {' and '.join(cls.tasks)}: only translation data sets can be exported "
            f"({', '.join(exportable)})"
        )
    for split in splits:
        if split not in cls.splits:
            raise UsageError(unknown(f"split of '{name}'", split, cls.splits))
    if out.exists():
        raise UsageError(f"{out}: already exists; expected a new folder")
    try:
        parsed = cls.Options.model_validate(dict(options))
    except ValidationError as error:
        key, message = first_mistake(error, cls.Options)
        raise UsageError(f"option {key}: {message}" if key else message) from error
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise UsageError(f"{out}: cannot be created: {error.strerror}") from error
    try:
        written = {
            split: _write_split(folder / f"{split}.jsonl", cls(parsed, split, "translation"))
            for split in splits or cls.splits
        }
        manifest = Manifest(dataset=name, options=parsed.model_dump(mode="json"), splits=written)
        (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        folder.chmod(0o755)  # mkdtemp creates a folder that only its owner can read
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return manifest


def read_exported(folder: Path, split: str) -> Iterator[Sample]:
    """Yield the samples of a split, identical to those exported.

    Raises:
        UsageError: the manifest or a line is missing or malformed, the manifest lacks the split, or the file
            has changed.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise UsageError(
            f"{folder}: not an exported corpus ({MANIFEST} is missing); set 'source' or 'table' to read files"
        )
    try:
        manifest = Manifest.model_validate(read_json(path))
    except ValidationError as error:
        raise UsageError(": ".join([str(path), *filter(None, first_mistake(error))])) from error
    if split not in manifest.splits:
        raise UsageError(f"{path}: {unknown('split', split, manifest.splits)}")
    entry = manifest.splits[split]
    check_inside(f"{path}: file", entry.file, "folder")
    try:
        raw = (folder / entry.file).read_bytes()
    except (OSError, ValueError) as error:  # a name with a NUL is a ValueError
        raise UsageError(f"{path}: file {entry.file!r} cannot be read: {error}") from error
    if hashlib.sha256(raw).hexdigest() != entry.sha256:
        raise UsageError(f"{folder / entry.file}: has changed since it was exported; export the corpus again")
    lines = raw.splitlines()
    if len(lines) != entry.samples:
        raise UsageError(
            f"{folder / entry.file}: {len(lines)} lines, but {path} lists {entry.samples} samples"
        )
    for number, line in enumerate(lines, start=1):
        try:
            row = _Row.model_validate_json(line)
        except ValidationError as error:
            place = f"{folder / entry.file}:{number}"
            raise UsageError(": ".join([place, *filter(None, first_mistake(error))])) from error
        yield Sample(row.id, row.source, row.references)


def _write_split(path: Path, dataset: Dataset) -> ExportedSplit:
    samples = [dataset[index] for index in range(len(dataset))]
    rows = ({"id": sample.id, "source": sample.input, "references": sample.target} for sample in samples)
    raw = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.write_bytes(raw)
    return ExportedSplit(
        file=path.name,
        samples=len(samples),
        sha256=hashlib.sha256(raw).hexdigest(),
        fingerprint=fingerprint_of(samples),
        original_fingerprint=dataset.fingerprint,
        skipped=dataset.skipped if isinstance(dataset, SentencePairs) else (),
    )
