"""The page of a trend, trend.html, and the command that writes it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from browser import chromium, open_page, settled
from sample_results import document, figure
from typer.testing import CliRunner

from harness.cli.app import app
from harness.compare.trend import TrendLine, read_trend
from reports.page.trend import MARKED, chart
from reports.write import write_trend

START = datetime(2025, 1, 1, tzinfo=UTC)


def write_runs(folder: Path, values: list[float], **detector: Any) -> list[Path]:
    """Write one run per day; `values` are the AP50 of the detector `yolo`."""
    runs = []
    for day, value in enumerate(values):
        content = document(f"run-{day}")
        content["run"]["started"] = (START + timedelta(days=day)).isoformat()
        yolo = next(trial for trial in content["trials"] if trial["variant"] == "yolo")
        yolo.update(detector, metrics={"ap50": figure(value)})
        runs.append(folder / f"run-{day}")
        runs[-1].mkdir(parents=True)
        (runs[-1] / "results.json").write_text(json.dumps(content))
    return runs


def line(runs: list[Path], name: str = "ap50") -> TrendLine:
    lines = read_trend(runs)
    (only,) = (line for line in lines if (line.subject.variant, line.subject.name) == ("yolo", name))
    return only


def test_a_chart_has_every_run_in_order_of_time_with_its_interval(tmp_path: Path) -> None:
    runs = write_runs(tmp_path, [0.4, 0.5, 0.45])
    rows = chart(line(runs[::-1]))["datasets"]["band"]
    assert [row["v"] for row in rows] == [0.4, 0.5, 0.45]
    day = 24 * 3600 * 1000
    assert [row["t"] for row in rows] == [START.timestamp() * 1000 + number * day for number in range(3)]
    assert [(row["l"], row["h"]) for row in rows] == [(0.38, 0.42), (0.48, 0.52), (0.43, 0.47)]


@pytest.mark.parametrize("count", [1, 2, MARKED, MARKED + 1, 3 * MARKED + 7])
def test_a_limited_number_of_runs_is_marked_always_with_the_first_and_the_latest(
    tmp_path: Path, count: int
) -> None:
    only = line(write_runs(tmp_path, [0.4]))
    drawn = chart(TrendLine(only.subject, only.points * count))["datasets"]
    assert len(drawn["band"]) == count
    assert min(count, 2) <= len(drawn["points"]) <= MARKED + 1
    assert (drawn["points"][0]["t"], drawn["points"][-1]["t"]) == (
        drawn["band"][0]["t"],
        drawn["band"][-1]["t"],
    )


STEP = [0.400, 0.402, 0.399, 0.401, 0.388, 0.390, 0.389]


def test_a_step_is_drawn_and_named_with_its_commits(tmp_path: Path) -> None:
    runs = write_runs(tmp_path, STEP)
    drawn = chart(line(runs))["datasets"]["steps"]
    assert [row["t"] for row in drawn] == [(START + timedelta(days=4)).timestamp() * 1000]
    text = write_trend(read_trend(runs), tmp_path).read_text()
    assert "<p>1 lasting change in " in text
    told = "scenes-boxes/yolo ap50 from 0.4005 to 0.389 (−2.9%) since 0123456789ab of 2025-01-05, after"
    assert told in text


def test_mlflows_store_beside_the_runs_is_not_a_run(tmp_path: Path) -> None:
    runs = write_runs(tmp_path / "runs", [0.4, 0.5])
    (tmp_path / "runs" / "mlartifacts").mkdir()
    (tmp_path / "runs" / "mlflow.db").write_bytes(b"SQLite\xff")
    paths = map(str, sorted((tmp_path / "runs").iterdir()))
    result = CliRunner().invoke(app, ["report", *paths, "--out", str(tmp_path / "trend"), "--json"])
    assert result.exit_code == 0, result.output
    assert [path.name for path in (tmp_path / "trend").iterdir()] == ["trend.html"]
    assert runs[-1].is_dir()


def test_an_unfinished_run_is_skipped_with_a_message(tmp_path: Path) -> None:
    runs = write_runs(tmp_path, [0.4, 0.5])
    running = tmp_path / "running"
    running.mkdir()
    (running / "run.json").write_text("{}")
    trend = tmp_path / "trend"
    result = CliRunner().invoke(app, ["report", *map(str, [*runs, running]), "--out", str(trend)])
    assert result.exit_code == 0, result.output
    assert " ".join(result.stderr.split()).startswith(f"skipped: {running} has no results yet")
    assert (trend / "trend.html").exists()
    (running / "run.json").unlink()  # not a run at all is an error, as are only unfinished runs
    for paths in ([*runs, running], [running]):
        result = CliRunner().invoke(app, ["report", *map(str, paths), "--out", str(tmp_path / "no")])
        assert (result.exit_code, f"{running}/results.json: cannot be read" in result.stderr) == (2, True)
    assert not (tmp_path / "no").exists()


def test_latencies_are_drawn_in_milliseconds(tmp_path: Path) -> None:
    rows = chart(line(write_runs(tmp_path, [0.4]), "single-stream latency p50"))["datasets"]["band"]
    assert rows[0]["v"] == pytest.approx(1000 / 320, rel=1e-5)


def test_several_runs_have_a_page_each_and_one_trend(tmp_path: Path) -> None:
    runs = write_runs(tmp_path, [0.4, 0.5])
    result = CliRunner().invoke(app, ["report", *map(str, runs), "--json"])
    output = json.loads(result.stdout)
    assert [Path(report["report"]).exists() for report in output["reports"]] == [True, True]
    assert Path(output["trend"]) == runs[-1] / "report" / "trend.html"
    assert output["reports"][0]["verdict"].startswith("7 of 9 trials complete")
    ranks = {trial["variant"]: trial["rank"] for trial in output["reports"][0]["trials"]}
    assert (ranks["yolo"], ranks["throttled"]) == ("frontier", "unranked")


def test_with_out_only_the_trend_of_several_runs_is_written(tmp_path: Path) -> None:
    runs = write_runs(tmp_path / "runs", [0.4, 0.5])
    result = CliRunner().invoke(app, ["report", *map(str, runs), "--out", str(tmp_path / "trend")])
    assert result.exit_code == 0
    assert [path.name for path in (tmp_path / "trend").iterdir()] == ["trend.html"]
    assert not (runs[0] / "report").exists()


def test_the_page_in_a_browser(tmp_path: Path) -> None:
    runs = write_runs(tmp_path, STEP)
    page = write_trend(read_trend(runs), tmp_path)
    lines = read_trend(runs)
    with (
        chromium() as browser,
        open_page(browser, page.as_uri(), viewport={"width": 390, "height": 844}) as opened,
    ):
        settled(opened, "svg.marks", len(lines))
        assert opened.page.locator('path[aria-roledescription="point"]').count() == len(STEP) * len(lines)
        assert f"1 lasting change in {len(lines)} figures" in opened.page.locator(".verdict").inner_text()
        assert opened.page.locator("tr.changed td.name a").all_inner_texts() == ["yolo"]
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390
        assert opened.page.locator("script").count() == 3
        assert opened.messages == []
