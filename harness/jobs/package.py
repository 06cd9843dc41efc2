"""What travels to a cluster with a suite: the code as installed here, the suite, and the weights it names.

Chosen file by file rather than by excluding from a folder: neither `.git` nor runs, nor hidden files such as
`.env`, go along; whatever else lies inside a package does. What a suite names by an absolute path or a
variable is taken to be on the cluster already.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

from harness.adapter import ADAPTERS
from harness.checkpoint import WEIGHTS
from harness.datasets.dataset import DATASETS
from harness.errors import UsageError
from harness.metrics.metric import METRICS
from harness.recipe import CheckpointRef, shipped_recipes
from harness.registry import Entry, Registry
from harness.suite.schema import LoadedSuite
from harness.suite.variants import checkpoints_of

OWN = ("adapters", "harness", "reports", "suites")
LARGEST = 100 * 2**20  # bytes; measured: the dashboard of Ray 2.60 answers 413 to more
SUITE_FOLDER = "suite"  # in the package; of a suite that does not ship
EPOCH = (1980, 1, 1, 0, 0, 0)  # the first that a zip can hold: equal content, equal bytes


@dataclass(frozen=True)
class Package:
    """A zip file to be."""

    suite: str
    """The suite's path inside."""
    files: Mapping[str, Path]
    """Name inside → file here."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """Name inside → content: what no file here holds in that form."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of names and contents."""
        found = hashlib.sha256(self.suite.encode())
        for name, content in self._contents():
            found.update(f"\0{name}\0{len(content)}\0".encode())
            found.update(content)
        return found.hexdigest()

    def write(self, path: Path) -> None:
        """Write the zip; equal packages are equal to the byte.

        Raises:
            UsageError: it is larger than Ray takes; names the largest files.
        """
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in self._contents():
                info = zipfile.ZipInfo(name, EPOCH)
                info.external_attr = 0o644 << 16
                # Weights do not get smaller.
                info.compress_type = zipfile.ZIP_STORED if name.endswith(WEIGHTS) else zipfile.ZIP_DEFLATED
                archive.writestr(info, content)
        size = path.stat().st_size
        if size > LARGEST:
            by_size = sorted(((file.stat().st_size, name) for name, file in self.files.items()), reverse=True)
            largest = ", ".join(f"{name} {_mib(length)}" for length, name in by_size[:3])
            raise UsageError(
                f"the package for the cluster is {_mib(size)}, and Ray takes at most {_mib(LARGEST)} "
                f"(largest: {largest}); put weights where all nodes see them, and name them by absolute paths"
            )

    def _contents(self) -> Iterator[tuple[str, bytes]]:
        for name in sorted({*self.files, *self.texts}):
            yield name, self.texts[name].encode() if name in self.texts else self.files[name].read_bytes()


def pack(loaded: LoadedSuite) -> Package:
    """Collect what a suite needs on a cluster besides data and installed libraries.

    Raises:
        UsageError: a checkpoint that is not to be had, with file and line.
        UnavailableError: as `UsageError`, of files.
    """
    plugins = [entry for entry in _plugins(loaded) if entry.origin != "harness"]
    tops = {*OWN, *(entry.target.partition(":")[0].partition(".")[0] for entry in plugins)}
    names = {path: name for top in sorted(tops) for name, path in _code(top)}
    checkpoints = _checkpoints(loaded)
    written = [path for path in (*map(Path.resolve, loaded.files), *checkpoints) if path not in names]
    root = Path(os.path.commonpath([path.parent for path in written])) if written else Path()
    names |= {path: f"{SUITE_FOLDER}/{path.relative_to(root).as_posix()}" for path in written}
    for recipe, references in checkpoints.items():
        for weights in (reference.weights.resolve() for reference in references if not reference.missing):
            # Those from the cache lie in a folder of their recipe's hash, here as there.
            folder = "" if weights.parent == recipe.parent else f"{weights.parent.name}/"
            names[weights] = str(PurePosixPath(names[recipe]).parent / f"{folder}{weights.name}")
    texts = dict(
        line for origin in ("harness", *(entry.origin for entry in plugins)) for line in _metadata(origin)
    )
    return Package(names[loaded.path.resolve()], {name: path for path, name in names.items()}, texts)


def _plugins(loaded: LoadedSuite) -> Iterator[Entry]:
    """The registered adapters, data sets and metrics that the suite names."""
    suite = loaded.suite
    named: dict[Registry[Any], list[str]] = {
        ADAPTERS: [entry.adapter for entry in suite.adapters.values()],
        DATASETS: [
            *(entry.dataset for entry in suite.datasets.values()),
            *(entry.dataset for entry in suite.benchmarks.values()),
        ],
        METRICS: [metric for entry in suite.benchmarks.values() for metric in entry.metrics],
    }
    for registry, names in named.items():
        known = registry.entries()
        yield from (known[name] for name in names if name in known)


def _code(top: str) -> Iterator[tuple[str, Path]]:
    """(name inside, file) of a module or package; weights are left to those who need them."""
    spec = find_spec(top)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        base = Path(folder).resolve()
        for path in sorted(base.rglob("*")):
            inside = path.relative_to(base)
            hidden = any(part.startswith(".") or part == "__pycache__" for part in inside.parts)
            if hidden or path.suffix in WEIGHTS or not path.resolve().is_relative_to(base):
                continue
            if path.is_file():
                yield f"{top}/{inside.as_posix()}", path
    if spec and not spec.submodule_search_locations and spec.origin:
        yield Path(spec.origin).name, Path(spec.origin).resolve()


def _metadata(origin: str) -> Iterator[tuple[str, str]]:
    """What makes a distribution's plug-ins findable where it is not installed."""
    try:
        found = distribution(origin)
    except PackageNotFoundError:
        return
    folder = f"{origin.replace('-', '_')}-{found.version}.dist-info"
    yield f"{folder}/METADATA", f"Metadata-Version: 2.1\nName: {origin}\nVersion: {found.version}\n"
    yield f"{folder}/entry_points.txt", found.read_text("entry_points.txt") or ""


def _checkpoints(loaded: LoadedSuite) -> dict[Path, list[CheckpointRef]]:
    """File that the suite names, a recipe or weights → what it stands for; only those that travel."""
    found: dict[Path, list[CheckpointRef]] = {}
    for label, entry in loaded.suite.adapters.items():
        name = entry.checkpoint
        if name is None or "${" in name or Path(name).is_absolute():
            continue
        keys = ["adapters", label]
        references = list(checkpoints_of(loaded, entry, keys).values())
        if name.endswith((*WEIGHTS, ".yaml", ".yml")):
            path = loaded.folder([*keys, "checkpoint"]) / name
        else:
            path = shipped_recipes(entry.adapter)[name]
        found.setdefault(path.resolve(), []).extend(references)
    return found


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
