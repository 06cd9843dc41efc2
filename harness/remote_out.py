"""`--out` as a URL: the run directory is written here, and a copy is kept at the other place.

What lies there is fetched first, so that a run resumes wherever it is started. Objects are copied whole and
one by one: whatever is there is whole, as in the local directory.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from types import FrameType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psutil

from harness import environment
from harness.datasets.files import check_inside
from harness.errors import HarnessError, InfrastructureError, UsageError, describe
from harness.store import is_transient

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

EVERY = 30.0  # s between copies: what a lost head node costs at most, beside the shards under way
LEASE = "lease.json"  # the object that says who writes a place
LASTS = 4 * EVERY  # s that it counts without being renewed, so that clocks may differ by a minute or so
State = tuple[int, int]
"""Size and time of change (ns) of a file."""


def folder_of(out: str) -> str | None:
    """The folder of the machine that runs which `out` names; None where it is a URL of another place.

    Raises:
        UsageError: a URL with a password, which commands, records and dashboards would show.
    """
    # What follows a colon before any slash is a port, or else a password (which may itself hold a slash).
    if re.match(r"[^/]*://[^/?\[]*:(?!\d*(/|$))", out):
        reason = "a password in a URL would end up in records; give it in the environment, or in a profile"
        raise UsageError(f"--out {out.partition('://')[0]}://…: {reason}")
    return None if "://" in out and not out.startswith("file://") else out.removeprefix("file://")


@contextmanager
def located(out: str, report: Callable[[str], None]) -> Iterator[Path]:
    """A local directory for the run at `out`, which is a path (`~` is the home folder) or a URL.

    SIGTERM, which ends a Ray job, is answered as Ctrl-C is, so that a last copy is made.

    Raises:
        UsageError: no file system for such a URL, a password in it, or another run writes there.
        InfrastructureError: the place cannot be read, or in the end not be written.
    """
    if (folder := folder_of(out)) is not None:
        yield Path(folder).expanduser()
        return
    files, root = _file_system(out)
    local = Path(tempfile.mkdtemp(prefix="harness-run-"))
    lease = Lease(files, root)
    mirror = Mirror(local, files, root, lease)
    try:
        lease.renew()
        mirror.fetch()
    except Exception as error:  # of whatever library speaks to the place
        shutil.rmtree(local)
        if isinstance(error, HarnessError):
            raise
        if isinstance(error, TakenError):
            raise UsageError(f"--out {out}: {error}; wait for it, or choose another place") from error
        raise InfrastructureError(f"--out {out}: cannot be read or written: {describe(error)}") from error
    ended = threading.Event()
    copier = threading.Thread(target=_keep_up, args=(mirror, ended, report), daemon=True)
    before = signal.signal(signal.SIGTERM, _interrupt)
    copier.start()
    try:
        yield local
    finally:
        signal.signal(signal.SIGTERM, before)
        ended.set()
        copier.join()
        try:
            mirror.push()
            lease.release()
        except Exception as error:  # as above
            reason = f"cannot be written: {describe(error)}; the run is kept in {local}"
            raise InfrastructureError(f"--out {out}: {reason}") from error
        shutil.rmtree(local)


class TakenError(OSError):
    """Another run has taken the place meanwhile."""


class Lease:
    """Who writes a place: an object there that is renewed while it is copied to.

    Object stores have no lock in common. So of two runs that begin within the same second both may see the
    place free; the object then names the later one, and the other copies nothing more, not even when that
    one has ended: what it wrote must stay.
    """

    def __init__(self, files: FileSystem, root: str, clock: Callable[[], float] = time.time) -> None:
        self._files = files
        self._path = str(PurePosixPath(root) / LEASE)
        self._clock = clock
        self._renewed = 0.0
        self._lost: str | None = None  # who took the place from this process, in words
        self._own = {"id": uuid.uuid4().hex, "host": platform.node(), "process": os.getpid()}
        if job := os.environ.get(environment.JOB):
            self._own["job"] = job

    def renew(self) -> None:
        """Say that this process writes there.

        Raises:
            TakenError: another one does, or has done since it was this one's.
            OSError: the place cannot be reached.
        """
        if holder := self._lost or self._holder():
            self._lost = holder if self._renewed else None
            raise TakenError(holder)
        now = self._clock()
        self._files.create_dir(str(PurePosixPath(self._path).parent), recursive=True)
        with self._files.open_output_stream(self._path) as target:
            target.write(json.dumps(self._own | {"renewed": now}).encode())
        self._renewed = now

    def keep(self) -> None:
        """Renew it if that is due; raises as `renew`."""
        if self._clock() - self._renewed >= EVERY:
            self.renew()

    def release(self) -> None:
        with suppress(OSError):  # it ends by itself
            self._files.delete_file(self._path)

    def _holder(self) -> str | None:
        """Who else writes there, in words; None where nobody does, or has died."""
        found = self._read()
        if found is None and self._renewed:
            return f"another run has taken the place meanwhile: {LEASE} is gone"
        if not found or found["id"] == self._own["id"]:
            return None
        age = self._clock() - found["renewed"]
        here = found["host"] == self._own["host"]
        if age > LASTS or (here and not psutil.pid_exists(found["process"])):
            return None
        who = f"job {found['job']}" if "job" in found else f"process {found['process']}"
        return f"{who} on {found['host']} writes there, as of {max(age, 0):.0f} s ago"

    def _read(self) -> dict[str, Any] | None:
        """None where there is none; empty where it was half-written by a process that was killed."""
        from pyarrow.fs import FileType

        if self._files.get_file_info(self._path).type is not FileType.File:
            return None
        try:
            with self._files.open_input_stream(self._path) as source:
                document: dict[str, Any] = json.loads(source.read())
        except FileNotFoundError:  # released meanwhile
            return None
        except ValueError:
            return {}
        return document


class Mirror:
    """A local directory and its copy below `root` of another file system, as long as the lease is ours."""

    def __init__(self, local: Path, files: FileSystem, root: str, lease: Lease) -> None:
        self._local = local
        self._lease = lease
        self._files = files
        self._root = PurePosixPath(root)
        self._same: dict[str, State] = {}
        """Files that are alike here and there, by their path in the directory, as they were then."""

    def fetch(self) -> None:
        """Copy everything that is there; a place that nobody may write to is found out now."""
        from pyarrow.fs import FileSelector, FileType

        self._files.create_dir(str(self._root), recursive=True)
        found = self._files.get_file_info(FileSelector(str(self._root), recursive=True))
        for info in found:
            if info.type is not FileType.File:
                continue
            name = str(PurePosixPath(info.path).relative_to(self._root))
            if name == LEASE:
                continue
            self._lease.keep()
            check_inside("--out", name, "run directory")
            path = self._local / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._files.open_input_stream(info.path) as source, path.open("wb") as target:
                shutil.copyfileobj(source, target)
            self._same[name] = _state(path)

    def push(self) -> None:
        """Copy what has changed since, and remove there what is gone here; run.json first.

        Raises:
            OSError: the place cannot be written, or another run has taken it.
        """
        self._lease.renew()
        present = {}
        for path in sorted(self._local.rglob("*"), key=lambda path: (path.name != "run.json", path)):
            name = path.relative_to(self._local).as_posix()
            if path.is_dir() or is_transient(path.name):
                continue
            try:
                present[name] = state = _state(path)
                if self._same.get(name) == state:
                    continue
                content = path.read_bytes()
            except FileNotFoundError:  # replaced or removed meanwhile
                present.pop(name, None)
                continue
            self._lease.keep()
            place = self._root / name
            self._files.create_dir(str(place.parent), recursive=True)
            with self._files.open_output_stream(str(place)) as target:
                target.write(content)
            self._same[name] = state
        for name in self._same.keys() - present.keys():
            self._files.delete_file(str(self._root / name))
            del self._same[name]


def _keep_up(mirror: Mirror, ended: threading.Event, report: Callable[[str], None]) -> None:
    failing = False
    while not ended.wait(EVERY):
        try:
            mirror.push()
            failing = False
        except Exception as error:  # of whatever library speaks to the place; the copier must live
            if not failing:
                report(f"--out: no copy could be made ({describe(error)}); tried again every {EVERY:g} s")
            failing = True


def _file_system(url: str) -> tuple[FileSystem, str]:
    """pyarrow's where it has one (s3, gs, hdfs), else fsspec's."""
    from pyarrow import ArrowInvalid
    from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem

    if not urlsplit(url).path.strip("/") and not urlsplit(url).netloc:
        raise UsageError(f"--out {url}: expected a place, such as s3://bucket/runs/nightly")
    try:
        files, root = FileSystem.from_uri(url)
    except ArrowInvalid:
        import fsspec

        try:
            found, root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise UsageError(f"--out {url}: {error}") from error
        except Exception as error:  # of whatever library speaks to the place
            raise InfrastructureError(f"--out {url}: {describe(error)}") from error
        files = PyFileSystem(FSSpecHandler(found))
    except OSError as error:
        raise InfrastructureError(f"--out {url}: {describe(error)}") from error
    return files, root


def _state(path: Path) -> State:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    raise KeyboardInterrupt
