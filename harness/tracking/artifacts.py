"""The files of a run in MLflow: report, charts and archive with the parent run, others with the trials."""

import shutil
import zipfile
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


def write_run_artifacts(run_dir: Path, results: Results, report: Path | None, folder: Path) -> None:
    """Write the artifacts of the parent run to a folder.

    Args:
        report: Folder of a report to copy; None makes one.
    """
    from harness.compare.frontier import frontier_charts
    from reports.page.charts import save
    from reports.write import write_reports

    if report:
        shutil.copytree(report, folder / "report", dirs_exist_ok=True)
    else:
        write_reports(run_dir, folder / "report")
    copy_files(run_dir, [*comparison_files(run_dir), Path("results.json")], folder)
    for number, comparison in enumerate(frontier_charts(results), start=1):
        for suffix in ("png", "html"):
            save(comparison, folder / "charts" / f"{number}-{comparison.task}.{suffix}")
    with zipfile.ZipFile(folder / ARCHIVE, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
        for file in run_files(run_dir):
            archive.write(run_dir / file, file)


def copy_files(source: Path, files: list[Path], folder: Path) -> None:
    """Copy files, which are relative to `source`, to a folder."""
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / file, folder / file)


def _files(folder: Path, without: set[str]) -> list[Path]:
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in paths if path.parts[0] not in without and not path.name.startswith("."))
