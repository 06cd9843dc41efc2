"""Files provided by the user. Every defect is reported as one message with file and line."""

import codecs
import gc
import gzip
import json
import posixpath
import re
import unicodedata
import zlib
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path, PureWindowsPath
from typing import Annotated, TypeAlias
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from pydantic import Field, JsonValue
from pydantic_core import from_json

from harness.datasets.dataset import SPLITS
from harness.errors import UnavailableError, UsageError

JsonObject: TypeAlias = dict[str, JsonValue]

Note: TypeAlias = Callable[[str], None]
"""Receives one sentence about what a reader left out of a file, or about what looks like a mistake."""

SPLIT_PLACEHOLDER = "{split}"
SplitName: TypeAlias = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
SplitNames: TypeAlias = tuple[SplitName, SplitName, SplitName]
"""Names that the files use for train, validation and test, in this order."""
_SYSTEM_FILES = ("thumbs.db", "desktop.ini", "__macosx")
_XML_ENCODING = re.compile(rb"""<\?xml[^>]*?encoding\s*=\s*["']([\w.:-]+)["']""")
GZIP_RATIO = 100  # to which a file may unpack, at least 64 MiB; text reaches 3 to 10
_JSON_KINDS: Mapping[type, str] = {
    **{list: "a list", str: "text", int: "a number", float: "a number"},
    **{bool: "true or false", type(None): "null"},
}
_GZIP_MAGIC = b"\x1f\x8b"


def describe_json(value: JsonValue) -> str:
    """Return the kind of a JSON value for a message, such as `a number`; for an object, with its keys."""
    if not isinstance(value, dict):
        return _JSON_KINDS[type(value)]
    keys = ", ".join(value)
    return f"an object with the keys {keys[:200]}{'…' * (len(keys) > 200)}" if value else "an empty object"


def read_json(path: Path) -> JsonValue:
    """Parse a JSON file, which may be UTF-8, UTF-16 or UTF-32, and compressed by gzip.

    A file that cannot be read or is malformed is a UsageError with line and column.
    """
    is_collecting = gc.isenabled()
    gc.disable()  # the collector would inspect all objects again and again: half of the time
    try:
        raw = _read_bytes(path)
        try:
            document: JsonValue = from_json(raw)
        except ValueError:
            document = json.loads(raw)  # slower; knows the other encodings, and where in the file an error is
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{path}: line {error.lineno}, column {error.colno}: malformed JSON: {error.msg}"
        ) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"{path}: line {line}: not {error.encoding.upper()} (byte 0x{error.object[error.start]:02x}); "
            f"convert the file to UTF-8"
        ) from error
    except (RecursionError, ValueError) as error:  # too many brackets, or digits of a number
        raise UsageError(f"{path}: not JSON: {str(error).partition(';')[0]}") from error
    finally:
        if is_collecting:
            gc.enable()
    return document


def read_lines(path: Path) -> list[str]:
    """Read the lines of a UTF-8 file, which gzip may have compressed, without a byte order mark.

    Only a line feed ends a line, or a carriage return if there is no line feed: other Unicode separators may
    occur inside a sentence. UTF-16 with its byte order mark, which Windows PowerShell writes, is read too. A
    line that is not in the encoding or contains NUL is a UsageError.
    """
    raw = _read_bytes(path)
    is_utf16 = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = "utf-16" if is_utf16 else "utf-8-sig"
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw[: error.start].decode(encoding, errors="ignore").count("\n") + 1
        name = "UTF-16" if is_utf16 else "UTF-8"
        raise UsageError(
            f"{path}:{line}: not {name} (byte 0x{raw[error.start]:02x}); convert the file to UTF-8"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UsageError(f"{path}:{line}: has a NUL character; is it UTF-16? convert the file to UTF-8")
    lines = text.split("\n" if "\n" in text else "\r")
    return lines[:-1] if lines[-1] == "" else lines


def _read_bytes(path: Path) -> bytes:
    """Return a file's content, decompressed if its name or its first bytes say gzip."""
    try:
        raw = path.read_bytes()
        if path.suffix != ".gz" and not raw.startswith(_GZIP_MAGIC):
            return raw
        limit = max(GZIP_RATIO * len(raw), 1 << 26)
        raw = gzip.GzipFile(fileobj=BytesIO(raw)).read(limit + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UsageError(f"{path}: not a complete gzip file: {error}") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    if len(raw) > limit:
        raise UsageError(f"{path}: unpacks to more than {limit:,} bytes, as no text does; unpack it first")
    return raw


def read_xml(path: Path) -> Element:
    """Parse an XML file in its declared encoding, and return its root element; a bad one is a UsageError."""
    raw = _read_bytes(path).lstrip()
    declared = _XML_ENCODING.match(raw)
    encoding = declared[1].decode() if declared else "utf-8-sig"
    if encoding.lower().startswith("utf-16"):  # legible as single bytes, so .NET declared it of a UTF-8 file
        encoding = "utf-8"
    try:
        is_marked = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        # The parser knows no multi-byte encoding but UTF-8 and UTF-16. It ignores the declaration of text.
        return ElementTree.fromstring(raw if is_marked else raw.decode(encoding))
    except LookupError as error:
        raise UsageError(f"{path}: unknown encoding '{encoding}'; convert the file to UTF-8") from error
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"{path}:{line}: not {encoding.removesuffix('-sig').upper()} (byte 0x{raw[error.start]:02x}); "
            f"declare the file's encoding or convert it to UTF-8"
        ) from error
    except UnicodeError as error:  # of codecs such as punycode
        raise UsageError(f"{path}: not {encoding.upper()}; convert the file to UTF-8") from error
    except ElementTree.ParseError as error:
        raise UsageError(f"{path}:{error.position[0]}: malformed XML: {error}") from error


def is_hidden(path: Path) -> bool:
    """Return whether a file is one that operating systems add to folders, such as `._a.xml` and Thumbs.db."""
    return path.name.startswith(".") or path.name.lower() in _SYSTEM_FILES


def composed(name: str) -> str:
    """Return a file name in Unicode's composed form (NFC); tools on macOS write decomposed names."""
    return unicodedata.normalize("NFC", name)


def visible_files(folder: Path, suffix: str) -> list[Path]:
    """Return the files of a folder with a suffix, whatever its case, by name and without hidden ones."""
    return sorted(file for file in folder.iterdir() if file.suffix.lower() == suffix and not is_hidden(file))


def check_inside(location: str, path: object, root: str = "annotation root") -> None:
    """Raise a UsageError unless an untrusted value is a path inside the folder that messages call `root`."""
    if not isinstance(path, str):
        raise UsageError(f"{location}: expected a relative path, found {path!r}")
    normalised = posixpath.normpath(path.replace("\\", "/"))
    is_outside = normalised.startswith("/") or normalised.split("/")[0] == ".."
    if is_outside or PureWindowsPath(path).drive:
        raise UsageError(f"{location}: {path!r} leaves the {root}; expected a path inside it")


def insert_split(path: str, split: str, names: tuple[str, str, str]) -> str:
    """Replace `{split}` in a path by the name that the files use for the split."""
    return path.replace(SPLIT_PLACEHOLDER, names[SPLITS.index(split)])


def check_root(root: Path) -> None:
    """Raise an UnavailableError if the root of a data set is not a folder."""
    if not root.is_dir():
        raise UnavailableError(f"{root}: folder not found (root of the data set)")


def check_option_path(path: str, root: str = "data set's root") -> None:
    """Raise a ValueError if the path that an option names leaves the root."""
    try:
        check_inside("the path", path, root)
    except UsageError as error:
        raise ValueError(str(error)) from error
