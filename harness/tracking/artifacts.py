"""The files of a run in MLflow: report, charts and archive with the parent run, others with the trials."""

import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from harness.compare.outcome import last_comparison
from harness.identity import digest
from harness.rundir.results import Results

ARCHIVE = "run.zip"  # the run directory without its report, for comparisons on another machine
DIGEST_TAG = "harness.artifacts"
"""Tag with the digest of the contents behind an MLflow run's artifacts. Set once all are uploaded."""
_RECREATED = {"report", "run.lock"}
_BULK = {"predictions", "statistics"}  # only in the archive, because they are not for viewing


def run_files(run_dir: Path) -> list[Path]:
    """Return the files of the archive, relative to the run directory, in a fixed order."""
    return _files(run_dir, _RECREATED)


def trial_files(trial_dir: Path) -> list[Path]:
    """Return the files of a trial's MLflow run: specification, figures, timings, analysis, samples."""
    return _files(trial_dir, _BULK)


def comparison_files(run_dir: Path) -> list[Path]:
    """Return the files that `harness compare` wrote about these results; a run alone cannot recreate them."""
    if not last_comparison(run_dir):
        return []
    return sorted(path.relative_to(run_dir) for path in (run_dir / "report").glob("compare*"))


def content_digest(folder: Path, files: list[Path]) -> str:
    """Return the SHA-256 of names and contents."""
    hashes = (sha256((folder / file).read_bytes()).hexdigest() for file in files)
    return digest(part for pair in zip(map(str, files), hashes, strict=True) for part in pair)


@contextmanager
def run_artifacts(run_dir: Path, results: Results, report: Path | None) -> Iterator[Path]:
    """Create a temporary folder with the artifacts of the parent run.

    Args:
        report: Folder of a report to copy; None makes one.
    """
    from harness.compare.frontier import frontier_charts
    from reports.page.charts import save
    from reports.write import write_reports

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if report:
            shutil.copytree(report, folder / "report")
        else:
            write_reports(run_dir, folder / "report")
        for page in comparison_files(run_dir):
            shutil.copy(run_dir / page, folder / page)
        for number, comparison in enumerate(frontier_charts(results), start=1):
            for suffix in ("png", "html"):
                save(comparison, folder / "charts" / f"{number}-{comparison.task}.{suffix}")
        shutil.copy(run_dir / "results.json", folder / "results.json")
        if (run_dir / "environments").is_dir():
            shutil.copytree(run_dir / "environments", folder / "environments")
        with zipfile.ZipFile(folder / ARCHIVE, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
            for file in run_files(run_dir):
                archive.write(run_dir / file, file)
        yield folder


@contextmanager
def trial_artifacts(trial_dir: Path) -> Iterator[Path]:
    """Create a temporary folder with the artifacts of a trial's run."""
    with tempfile.TemporaryDirectory() as temporary:
        for file in trial_files(trial_dir):
            target = Path(temporary, file)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(trial_dir / file, target)
        yield Path(temporary)


def _files(folder: Path, without: set[str]) -> list[Path]:
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in paths if path.parts[0] not in without and not path.name.startswith("."))
