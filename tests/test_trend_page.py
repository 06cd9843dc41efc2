"""trend.html: figures over runs, whatever their number, and only where they are comparable."""

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
from reports.page.trend import MARKED, Trend, chart
from reports.write import write_trend

START = datetime(2025, 1, 1, tzinfo=UTC)


def write_runs(folder: Path, values: list[float], **detector: Any) -> list[Path]:
    """A run a day; `values` are the AP50 of the detector `yolo`."""
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
    (found,) = (each for each in read_trend(runs) if each.variant == "yolo" and each.name == name)
    return found


def test_a_chart_has_every_run_in_order_of_time_with_its_interval(tmp_path: Path) -> None:
    runs = write_runs(tmp_path, [0.4, 0.5, 0.45])
    rows = chart(line(runs[::-1]))["datasets"]["band"]
    assert [row["v"] for row in rows] == [0.4, 0.5, 0.45]
    day = 24 * 3600 * 1000
    assert [row["t"] for row in rows] == [START.timestamp() * 1000 + number * day for number in range(3)]
    assert [(row["l"], row["h"]) for row in rows] == [(0.38, 0.42), (0.48, 0.52), (0.43, 0.47)]


@pytest.mark.parametrize("count", [1, 2, MARKED, MARKED + 1, 3 * MARKED + 7])
def test_at_most_so_many_runs_are_marked_the_first_and_the_latest_always(tmp_path: Path, count: int) -> None:
    only = line(write_runs(tmp_path, [0.4]))
    drawn = chart(TrendLine(*[*vars(only).values()][:-1], only.points * count))["datasets"]
    assert len(drawn["band"]) == count
    assert min(count, 2) <= len(drawn["points"]) <= MARKED + 1
    assert (drawn["points"][0]["t"], drawn["points"][-1]["t"]) == (
        drawn["band"][0]["t"],
        drawn["band"][-1]["t"],
    )


@pytest.mark.parametrize(("values", "moved"), [([0.40, 0.43], False), ([0.40, 0.45], True), ([0.4], False)])
def test_a_figure_moved_where_the_last_two_intervals_have_nothing_in_common(
    tmp_path: Path, values: list[float], moved: bool
) -> None:
    assert Trend(line(write_runs(tmp_path, values)), "trend/0").moved is moved  # each interval is ±0.02


def test_what_the_latest_run_does_not_have_did_not_move_in_it(tmp_path: Path) -> None:
    runs = write_runs(tmp_path, [0.40, 0.45, 0.45])
    last = json.loads((runs[-1] / "results.json").read_text())
    last["trials"] = [trial for trial in last["trials"] if trial["variant"] != "yolo"]
    (runs[-1] / "results.json").write_text(json.dumps(last))
    for named, moved in ((runs, 0), (runs[:2], 1)):
        text = write_trend(read_trend(named), tmp_path).read_text()
        assert f"<p>{moved} figure{'' if moved == 1 else 's'} of " in text


def test_the_store_beside_the_runs_is_no_run(tmp_path: Path) -> None:
    runs = write_runs(tmp_path / "runs", [0.4, 0.5])
    (tmp_path / "runs" / "mlartifacts").mkdir()
    (tmp_path / "runs" / "mlflow.db").write_bytes(b"SQLite\xff")
    named = map(str, sorted((tmp_path / "runs").iterdir()))
    done = CliRunner().invoke(app, ["report", *named, "--out", str(tmp_path / "trend"), "--json"])
    assert done.exit_code == 0, done.output
    assert [path.name for path in (tmp_path / "trend").iterdir()] == ["trend.html"]
    assert runs[-1].is_dir()


def test_a_run_that_is_not_finished_is_left_out_and_named(tmp_path: Path) -> None:
    runs = write_runs(tmp_path, [0.4, 0.5])
    running = tmp_path / "running"
    running.mkdir()
    (running / "run.json").write_text("{}")
    trend = tmp_path / "trend"
    done = CliRunner().invoke(app, ["report", *map(str, [*runs, running]), "--out", str(trend)])
    assert done.exit_code == 0, done.output
    assert " ".join(done.stderr.split()).startswith(f"left out: {running} has no results yet")
    assert (trend / "trend.html").exists()
    (running / "run.json").unlink()  # not a run at all: a mistake, as is naming only what is not finished
    for named in ([*runs, running], [running]):
        done = CliRunner().invoke(app, ["report", *map(str, named), "--out", str(tmp_path / "no")])
        assert (done.exit_code, f"{running}/results.json: cannot be read" in done.stderr) == (2, True)
    assert not (tmp_path / "no").exists()


def test_latencies_are_drawn_in_milliseconds(tmp_path: Path) -> None:
    rows = chart(line(write_runs(tmp_path, [0.4]), "single-stream latency p50"))["datasets"]["band"]
    assert rows[0]["v"] == pytest.approx(1000 / 320, rel=1e-5)


def test_several_runs_have_their_pages_and_one_trend(tmp_path: Path) -> None:
    runs = write_runs(tmp_path, [0.4, 0.5])
    done = CliRunner().invoke(app, ["report", *map(str, runs), "--json"])
    told = json.loads(done.stdout)
    assert [Path(each["report"]).exists() for each in told["reports"]] == [True, True]
    assert Path(told["trend"]) == runs[-1] / "report" / "trend.html"
    assert told["reports"][0]["verdict"].startswith("7 of 9 trials complete")
    (detection,) = (each for each in told["reports"][0]["comparisons"] if each["task"] == "detection")
    standings = {point["variant"]: point["standing"] for point in detection["points"]}
    assert (standings["yolo"], standings["throttled"]) == ("frontier", "unranked")


def test_a_report_says_what_became_of_the_frontier_since_a_baseline(tmp_path: Path) -> None:
    before, after = write_runs(tmp_path, [0.4, 0.1])
    slow = json.loads((after / "results.json").read_text())
    yolo = next(trial for trial in slow["trials"] if trial["variant"] == "yolo")
    yolo["speed"]["offline"]["throughput"]["value"] = 90.0
    (after / "results.json").write_text(json.dumps(slow))
    done = CliRunner().invoke(app, ["report", str(after), "--baseline", str(before), "--json"])
    (told,) = json.loads(done.stdout)["reports"]
    assert told["since_baseline"]["run_id"] == "run-0"
    left = {each["benchmark"]: each["left"] for each in told["since_baseline"]["frontier"]}
    assert left == {"gettext-de": [], "scenes-boxes": ["yolo"]}
    assert "<bdi>yolo</bdi> left" in (after / "report" / "index.html").read_text()


def test_a_baseline_that_cannot_be_used_writes_nothing(tmp_path: Path) -> None:
    runs = write_runs(tmp_path, [0.4, 0.1])
    several = [*map(str, runs), "--out", str(tmp_path / "trend")]
    for arguments in ([*several, "--baseline", str(runs[0])], [str(runs[1]), "--baseline", str(tmp_path)]):
        assert CliRunner().invoke(app, ["report", *arguments]).exit_code == 2
    assert list(tmp_path.glob("**/report")) == list(tmp_path.glob("trend")) == []


def test_with_out_only_the_trend_of_several_runs_is_written(tmp_path: Path) -> None:
    runs = write_runs(tmp_path / "runs", [0.4, 0.5])
    done = CliRunner().invoke(app, ["report", *map(str, runs), "--out", str(tmp_path / "trend")])
    assert done.exit_code == 0
    assert [path.name for path in (tmp_path / "trend").iterdir()] == ["trend.html"]
    assert not (runs[0] / "report").exists()


def test_the_page_in_a_browser(tmp_path: Path) -> None:
    runs = write_runs(tmp_path, [0.40, 0.41, 0.50])
    page = write_trend(read_trend(runs), tmp_path)
    lines = read_trend(runs)
    with (
        chromium() as browser,
        open_page(browser, page.as_uri(), viewport={"width": 390, "height": 844}) as seen,
    ):
        settled(seen, "svg.marks", len(lines))
        assert seen.page.locator('path[aria-roledescription="point"]').count() == 3 * len(lines)
        assert f"1 figure of {len(lines)} moved" in seen.page.locator(".verdict").inner_text()
        assert seen.page.locator("tr.frontier td.name a").all_inner_texts() == ["yolo"]
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= 390
        assert seen.page.locator("script").count() == 3
        assert seen.messages == []
