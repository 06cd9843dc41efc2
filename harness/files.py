"""Reads and writes of whole files: a file is replaced in one step or not at all, and JSON fits its model."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import FULL_DISK, InfrastructureError, UsageError

_MESSAGES = {
    "missing": "this key is missing",
    "extra_forbidden": "this key is unknown",
    "unexpected_keyword_argument": "this key is unknown",
}


class StrictModel(BaseModel):
    """An immutable record that rejects unknown keys, so that a misspelt key is an error, NaN and infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


M = TypeVar("M", bound=BaseModel)


def write_text(path: Path, text: str) -> None:
    """Replace a file by UTF-8 text; see `write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file in one step, and create its folder if necessary.

    The content is on the disk before the file counts, so that a power failure leaves the old or the new file.

    Raises:
        UsageError: The file cannot be written.
        InfrastructureError: The disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn an OSError into the errors of `write_bytes`, which name the file."""
    try:
        yield
    except OSError as error:
        kind = InfrastructureError if error.errno in FULL_DISK else UsageError
        raise kind(f"{path}: cannot be written: {error.strerror}") from error


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Lock a folder for one process at a time; the others wait."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot lock directories
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_json(path: Path, document: object) -> None:
    """Replace a file by a JSON document; see `write_bytes` and `json_text`."""
    write_text(path, json_text(document))


def json_text(document: object) -> str:
    """Return a document as indented JSON."""
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Path) -> Any | None:
    """Return the content of a JSON file, or None if the file does not exist."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not JSON ({error}); the same command makes it again") from error


def read_record(path: Path, model: type[M]) -> M | None:
    """Return the file's content as a model, or None if the file does not exist."""
    try:
        return model.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            raise UsageError(f"{path}: {first['msg']}; `harness run` makes it again") from error
        if first["loc"] == ("schema",):
            raise UsageError(
                f"{path}: written by another version of the harness; run the suite again with another --out"
            ) from error
        parts = [str(path), ".".join(map(str, first["loc"])), _MESSAGES.get(first["type"], first["msg"])]
        raise UsageError(": ".join(filter(None, parts))) from error


def write_record(path: Path, record: BaseModel) -> None:
    """Replace the file by the record as JSON (see `record_bytes`)."""
    write_bytes(path, record_bytes(record))


def record_bytes(record: BaseModel) -> bytes:
    """Return a record as JSON, without the optional keys that were never set."""
    return json_text(record.model_dump(mode="json", by_alias=True, exclude_unset=True)).encode()
