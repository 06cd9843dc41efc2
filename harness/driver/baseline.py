"""The baseline of a gate on speed: the code and suite of a git revision, unpacked beside the checkout."""

import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory

from harness.environment import git
from harness.errors import InfrastructureError, UsageError
from harness.files import read_record
from harness.rundir.records import RunFile


@dataclass(frozen=True)
class Version:
    """Code and suite of one side of a comparison."""

    name: str
    suite: Path
    overrides: tuple[str, ...]
    checkout: Path = Path()
    folders: tuple[Path, ...] = ()
    """The unpacked revision, and its folders that are searched for modules; none for the present version."""

    def check(self, files: Mapping[str, str]) -> None:
        """Check that a process of the baseline imports the code of the revision, from these files.

        Raises:
            UsageError: A file is in the checkout, also by a link, or all adapters are outside the revision.
        """
        tree, libraries = self.folders[0], Path(sys.prefix).resolve()
        resolved = {name: Path(file).resolve() for name, file in files.items()}
        outside = {name: file for name, file in resolved.items() if not file.is_relative_to(tree)}
        adapters = files.keys() - {"harness"}
        no_adapter = bool(adapters) and outside.keys() >= adapters
        for name, file in outside.items():
            in_checkout = file.is_relative_to(self.checkout) and not file.is_relative_to(libraries)
            if no_adapter or in_checkout:
                expected = f"expected from the revision of {self.checkout}"
                raise UsageError(f"'{name}' is imported from {file}, {expected}")


@contextmanager
def unpacked(
    revision: str, suite: Path, overrides: Sequence[str], resolved: Path | None = None
) -> Iterator[Version]:
    """Unpack a revision of the repository that holds a suite.

    Files that git does not track are those of the checkout. A `resolved` suite replaces the suite of the
    revision and the overrides.
    """
    try:
        root = Path(git(suite.resolve().parent, "rev-parse", "--show-toplevel")).resolve()
        commit = git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    except (OSError, subprocess.CalledProcessError) as error:
        hint = "if its clone is shallow, fetch the revision first"
        raise UsageError(
            f"baseline {revision}: no revision of a repository that holds {suite}; {hint}"
        ) from error
    with TemporaryDirectory(prefix="harness-baseline-") as temporary:
        tree = Path(temporary).resolve()
        _unpack(root, commit, tree)
        _link_untracked(root, tree)
        if (tree / "harness").is_dir() and not (tree / "harness/stages/turns.py").is_file():
            raise UsageError(f"baseline {revision}: its harness cannot be timed in turns yet")
        file = tree / suite.resolve().relative_to(root)
        if resolved:
            file = file.with_name(f".{commit}.yaml")
            if not file.parent.resolve().is_relative_to(tree):
                raise UsageError(f"baseline {revision}: the folder of {suite} is not in the revision")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(resolved.read_bytes())
        elif not file.is_file():
            raise UsageError(f"baseline {revision}: has no suite {file.relative_to(tree)}")
        searched = [Path(entry).resolve() for entry in sys.path if entry]
        mapped = [tree / path.relative_to(root) for path in searched if path.is_relative_to(root)]
        folders = (tree, tree / "src", *mapped)
        yield Version(commit, file, () if resolved else tuple(overrides), root, folders)


def _unpack(root: Path, commit: str, tree: Path) -> None:
    with NamedTemporaryFile(suffix=".tar") as file:
        try:
            git(root, "archive", "--output", file.name, commit)
            with tarfile.open(file.name) as archive:
                archive.extractall(tree, filter="tar")
        except (subprocess.CalledProcessError, tarfile.TarError, OSError) as error:
            raise InfrastructureError(f"baseline {commit[:12]}: not unpacked in {tree}: {error}") from error


def _link_untracked(root: Path, tree: Path) -> None:
    """Link what git does not track, such as data, weights and metadata of packages, into the tree."""
    for name in git(root, "ls-files", "--others", "--directory", "-z").split("\0"):
        target = tree / name.rstrip("/")
        if name and target.name != "__pycache__" and target.parent.is_dir() and not target.exists():
            target.symlink_to(root / name)


def revision_of_run(run: Path) -> str:
    """Return the revision of the repository that held the suite of a run, which must have its code."""
    record = read_record(run / "run.json", RunFile)
    if record is None or not (run / "suite.yaml").is_file():
        raise UsageError(f"--baseline-run {run}: not a run directory")
    suites = [source for source in record.run.sources if source.kind == "suite"]  # none for a shipped suite
    revision = suites[0].git_revision if suites else record.run.git_revision
    dirty = any(source.git_dirty for source in record.run.sources) or (record.run.git_dirty and not suites)
    if dirty or revision is None:
        problem = "with uncommitted changes" if dirty else "outside a git repository"
        raise UsageError(f"--baseline-run {run}: was made {problem}; expected a run of a committed revision")
    return revision
