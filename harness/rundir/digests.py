"""Digests of stored files: a file that changed since it was written is noticed and made again.

SHA256SUMS of a folder has one line per file, as `sha256sum` writes it. A writer appends the line and then
replaces the file, and each step is on the disk before the next. A crash therefore leaves the old or the new
file, and both have their line. A file that has none was changed by something else.
"""

import hashlib
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.checkpoint import sha256
from harness.files import write_bytes, write_errors, write_text

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  (\S+)")


@dataclass(frozen=True)
class Damage:
    """A stored file that is not as it was written."""

    path: Path
    problem: str


class Digests:
    """The digests of those files of a folder that match patterns; others are neither checked nor touched.

    Args:
        is_own: Returns False if the folder is a copy of another one, so that none of its files belongs here.
    """

    def __init__(
        self, folder: Path, patterns: Collection[str], is_own: Callable[[], bool] = lambda: True
    ) -> None:
        self.file = folder / SUMS
        self._folder = folder
        self._patterns = patterns
        self._is_own = is_own

    def write(self, path: Path, content: bytes) -> None:
        """Record the digest of a file's new content, and replace the file in one step."""
        with write_errors(self.file):
            self._folder.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as stream:
                stream.write(f"{hashlib.sha256(content).hexdigest()}  {self._name(path)}\n")
                stream.flush()
                os.fsync(stream.fileno())
        write_bytes(path, content)

    def remove(self, path: Path) -> None:
        """Remove a file and its digest."""
        if path.exists():
            path.unlink()
            lines = self.file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            write_text(self.file, "".join(line for line in lines if line[66:].strip() != self._name(path)))

    def check(self, required: bool = False) -> list[Damage]:
        """Return the files that changed, have no digest or are missing, by name.

        A folder without SHA256SUMS can only be checked if these are `required`.
        """
        return self._inspect()[0] if self.file.exists() or required else []

    def mend(self) -> list[Damage]:
        """Remove the files that changed or have no digest, forget the missing ones, and return them all."""
        damaged, intact = self._inspect()
        for damage in damaged:
            damage.path.unlink(missing_ok=True)
        self._replace(intact)
        return damaged

    def settle(self) -> None:
        """Keep only the last line of each file; every write has ended."""
        if self.file.exists():
            lines = self.file.read_text(encoding="utf-8", errors="replace").splitlines()
            matches = [match for line in lines if (match := _LINE.fullmatch(line))]
            self._replace({match[2]: match[1] for match in matches})

    def _replace(self, digests: Mapping[str, str]) -> None:
        text = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
        if self.file.exists() and self.file.read_bytes() != text.encode():
            write_text(self.file, text)

    def is_intact(self, path: Path) -> bool:
        """Return whether a file exists and is as it was written."""
        return path.is_file() and sha256(path) in self._read().get(self._name(path), ())

    def _inspect(self) -> tuple[list[Damage], dict[str, str]]:
        """Return the files that are not as written, and the digests of the others by name."""
        is_own = self._is_own()
        recorded = self._read() if is_own else {}
        paths = {path for pattern in self._patterns for path in self._folder.glob(pattern) if path.is_file()}
        missing = {self._folder / name for name in recorded} - paths
        # False for impossible names, for which Path.is_file raises an error.
        damaged = [Damage(path, "is missing") for path in missing if not os.path.isfile(path)]  # noqa: PTH113
        intact: dict[str, str] = {}
        for path in paths:
            name, digest = self._name(path), sha256(path)
            if digest in recorded.get(name, ()):
                intact[name] = digest
            else:
                without = "has no digest in SHA256SUMS" if is_own else "is of another trial"
                problem = "changed since it was written" if name in recorded else without
                damaged.append(Damage(path, problem))
        return sorted(damaged, key=lambda damage: damage.path), intact

    def _read(self) -> dict[str, set[str]]:
        """Return the recorded digests by name; a damaged line records nothing."""
        recorded: dict[str, set[str]] = {}
        if self.file.exists():
            for line in self.file.read_text(encoding="utf-8", errors="replace").splitlines():
                if match := _LINE.fullmatch(line):
                    recorded.setdefault(match[2], set()).add(match[1])
        return recorded

    def _name(self, path: Path) -> str:
        return path.relative_to(self._folder).as_posix()
