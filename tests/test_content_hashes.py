"""A data set is read once: the digests of its files are kept until a file changes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from harness.datasets import content_hashes as module
from harness.datasets.content_hashes import content_hashes
from harness.errors import UsageError


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Use an empty cache and a clock ten seconds ahead; return the names of the files that are read."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module.time, "time_ns", lambda now=module.time.time_ns: now() + 10 * 10**9)
    names: list[str] = []

    def sha256(path: Path) -> str:
        names.append(path.name)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr(module, "sha256", sha256)
    module._store.cache_clear()
    return names


def write(folder: Path, **contents: str) -> list[Path]:
    paths = [folder / name for name in contents]
    for path, text in zip(paths, contents.values(), strict=True):
        path.write_text(text)
    return paths


def test_another_process_reads_nothing_again(tmp_path: Path, read: list[str]) -> None:
    paths = write(tmp_path, a="one", b="two", c="one")
    expected = [hashlib.sha256(text).digest() for text in (b"one", b"two", b"one")]
    assert content_hashes(paths) == expected
    assert sorted(read) == ["a", "b", "c"]
    module._store.cache_clear()  # as in a process that starts
    assert content_hashes(paths) == expected
    assert content_hashes([paths[1], paths[1]]) == [expected[1]] * 2
    assert len(read) == 3


def test_a_file_that_changed_is_read_again_even_if_its_size_and_time_are_the_same(
    tmp_path: Path, read: list[str]
) -> None:
    (path,) = write(tmp_path, a="one")
    times = path.stat()
    content_hashes([path])
    path.write_text("two")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert content_hashes([path]) == [hashlib.sha256(b"two").digest()]
    assert read == ["a", "a"]


def test_a_file_that_was_written_just_now_is_not_relied_on(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.time, "time_ns", lambda: path.stat().st_ctime_ns + 10**9)
    (path,) = write(tmp_path, a="one")
    content_hashes([path])
    content_hashes([path])
    assert read == ["a", "a"]


def test_a_cache_that_cannot_be_used_costs_time_only(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = write(tmp_path, a="one")
    monkeypatch.setenv("HARNESS_CACHE", str(path))  # a file
    assert content_hashes([path]) == [hashlib.sha256(b"one").digest()]
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "hashes.sqlite").write_bytes(b"not a database" * 100)
    monkeypatch.setenv("HARNESS_CACHE", str(broken))
    assert content_hashes([path]) == [hashlib.sha256(b"one").digest()]


def test_a_missing_file_is_named(tmp_path: Path, read: list[str]) -> None:
    with pytest.raises(UsageError, match=r"gone\.jpg: cannot be read: No such file"):
        content_hashes([*write(tmp_path, a="one"), tmp_path / "gone.jpg"])
