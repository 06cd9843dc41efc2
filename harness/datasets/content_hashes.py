"""Digests of the user's files, which are kept so that a large data set is not read twice."""

import os
import sqlite3
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

from harness.cache import cache_folder
from harness.checkpoint import sha256
from harness.errors import UsageError

State: TypeAlias = tuple[bytes, int, str]  # path, time of the last change in ns, size and inode
_THREADS = 8  # more are no faster on one disk
_SETTLED_NS = 2_000_000_000  # a file that changes twice within this time may have the same times as before


def content_hashes(paths: Iterable[Path]) -> list[bytes]:
    """Return the SHA-256 of each file. A file is read once per cache folder unless its state changes."""
    files = list(paths)
    store = _store(cache_folder().with_name("hashes.sqlite"), os.getpid())
    find = "SELECT sha256 FROM hashes WHERE path = ? AND changed = ? AND rest = ?"
    try:
        with ThreadPoolExecutor(_THREADS) as pool:
            states = list(pool.map(_state, files))
            hashes = {state: row[0] for state in states if (row := store.execute(find, state).fetchone())}
            unread = {s: file for s, file in zip(states, files, strict=True) if s not in hashes}
            hashes.update(zip(unread, pool.map(sha256, unread.values()), strict=True))
    except OSError as error:
        raise UsageError(f"{error.filename}: cannot be read: {error.strerror}") from error
    settled = [(*state, hashes[state]) for state in unread if time.time_ns() - state[1] > _SETTLED_NS]
    with suppress(sqlite3.Error), store:
        store.executemany("INSERT OR REPLACE INTO hashes VALUES (?, ?, ?, ?)", settled)
    return [bytes.fromhex(hashes[state]) for state in states]


@lru_cache(maxsize=1)
def _store(path: Path, pid: int) -> sqlite3.Connection:  # noqa: ARG001  no connection survives a fork
    """Open the digests of earlier readings, or none if the cache folder cannot be used."""
    for place in (path, Path(":memory:")):
        with suppress(OSError, sqlite3.Error):
            place.parent.mkdir(parents=True, exist_ok=True)
            store = sqlite3.connect(place, timeout=60, check_same_thread=False)
            store.execute("CREATE TABLE IF NOT EXISTS hashes (path PRIMARY KEY, changed, rest, sha256)")
            return store
    raise AssertionError("SQLite has no memory")


def _state(file: Path) -> State:
    status = file.stat()
    rest = f"{status.st_size} {status.st_ino} {status.st_mtime_ns}"
    return os.fsencode(file.absolute()), status.st_ctime_ns, rest
