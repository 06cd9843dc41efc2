"""MLflow's own pages of a synced run, in a browser: the list, a comparison, a trial with its artifacts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser import Seen, chromium, open_page
from sample_run import write_run
from test_tracking import free_port

from harness.tracking import default_tracking_uri, sync, ui_command
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
    """Yield the experiment's address on the server of `harness ui`, and the run directory."""
    run = write_run(tmp_path_factory.mktemp("runs") / "quickstart")
    write_reports(run)
    outcome = sync(run, default_tracking_uri(run))
    port = free_port()
    quiet = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    process = subprocess.Popen(
        ui_command(run.parent, port),
        env=quiet,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:  # until it says that it serves
            if "Application startup complete" in line or "Uvicorn running" in line:
                break
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=60).close()
        yield f"http://127.0.0.1:{port}/#/experiments/{outcome.experiment_id}", run
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def problems(seen: Seen) -> list[str]:
    """Return the page's errors, except 404 responses to requests of MLflow's own page."""
    return [
        text
        for text in seen.messages
        if "status of 404" not in text and not text.startswith(("warn", "info"))
    ]


def test_the_list_shows_the_run_with_headlines_and_speed(browser: Browser, site: tuple[str, Path]) -> None:
    url = f"{site[0]}/runs?workflowType=machine_learning&viewStateShareKey=harness"
    with open_page(browser, url, viewport=FULL) as seen:
        seen.page.get_by_text("10 matching runs").wait_for(timeout=PATIENCE)
        for column in ("acc/ap50", "speed/ips"):
            seen.page.get_by_text(column).locator("visible=true").first.wait_for(timeout=PATIENCE)
        seen.page.get_by_role("link", name="run-1").first.wait_for(timeout=PATIENCE)
        assert problems(seen) == []


def test_a_comparison_of_trials_draws_a_chart_and_lists_their_figures(
    browser: Browser, site: tuple[str, Path]
) -> None:
    from mlflow.tracking import MlflowClient

    server, _, experiment = site[0].partition("/#/experiments/")
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
    from mlflow.tracking import MlflowClient

    experiment = site[0].rsplit("/", 1)[1]
    client = MlflowClient(default_tracking_uri(site[1]))
    runs = client.search_runs([experiment], "tags.`mlflow.runName` = 'scenes-boxes / yolo'")
    with open_page(browser, f"{site[0]}/runs/{runs[0].info.run_id}", viewport=FULL) as seen:
        seen.page.get_by_text("0.412 [0.392, 0.432]").first.wait_for(timeout=PATIENCE)
        seen.page.get_by_role("tab", name="Artifacts").click()
        seen.page.get_by_text("analysis.json").first.click(timeout=PATIENCE)
        seen.page.get_by_text("harness-analysis/1").first.wait_for(timeout=PATIENCE)
        seen.page.get_by_text("samples").first.click()
        seen.page.get_by_text("0.png").first.wait_for(timeout=PATIENCE)
        assert problems(seen) == []


def test_the_report_opens_inside_mlflow(browser: Browser, site: tuple[str, Path]) -> None:
    from mlflow.tracking import MlflowClient

    experiment = site[0].rsplit("/", 1)[1]
    client = MlflowClient(default_tracking_uri(site[1]))
    (parent,) = client.search_runs([experiment], "tags.`mlflow.runName` = 'run-1'")
    url = f"{site[0]}/runs/{parent.info.run_id}/artifacts/report/index.html"
    with open_page(browser, url, viewport=FULL) as seen:
        frame = seen.page.frame_locator("iframe").first
        frame.locator(".verdict").first.wait_for(timeout=PATIENCE)
        assert "7 of 9 trials complete" in frame.locator(".verdict").inner_text()
        frame.locator('path[aria-roledescription="point"]').first.wait_for(timeout=PATIENCE)
