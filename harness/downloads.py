"""Public data sets and weights: where they come from, and whether what is on the disk is whole.

A download continues where it was interrupted, and counts only when it is whole.
"""

import gzip
import hashlib
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Mapping
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple, TypeAlias
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from pydantic import Field, RootModel

from harness.checkpoint import sha256
from harness.errors import FULL_DISK, InfrastructureError, UsageError
from harness.files import StrictModel, one_at_a_time, write_bytes, write_errors
from harness.registry import unknown
from harness.yaml_source import read_source, validate

Kind: TypeAlias = Literal["data", "weights"]
Progress: TypeAlias = Callable[..., None]  # with the arguments of rich.progress.Progress.update
CATALOGUE = Path(__file__).with_name("downloads.yaml")
TIMEOUT_SECONDS = 60.0
CHUNK_BYTES = 1 << 18
_DAMAGED: tuple[type[Exception], ...] = (
    *(tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, shutil.ReadError),
    # Members in each other's way; an encrypted zip, or a method that zipfile lacks; a name that is no text.
    *(FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, RuntimeError, UnicodeError),
)


class RemoteFile(StrictModel):
    """A file to download."""

    url: str = Field(pattern=r"^https?://\S+$")
    checksum: str | None = Field(None, pattern=r"^(md5|sha256):[0-9a-f]{8,64}$")
    """Published digest. Leading digits suffice, as in the file names of torchvision's weights."""
    to: str | None = None
    """Path of the file below the folder of all downloads; None for an archive."""


class Download(StrictModel):
    """A data set, or a file of weights."""

    licence: str
    source: str
    megabytes: float
    contents: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """SHA-256 of what `sha256sum` prints for the unpacked files, in the order of their names."""
    files: tuple[RemoteFile, ...]
    unpack: Mapping[str, str] = Field({})
    """Member of an archive → its path below that folder. Other members are not kept."""

    @property
    def paths(self) -> list[str]:
        """Return the files and folders that the download makes; none is inside another."""
        targets = {*self.unpack.values(), *(file.to for file in self.files if file.to)}
        return sorted(t for t in targets if not any(str(p) in targets for p in PurePosixPath(t).parents))


class Catalogue(RootModel[dict[Kind, dict[str, Download]]]):
    """All downloads by kind and name."""


def read_catalogue(kind: Kind, names: Collection[str] = ()) -> dict[str, Download]:
    """Return the downloads of a kind by name, all of them if none is named."""
    source = read_source(CATALOGUE)
    entries = validate(Catalogue, source.document, [source]).root[kind]
    for name in names:
        if name not in entries:
            raise UsageError(unknown("download", name, entries))
    return {name: entries[name] for name in names or entries}


class State(NamedTuple):
    """The state of a download on the disk, and how it was decided or what is wrong."""

    status: Literal["absent", "whole", "not verified", "damaged"]
    detail: str


def inspect(name: str, download: Download, root: Path) -> State:
    """Read the files of a download, and compare them with what was published or recorded by `fetch`."""
    changed = [path for path in download.paths if not (root / path).exists()]
    if len(changed) == len(download.paths):
        return State("absent", f"not in {root}")
    text, record = _digests(root, download), root / f"{name}.sha256"
    lines = set(text.splitlines())
    if hashlib.sha256(text.encode()).hexdigest() == download.contents:
        return State("whole", f"{len(lines)} files as published")
    recorded = record.read_text(encoding="utf-8", errors="replace").splitlines() if record.is_file() else []
    changed += [line[66:] for line in recorded if line not in lines]
    single = {file.to: file.checksum for file in download.files if file.to and file.checksum}
    changed += [p for p, checksum in single.items() if p not in changed and not _matches(root / p, checksum)]
    if changed:
        return State("damaged", f"missing or changed: {changed[0]} ({len(changed)} in all)")
    if recorded or len(single) == len(download.files):
        return State("whole", f"{len(lines)} files as {'fetched' if recorded else 'published'}")
    reason = "which differ from the published ones" if download.contents else "fetched by another tool"
    return State("not verified", f"{len(lines)} files, {reason}")


def fetch(name: str, download: Download, root: Path, progress: Progress) -> State:
    """Download, check and unpack what is not there yet, and return its state.

    Files are prepared in ROOT/.NAME.part and then renamed, ROOT/NAME.sha256 with their digests last.

    Raises:
        InfrastructureError: A server fails, or what it delivers is damaged or not what was published.
        UsageError: Something else is there, or the files cannot be written.
    """
    staging, record = root / f".{name}.part", f"{name}.sha256"
    with write_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(root):
            state = inspect(name, download, root)
            if state.status == "absent":
                _prepare(download, staging, record, progress)
            if (staging / "tree" / record).exists():  # also if an earlier process was killed between renames
                for path in [*download.paths, record]:
                    if not (root / path).exists():
                        _move(staging / "tree" / path, root / path)
                shutil.rmtree(staging)
                state = inspect(name, download, root)
    if state.status == "damaged":
        raise UsageError(f"{name}: {state.detail}; to fetch it again, remove it from {root}")
    return state


def _prepare(download: Download, staging: Path, record: str, progress: Progress) -> None:
    """Download all files, and put them or the members of archives into STAGING/tree, with their digests."""
    staging.mkdir(parents=True, exist_ok=True)
    parts = [staging / f"{i}-{PurePosixPath(file.url).name}" for i, file in enumerate(download.files)]
    for part, file in zip(parts, download.files, strict=True):
        if not (file.checksum or download.contents):
            part.unlink(missing_ok=True)  # nothing would show that its halves are of two versions
        _download(file, part, progress)
    try:
        digests = _unpack(download, parts, staging)
    except _DAMAGED as error:
        shutil.rmtree(staging)
        raise InfrastructureError(f"not a whole, safe archive ({error}); removed {staging}") from error
    if download.contents not in (None, hashlib.sha256(digests).hexdigest()):
        shutil.rmtree(staging)
        raise InfrastructureError(f"the files differ from the published ones; removed {staging}")
    write_bytes(staging / "tree" / record, digests)


def _unpack(download: Download, parts: list[Path], staging: Path) -> bytes:
    """Put the parts, or the members of those that are archives, into STAGING/tree; return their digests."""
    tree, unpacked = staging / "tree", staging / "unpacked"
    shutil.rmtree(tree, ignore_errors=True)
    shutil.rmtree(unpacked, ignore_errors=True)
    for part, file in zip(parts, download.files, strict=True):
        if file.to:
            _move(part, tree / file.to)
            continue
        if part.suffix in (".gz", ".tgz"):
            with gzip.open(part) as stream:
                hashlib.file_digest(stream, "sha256")  # reads the checksum at the end, which tar does not
        # Members outside the folder: an error with the filter, skipped in zip archives, which take none.
        shutil.unpack_archive(part, unpacked, filter=None if part.suffix == ".zip" else _without_links)
    for member, target in download.unpack.items():
        _move(unpacked / member, tree / target)
    return _digests(tree, download).encode()


def _without_links(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
    """Skip links, and treat other members as tarfile's filter for data does."""
    return None if member.issym() or member.islnk() else tarfile.data_filter(member, folder)


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)


def _download(file: RemoteFile, part: Path, progress: Progress) -> None:
    """Download a file, or the rest of it if a part is there."""
    size = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "harness", **({"Range": f"bytes={size}-"} if size else {})}
    total = None
    try:
        with urlopen(Request(file.url, headers=headers), timeout=TIMEOUT_SECONDS) as response:
            size = size if response.status == 206 else 0  # 200: the whole file
            if length := response.headers["Content-Length"]:
                total = size + int(length)
            with part.open("ab" if size else "wb") as stream:
                while chunk := response.read(CHUNK_BYTES):
                    stream.write(chunk)
                    size += len(chunk)
                    progress(description=part.name, completed=size, total=total)
    except (HTTPException, OSError) as error:
        if isinstance(error, OSError) and error.errno in FULL_DISK:
            raise
        # An answer 416 has the size of the file: nothing is left to send, or the part is longer.
        available = error.headers["Content-Range"] if isinstance(error, HTTPError) else None
        if available not in (None, f"bytes */{size}"):
            part.unlink(missing_ok=True)
        if available != f"bytes */{size}":
            raise InfrastructureError(f"{file.url}: {error}; the same command continues") from error
    if total not in (None, size):
        raise InfrastructureError(f"{file.url}: {size:,} of {total:,} bytes; the same command continues")
    if file.checksum and not _matches(part, file.checksum):
        part.unlink()
        raise InfrastructureError(f"{file.url}: differs from its published checksum; removed")


def _digests(root: Path, download: Download) -> str:
    """Return what `sha256sum` prints for the files of a download, without hidden ones."""
    paths = [path for top in download.paths for path in (root / top, *(root / top).rglob("*"))]
    names = sorted(path.relative_to(root).as_posix() for path in paths if path.is_file())
    return "".join(f"{sha256(root / name)}  {name}\n" for name in names if "/." not in name)


def _matches(path: Path, checksum: str) -> bool:
    """Return whether the digest of a file begins with the digits of a checksum."""
    algorithm, _, digits = checksum.partition(":")
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest().startswith(digits)
