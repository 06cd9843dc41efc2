"""Files provided by the user. Every defect is reported as one message with file and line."""

from __future__ import annotations

import gzip
import hashlib
import json
import posixpath
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path, PureWindowsPath
from typing import TypeAlias

from pydantic import JsonValue

from harness.errors import UsageError

JsonObject: TypeAlias = dict[str, JsonValue]

_HASHING_THREADS = 8  # more are no faster on one disk


def read_json(path: Path) -> JsonValue:
    """Parse a JSON file.

    Raises:
        UsageError: the file cannot be read, or is malformed; the message has line and column.
    """
    try:
        document: JsonValue = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{path}: line {error.lineno}, column {error.colno}: malformed JSON: {error.msg}"
        ) from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: not JSON: {error}") from error
    return document


def read_lines(path: Path, encoding: str = "utf-8") -> list[str]:
    """Read the lines of a text file, without a byte order mark. A name ending in `.gz` is decompressed.

    Only a line feed ends a line: other Unicode separators may occur inside a sentence.

    Raises:
        UsageError: the file cannot be read, or a line is not in the encoding.
    """
    try:
        raw = path.read_bytes()
        if path.suffix == ".gz":
            raw = gzip.decompress(raw)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UsageError(f"{path}: not a complete gzip file: {error}") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        lines = raw.decode("utf-8-sig" if encoding == "utf-8" else encoding).split("\n")
    except UnicodeDecodeError as error:
        line = raw[: error.start].decode(encoding, errors="ignore").count("\n") + 1
        name = encoding.upper()
        raise UsageError(
            f"{path}:{line}: not {name} (byte 0x{raw[error.start]:02x}); convert the file to {name}"
        ) from error
    return lines[:-1] if lines[-1] == "" else lines


def check_inside(location: str, path: object, root: str = "annotation root") -> None:
    """Check that a path from a file or an option stays inside the folder it is relative to.

    Args:
        location: prefix of the message, such as file and key.
        path: untrusted value, which may be of any type.
        root: name of the folder in the message.

    Raises:
        UsageError: the value is not text, is an absolute path or leads out of the folder.
    """
    if not isinstance(path, str):
        raise UsageError(f"{location}: expected a relative path, found {path!r}")
    normalised = posixpath.normpath(path.replace("\\", "/"))
    is_outside = normalised.startswith("/") or normalised.split("/")[0] == ".."
    if is_outside or PureWindowsPath(path).drive:
        raise UsageError(f"{location}: {path!r} leaves the {root}; expected a path inside it")


def content_hashes(paths: Iterable[Path]) -> list[bytes]:
    """Return the SHA-256 of each file. A file is read once per process unless it changes.

    Raises:
        UsageError: a file cannot be read.
    """
    with ThreadPoolExecutor(_HASHING_THREADS) as pool:
        return list(pool.map(_content_hash, paths))


def _content_hash(path: Path) -> bytes:
    try:
        status = path.stat()
        return _hash_file(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error


@lru_cache(maxsize=1 << 18)
def _hash_file(path: Path, size: int, modified: int) -> bytes:  # noqa: ARG001  they are part of the cache key
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
