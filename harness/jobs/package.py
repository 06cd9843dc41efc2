"""The package sent to a cluster: the code as installed here, the suite, and the weights that it names.

Files are included one by one: everything inside a Python package except hidden files, such as `.env`, and
weights. Therefore, neither `.git` nor runs are sent. Files that a suite names by an absolute path or a
variable are expected to be on the cluster.
"""

import hashlib
import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

from harness.adapter import ADAPTERS
from harness.checkpoint import WEIGHTS
from harness.datasets.dataset import DATASETS
from harness.errors import UsageError
from harness.identity import SHIPPED_PACKAGES, modules_of
from harness.metrics.metric import METRICS
from harness.recipe import CheckpointRef, shipped_recipes
from harness.registry import Entry, Registry
from harness.suite.checkpoints import resolve_checkpoints
from harness.suite.loading import LoadedSuite
from harness.trial import path_options

MAX_PACKAGE_BYTES = 100 * 2**20  # the dashboard of Ray 2.60 answers 413 to more (measured)
_REGISTRIES: tuple[Registry[Any], ...] = (ADAPTERS, DATASETS, METRICS)
SUITE_FOLDER = "suite"  # in the package, for suites that are not shipped with the harness
# Earliest time of a zip; a constant, so that equal content gives equal bytes.
ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Package:
    """The content of the zip file that a job sends to the cluster."""

    suite: str  # path of the suite in the zip
    files: Mapping[str, Path]  # path in the zip → file on this machine
    texts: Mapping[str, str] = field(default_factory=dict)
    """Path in the zip → content that is not a file on this machine."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of names and contents."""
        digest = hashlib.sha256(self.suite.encode())
        for name, content in self._contents():
            digest.update(f"\0{name}\0{len(content)}\0".encode())
            digest.update(content)
        return digest.hexdigest()

    def write(self, path: Path) -> None:
        """Write the zip; equal packages give equal bytes.

        Raises:
            UsageError: The zip is larger than Ray accepts; the message names the largest files.
        """
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in self._contents():
                info = zipfile.ZipInfo(name, ZIP_EPOCH)
                info.external_attr = 0o644 << 16
                # Weights do not compress.
                info.compress_type = zipfile.ZIP_STORED if name.endswith(WEIGHTS) else zipfile.ZIP_DEFLATED
                archive.writestr(info, content)
        size = path.stat().st_size
        if size > MAX_PACKAGE_BYTES:
            by_size = sorted(((file.stat().st_size, name) for name, file in self.files.items()), reverse=True)
            largest = ", ".join(f"{name} {_mib(length)}" for length, name in by_size[:3])
            raise UsageError(
                f"the package for the cluster has {_mib(size)}, and Ray accepts at most "
                f"{_mib(MAX_PACKAGE_BYTES)} (largest: {largest}); put weights on storage that all nodes "
                "share, and name them by absolute paths"
            )

    def _contents(self) -> Iterator[tuple[str, bytes]]:
        for name in sorted({*self.files, *self.texts}):
            yield name, self.texts[name].encode() if name in self.texts else self.files[name].read_bytes()


def pack(loaded: LoadedSuite) -> Package:
    """Collect everything that a suite needs on a cluster besides data and installed libraries."""
    origins = {entry.origin for entry in _plugins(loaded)} - {"harness"}
    # Their entry points are sent as well, so every module that these name must be there.
    plugins = [entry for registry in _REGISTRIES for entry in registry.entries().values()]
    needed = {m for entry in plugins if entry.origin in origins for m in modules_of(entry.module)}
    modules = {*SHIPPED_PACKAGES, *(module.partition(".")[0] for module in needed)}
    names = {path: name for module in sorted(modules) for name, path in _code_files(module)}
    checkpoints = _packed_checkpoints(loaded)
    named_files = (*map(Path.resolve, loaded.files), *checkpoints, *_files_of_options(loaded))
    outside = [path for path in named_files if path not in names]
    root = Path(os.path.commonpath([path.parent for path in outside])) if outside else Path()
    names |= {path: f"{SUITE_FOLDER}/{path.relative_to(root).as_posix()}" for path in outside}
    for recipe, references in checkpoints.items():
        for weights in (reference.weights.resolve() for reference in references if not reference.missing):
            # Cached weights are in a folder named after the hash of their recipe, here and on the cluster.
            folder = "" if weights.parent == recipe.parent else f"{weights.parent.name}/"
            names[weights] = str(PurePosixPath(names[recipe]).parent / f"{folder}{weights.name}")
    texts = dict(file for origin in ("harness", *origins) for file in _metadata(origin))
    return Package(names[loaded.path.resolve()], {name: path for path, name in names.items()}, texts)


def _plugins(loaded: LoadedSuite) -> Iterator[Entry]:
    """Yield the registered adapters, data sets and metrics that the suite names."""
    suite = loaded.suite
    adapters = [entry.adapter for entry in suite.adapters.values()]
    datasets = [entry.dataset for entry in suite.datasets.values()]
    datasets += [entry.dataset for entry in suite.benchmarks.values()]
    metrics = [metric for entry in suite.benchmarks.values() for metric in entry.metrics]
    for registry, names in zip(_REGISTRIES, (adapters, datasets, metrics), strict=True):
        yield from (entry for name, entry in registry.entries().items() if name in names)


def _code_files(module: str) -> Iterator[tuple[str, Path]]:
    """Yield (path in the zip, file) for all files of a module or package except weights and hidden files."""
    spec = find_spec(module)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        base = Path(folder).resolve()
        for path in sorted(base.rglob("*")):
            inside = path.relative_to(base)
            hidden = any(part.startswith(".") or part == "__pycache__" for part in inside.parts)
            if hidden or path.suffix in WEIGHTS or not path.resolve().is_relative_to(base):
                continue
            if path.is_file():
                yield f"{module}/{inside.as_posix()}", path
    if spec and not spec.submodule_search_locations and spec.origin:
        yield Path(spec.origin).name, Path(spec.origin).resolve()


def _metadata(origin: str) -> Iterator[tuple[str, str]]:
    """Yield the files by which a distribution's plug-ins are found on the cluster, as (path, content)."""
    try:
        package = distribution(origin)
    except PackageNotFoundError:
        return
    folder = f"{origin.replace('-', '_')}-{package.version}.dist-info"
    needs = "".join(f"Requires-Dist: {requirement}\n" for requirement in package.requires or ())
    yield f"{folder}/METADATA", f"Metadata-Version: 2.1\nName: {origin}\nVersion: {package.version}\n{needs}"
    yield f"{folder}/entry_points.txt", package.read_text("entry_points.txt") or ""
    modules = sorted(name for name, origins in packages_distributions().items() if origin in origins)
    yield f"{folder}/top_level.txt", "".join(f"{name}\n" for name in modules)


def _packed_checkpoints(loaded: LoadedSuite) -> dict[Path, list[CheckpointRef]]:
    """Return the checkpoints to send, by the recipe or weights file that the suite names."""
    checkpoints: dict[Path, list[CheckpointRef]] = {}
    for label, entry in loaded.suite.adapters.items():
        name, keys = entry.checkpoint, ["adapters", label]
        if entry.train is None and (name is None or "${" in name or Path(name).is_absolute()):
            continue
        references = list(resolve_checkpoints(loaded, entry, keys).values())
        if name is None:
            path = loaded.file([*keys, "train"])
        elif name.endswith((*WEIGHTS, ".yaml", ".yml")):
            path = loaded.folder([*keys, "checkpoint"]) / name
        else:
            path = shipped_recipes(entry.adapter)[name]
        checkpoints.setdefault(path.resolve(), []).extend(references)
    return checkpoints


def _files_of_options(loaded: LoadedSuite) -> Iterator[Path]:
    """Yield the files that adapters' options and benchmarks' slices name by paths relative to the suite."""
    if loaded.suite.data_root is not None:
        return
    for name, benchmark in loaded.suite.benchmarks.items():
        table = benchmark.slices
        if table is not None and "${" not in table and not Path(table).is_absolute():
            yield (loaded.folder(["benchmarks", name, "slices"]) / table).resolve()
    for label, entry in loaded.suite.adapters.items():
        for name in path_options(entry.adapter) & entry.options.keys():
            keys, value = ["adapters", label, "options", name], entry.options[name]
            for path in value if isinstance(value, list) else [value]:
                if isinstance(path, str) and "${" not in path and not Path(path).is_absolute():
                    named = (loaded.folder(keys) / path).resolve()
                    yield from (file for file in [named, *named.rglob("*")] if file.is_file())


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
