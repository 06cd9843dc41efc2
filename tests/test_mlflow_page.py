"""MLflow's own pages of a synced run, in a browser: the list, a comparison, a trial with its artifacts."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser import Seen, chromium, open_page
from sample_run import write_run
from test_tracking import free_port

from harness.tracking import default_tracking_uri, sync
from reports.write import write_reports

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
PATIENCE = 120_000  # ms; a fresh server's first page takes long on a busy machine
FULL = {"width": 1600, "height": 1000}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def site(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Yield the address that `harness ui` prints for a copied folder of runs, and the run directory there."""
    run = write_run(tmp_path_factory.mktemp("runs") / "quickstart")
    write_reports(run)
    sync(run, default_tracking_uri(run))
    copy = run.parent.with_name("copied")
    run.parent.rename(copy)
    port = free_port()
    command = [sys.executable, "-m", "harness", "ui", "--root", str(copy), "--port", str(port)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        assert process.stderr is not None
        view = next(line for line in process.stderr if line.startswith("  quickstart: "))
        yield view.split(": ", 1)[1].strip(), copy / "quickstart"
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=60)


def page_of(site: tuple[str, Path], name: str) -> str:
    """Return the address of the MLflow run of this name."""
    from mlflow.tracking import MlflowClient

    server, _, experiment = site[0].partition("/runs?")[0].partition("#/experiments/")
    client = MlflowClient(default_tracking_uri(site[1]))
    (run,) = client.search_runs([experiment], f"tags.`mlflow.runName` = '{name}'")
    return f"{server}#/experiments/{experiment}/runs/{run.info.run_id}"


def problems(seen: Seen) -> list[str]:
    """Return the page's errors, except 404 responses to requests of MLflow's own page."""
    return [
        text
        for text in seen.messages
        if "status of 404" not in text and not text.startswith(("warn", "info"))
    ]


def test_the_printed_address_names_the_best_trade_offs_and_the_invalid_timing(
    browser: Browser, site: tuple[str, Path]
) -> None:
    with open_page(browser, site[0], viewport=FULL) as seen:
        seen.page.get_by_text("10 matching runs").wait_for(timeout=PATIENCE)
        for name in (
            "quickstart · 1 Mar 10:00 · 0123456",
            "◆ yolo · scenes-boxes",
            "⚠ throttled · scenes-boxes",
        ):
            seen.page.get_by_role("link", name=name).first.wait_for(timeout=PATIENCE)
        for text in (
            "trade-off",
            "◆ on the frontier",
            "⚠ not valid: offline, single-stream",
            "dominated by ssd-b8",
        ):
            seen.page.get_by_text(text, exact=True).first.wait_for(timeout=PATIENCE)
        assert problems(seen) == []


def test_the_description_of_the_experiment_leads_to_the_view(
    browser: Browser, site: tuple[str, Path]
) -> None:
    with open_page(browser, site[0].partition("/runs?")[0], viewport=FULL) as seen:
        link = seen.page.get_by_text("Accuracy and speed of all runs").first
        link.wait_for(timeout=PATIENCE)
        assert link.get_attribute("href").endswith(site[0].partition("#")[2])  # type: ignore[union-attr]


def test_the_charts_of_the_view_are_accuracy_against_speed(browser: Browser, site: tuple[str, Path]) -> None:
    with open_page(browser, f"{site[0]}&compareRunsMode=CHART", viewport=FULL) as seen:
        seen.page.get_by_text("Accuracy versus speed", exact=True).wait_for(timeout=PATIENCE)
        seen.page.locator(".js-plotly-plot .scatterlayer .point").first.wait_for(timeout=PATIENCE)
        assert problems(seen) == []


def test_the_frontier_is_an_interactive_artifact_of_the_run(browser: Browser, site: tuple[str, Path]) -> None:
    url = f"{page_of(site, 'quickstart · 1 Mar 10:00 · 0123456')}/artifacts/charts/2-detection.html"
    with open_page(browser, url, viewport=FULL) as seen:
        frame = seen.page.frame_locator("iframe").first
        frame.locator('path[aria-roledescription="point"]').first.wait_for(timeout=PATIENCE)
        assert problems(seen) == []  # hostile names are text


def test_a_comparison_of_trials_draws_a_chart_and_lists_their_figures(
    browser: Browser, site: tuple[str, Path]
) -> None:
    from mlflow.tracking import MlflowClient

    server, _, experiment = site[0].partition("/runs?")[0].partition("/#/experiments/")
    trials = MlflowClient(default_tracking_uri(site[1])).search_runs([experiment], "tags.task = 'detection'")
    chosen = [run.info.run_id for run in trials if run.data.params["adapter"] in ("yolo", "ssd")]
    assert len(chosen) == 2
    url = f"{server}/#/compare-runs?runs={json.dumps(chosen)}&experiments={json.dumps([experiment])}"
    with open_page(browser, url, viewport=FULL) as seen:
        seen.page.get_by_text("Comparing 2 Runs from 1 Experiment").wait_for(timeout=PATIENCE)
        seen.page.locator(".js-plotly-plot svg").first.wait_for(timeout=PATIENCE)
        for text in ("acc/ap50", "0.412", "0.52"):
            seen.page.get_by_text(text, exact=True).first.wait_for(state="attached", timeout=PATIENCE)
        assert problems(seen) == []


def test_a_trial_shows_its_figures_and_files(browser: Browser, site: tuple[str, Path]) -> None:
    with open_page(browser, page_of(site, "◆ yolo · scenes-boxes"), viewport=FULL) as seen:
        seen.page.get_by_text("0.412 [0.392, 0.432]").first.wait_for(timeout=PATIENCE)
        seen.page.get_by_role("tab", name="Artifacts").click()
        seen.page.get_by_text("analysis.json").first.click(timeout=PATIENCE)
        seen.page.get_by_text("harness-analysis/1").first.wait_for(timeout=PATIENCE)
        seen.page.get_by_text("samples").first.click()
        seen.page.get_by_text("0.png").first.wait_for(timeout=PATIENCE)
        assert problems(seen) == []


def test_the_report_opens_inside_mlflow(browser: Browser, site: tuple[str, Path]) -> None:
    url = f"{page_of(site, 'quickstart · 1 Mar 10:00 · 0123456')}/artifacts/report/index.html"
    with open_page(browser, url, viewport=FULL) as seen:
        frame = seen.page.frame_locator("iframe").first
        frame.locator(".verdict").first.wait_for(timeout=PATIENCE)
        assert "7 of 9 trials complete" in frame.locator(".verdict").inner_text()
        frame.locator('path[aria-roledescription="point"]').first.wait_for(timeout=PATIENCE)
