"""A prepared corpus as files that travel: one of JSON lines per split, and a manifest.

    DIR/manifest.json   data set, options, and of each split its file, number of samples, fingerprint, SHA-256
        train.jsonl     {"id": …, "source": …, "references": […]}, a sample a line, in order of id

`parallel-text` reads it where the catalogues, the generator's libraries or the original files are missing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from harness.datasets.dataset import DATASETS, Dataset
from harness.datasets.files import check_inside, read_json
from harness.datasets.sentence_pairs import SentencePairs, fingerprint_of
from harness.errors import UsageError
from harness.registry import unknown
from harness.task import Sample

MANIFEST = "manifest.json"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ExportedSplit(_Strict):
    """A split's file and what it holds."""

    file: str
    samples: int
    sha256: str
    fingerprint: str
    """Of the content: that of `parallel-text` when it reads the file."""
    original_fingerprint: str
    """Of the data set it was exported from, which may be of the options of a generator."""
    skipped: tuple[str, ...]
    """What the data set left out when it was read."""


class Manifest(_Strict):
    """What an exported folder holds."""

    version: Literal[1] = 1
    dataset: str
    options: dict[str, Any]
    splits: dict[str, ExportedSplit]


def export_text(name: str, options: Mapping[str, Any], splits: Sequence[str], out: Path) -> Manifest:
    """Write splits (all if none is named) of a translation data set into the new folder `out`.

    Raises:
        UsageError: the data set, a split or an option is unknown, it is not for translation, or `out` exists.
        UnavailableError: this machine lacks what the data set is made of.
    """
    cls = DATASETS.get(name)
    if "translation" not in cls.tasks:
        fitting = [known for known in DATASETS.entries() if "translation" in DATASETS.get(known).tasks]
        raise UsageError(
            f"data set '{name}' is for {' and '.join(cls.tasks)}: only translation data sets can be exported "
            f"({', '.join(fitting)})"
        )
    for split in splits:
        if split not in cls.splits:
            raise UsageError(unknown(f"split of '{name}'", split, cls.splits))
    if out.exists():
        raise UsageError(f"{out}: is there already; expected a new folder")
    checked = _options(cls.Options, options)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise UsageError(f"{out}: cannot be made: {error.strerror}") from error
    try:
        written = {
            split: _write(folder / f"{split}.jsonl", cls(checked, split, "translation"))
            for split in splits or cls.splits
        }
        manifest = Manifest(dataset=name, options=checked.model_dump(mode="json"), splits=written)
        (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        folder.chmod(0o755)  # mkdtemp's is for the owner only
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return manifest


def read_option(text: str) -> tuple[str, Any]:
    """`KEY=VALUE` with a YAML value, as on the command line."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"--option {text}: expected KEY=VALUE, such as language=fr")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UsageError(f"--option {text}: the value is not YAML") from error


def read_exported(folder: Path, split: str) -> Iterator[Sample]:
    """The samples of a split as they were when exported.

    Raises:
        UsageError: no manifest or a malformed one, no such split, or the file has changed.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise UsageError(
            f"{folder}: no exported corpus ({MANIFEST} is missing); name its 'source' or 'table'"
        )
    try:
        manifest = Manifest.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if split not in manifest.splits:
        raise UsageError(f"{path}: {unknown('split', split, manifest.splits)}")
    entry = manifest.splits[split]
    check_inside(f"{path}: file", entry.file, "folder")
    try:
        raw = (folder / entry.file).read_bytes()
    except OSError as error:
        raise UsageError(f"{folder / entry.file}: cannot be read: {error.strerror}") from error
    if hashlib.sha256(raw).hexdigest() != entry.sha256:
        raise UsageError(f"{folder / entry.file}: has changed since it was exported; export the corpus again")
    for line in raw.splitlines():
        row = json.loads(line)
        yield Sample(row["id"], row["source"], tuple(row["references"]))


def _write(path: Path, dataset: Dataset) -> ExportedSplit:
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


def _options(cls: type[BaseModel], given: Mapping[str, Any]) -> Any:
    try:
        return cls(**given)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise UsageError(unknown("option", key, cls.model_fields)) from error
        message = first["msg"].removeprefix("Value error, ")
        raise UsageError(f"option {key}: {message}" if key else message) from error
