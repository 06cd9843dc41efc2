"""Reading files of others: what is wrong is said in one message, with file and line."""

from __future__ import annotations

import json
import posixpath
from pathlib import Path, PureWindowsPath
from typing import Any

from harness.errors import UsageError


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


def read_lines(path: Path) -> list[str]:
    """A UTF-8 text file's lines, without a byte order mark; UsageError with the line that is not UTF-8."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        lines = raw.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"{path}:{line}: not UTF-8 (byte 0x{raw[error.start]:02x}); convert the file to UTF-8"
        ) from error
    return lines[:-1] if lines[-1] == "" else lines


def check_inside(where: str, name: object) -> None:
    """Refuse a file name that is no text, absolute or leads out of the folder it is relative to."""
    if not isinstance(name, str):
        raise UsageError(f"{where}: expected a relative path, found {name!r}")
    plain = posixpath.normpath(name.replace("\\", "/"))
    if plain.startswith("/") or plain.split("/")[0] == ".." or PureWindowsPath(name).drive:
        raise UsageError(f"{where}: {name!r} leaves the annotation root; expected a path inside it")
