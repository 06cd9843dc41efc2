"""Writing of all files of a report, which are pure projections of a run directory."""

from collections.abc import Sequence
from pathlib import Path

from harness.compare.frontier import frontier_charts
from harness.compare.outcome import Comparison, last_comparison
from harness.compare.trend import TrendLine
from harness.files import write_errors, write_json, write_text
from harness.rundir.results import Results
from harness.rundir.store import read_run
from reports.ci.benchmark_json import to_bencher, to_github_action_benchmark
from reports.ci.junit import comparison_to_junit, to_junit
from reports.comparison import comparison_to_markdown
from reports.markdown import to_markdown
from reports.page.comparison import comparison_to_html
from reports.table import to_csv

COMPARISON_FILES = ("compare.html", "compare.md", "compare.json", "compare-*.svg", "compare-junit.xml")


def write_reports(run_dir: Path, out: Path | None = None) -> Path:
    """Write index.html, summary.md, results.csv and the files for CI; return the path of index.html.

    Remove the files of an earlier `harness compare` if the results have changed since.

    Args:
        out: folder to write to. Default: `run_dir`/report.

    Raises:
        UsageError: results.json, an analysis or a measurement is missing or damaged.
    """
    from reports.page.details import read_details, read_side_by_side
    from reports.page.html import to_html  # imports charts, which takes a second

    results = read_run(run_dir)
    details, images = read_details(run_dir, results)
    disagreements = read_side_by_side(run_dir, results, images)
    folder = out or run_dir / "report"
    if out is None and not last_comparison(run_dir):
        for file in [file for pattern in COMPARISON_FILES for file in folder.glob(pattern)]:
            with write_errors(file):
                file.unlink()
    page = folder / "index.html"
    write_text(folder / "results.csv", to_csv(results))
    write_text(folder / "summary.md", to_markdown(results))
    write_text(folder / "junit.xml", to_junit(results))
    write_text(folder / "bencher.json", to_bencher(results))
    write_text(folder / "benchmark.json", to_github_action_benchmark(results))
    write_text(page, to_html(results, details, images, disagreements))
    return page


def write_trend(lines: Sequence[TrendLine], folder: Path) -> Path:
    """Write trend.html, the figures of several runs over time, to `folder` and return its path."""
    from reports.page.trend import to_trend

    page = folder / "trend.html"
    write_text(page, to_trend(lines))
    return page


def write_comparison(comparison: Comparison, folder: Path) -> Path:
    """Write compare.html, .md, .json and compare-junit.xml to a folder and return the first path."""
    page = folder / "compare.html"
    write_text(folder / "compare-junit.xml", comparison_to_junit(comparison))
    write_json(folder / "compare.json", comparison.document())
    write_text(folder / "compare.md", comparison_to_markdown(comparison))
    write_text(page, comparison_to_html(comparison))
    return page


def draw_frontiers(base: Results, head: Results, folder: Path) -> None:
    """Draw at most 20 frontiers of a run over those of its baseline as compare-NUMBER-TASK.svg."""
    from reports.page.charts import save  # takes a second

    before = {chart.signature: chart for chart in frontier_charts(base)}
    for number, chart in enumerate(frontier_charts(head)[:20], start=1):
        path = folder / f"compare-{number}-{chart.task}.svg"
        with write_errors(path):
            save(chart, path, before.get(chart.signature))
