"""Reading files of others: what is wrong is said in one message, with file and line."""

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
from typing import Any

from harness.errors import UsageError

READERS = 8  # threads that hash files; more do not help a disk


def read_json(path: Path) -> Any:
    """Parse a file; UsageError with the line where it is malformed."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{path}: line {error.lineno}, column {error.colno}: malformed JSON: {error.msg}"
        ) from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: not JSON: {error}") from error


def read_lines(path: Path, encoding: str = "utf-8") -> list[str]:
    """A text file's lines, without a byte order mark; one whose name ends in `.gz` is decompressed.

    Lines end at a line feed only: other separators of Unicode may stand inside a sentence.

    Raises:
        UsageError: the file cannot be read, or a line is not in the encoding.
    """
    try:
        raw = path.read_bytes()
        if path.suffix == ".gz":
            raw = gzip.decompress(raw)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UsageError(f"{path}: no complete gzip file: {error}") from error
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


def check_inside(where: str, name: object, root: str = "annotation root") -> None:
    """Refuse a file name that is no text, absolute or leads out of the folder it is relative to."""
    if not isinstance(name, str):
        raise UsageError(f"{where}: expected a relative path, found {name!r}")
    plain = posixpath.normpath(name.replace("\\", "/"))
    if plain.startswith("/") or plain.split("/")[0] == ".." or PureWindowsPath(name).drive:
        raise UsageError(f"{where}: {name!r} leaves the {root}; expected a path inside it")


def content_hashes(paths: Iterable[Path]) -> list[bytes]:
    """SHA-256 of files; one that this process has hashed is read again only when it has changed.

    Raises:
        UsageError: a file cannot be read.
    """
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(_content_hash, paths))


def _content_hash(path: Path) -> bytes:
    try:
        state = path.stat()
        return _hashed(path, state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error


@lru_cache(maxsize=1 << 18)
def _hashed(path: Path, size: int, modified: int) -> bytes:  # noqa: ARG001  what tells that it has changed
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
