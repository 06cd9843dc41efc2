"""Reports: pure projections of a run's results.json."""

from __future__ import annotations

from pathlib import Path

from harness.results import read_results
from harness.store import write_text
from reports.html import to_html
from reports.markdown import to_markdown
from reports.table import to_csv


def write_reports(run_dir: Path, out: Path | None = None) -> Path:
    """Write index.html, summary.md and results.csv, each whole or not at all.

    Args:
        run_dir: a run directory.
        out: where to write; `run_dir`/report by default.

    Returns:
        The path of index.html.

    Raises:
        UsageError: `run_dir` holds no valid results.json.
    """
    results = read_results(run_dir)
    folder = out or run_dir / "report"
    page = folder / "index.html"
    write_text(folder / "results.csv", to_csv(results))
    write_text(folder / "summary.md", to_markdown(results))
    write_text(page, to_html(results))
    return page
