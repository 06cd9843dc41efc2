"""Reports agree with any results.json, in formats that independent parsers accept."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import lxml.html
import numpy as np
import pandas as pd
import pytest
from cmarkgfm import github_flavored_markdown_to_html
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from sample_results import HOSTILE, LONG, document, results, trial
from whole_page import whole

from harness.compare.dominance import pareto
from harness.compare.frontier import FrontierChange, frontier_changes, frontier_charts
from harness.compare.frontier import points as charted
from harness.errors import UsageError
from harness.rundir.results import Results, to_json
from harness.task import Figure
from reports.figures import count, printed
from reports.markdown import to_markdown, trial_to_markdown
from reports.page.charts import chart, save
from reports.page.details import Detail, distribution
from reports.page.html import to_html
from reports.table import to_csv
from reports.text import display
from reports.verdict import to_summary, verdict
from reports.write import write_reports

VOID = {"meta", "br", "img", "link", "hr", "input"}  # HTML elements without an end tag, of those we might use


@pytest.fixture(scope="module")
def page() -> str:
    return whole(to_html(results()))


class Page(HTMLParser):
    """Elements, attributes and visible text; fails on unbalanced tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        place = self.open[-1] if self.open else ""
        (self.scripts if place == "script" else self.text).append(data if place != "style" else "")


# Figures


@pytest.mark.parametrize(
    ("value", "low", "high", "unit", "expected"),
    [
        (0.4123, 0.3871, 0.4362, "fraction", "0.412 [0.387, 0.436] fraction, n=9"),
        (31.42, 29.8, 33.04, "0–100", "31.4 [29.8, 33.0] 0–100, n=9"),
        (12345.6, 12001, 12690, "samples/s", "12\u202f346 [12\u202f001, 12\u202f690] samples/s, n=9"),
        (0.00833, 0.0079, 0.0087, "s", "8.33 [7.90, 8.70] ms, n=9"),
        (0.0000333, 0.000033, 0.000034, "s", "33.30 [33.00, 34.00] µs, n=9"),
        (1.0, 1.0, 1.0, "fraction", "1.000 [1.000, 1.000] fraction, n=9"),
        (-0.5, -0.6, -0.4, "x", "−0.50 [−0.60, −0.40] x, n=9"),
        (0.25, None, None, "fraction", "0.2500 [no interval] fraction, n=9"),
        (None, None, None, "fraction", "undefined fraction, n=9"),
        (float("nan"), None, None, "fraction", "undefined fraction, n=9"),
    ],
)
def test_figures_are_rounded_to_what_their_interval_supports(
    value: float | None, low: float | None, high: float | None, unit: str, expected: str
) -> None:
    assert str(printed(Figure(value, low, high, 9, unit, ""))) == expected


@given(st.floats(-1e9, 1e9), st.floats(1e-7, 1e6))
def test_a_printed_bound_is_within_a_twentieth_of_the_half_width(value: float, half: float) -> None:
    shown = printed(Figure(value, value - half, value + half, 1, "x", ""))
    low, high = (float(b) for b in re.sub("[\u202f\\[\\]]", "", shown.interval).replace("−", "-").split(","))
    tolerance = max(0.051 * half, 0.51 if half >= 10 else 0.51e-6) + 1e-6
    assert low == pytest.approx(value - half, abs=tolerance)
    assert high == pytest.approx(value + half, abs=tolerance)


def test_counts_carry_prefix_and_unit() -> None:
    assert count(590_123, "parameters") == "590 k parameters"
    assert count(48e6, "B at peak") == "48.0 MB at peak"
    assert count(999, "parameters") == "999 parameters"


def test_invisible_characters_become_visible_and_long_texts_short() -> None:
    assert display("a\u202eb\n\x00\u200f") == "a\\u202eb\\n\\x00\\u200f"
    assert display("مرحبا नमस्ते 中文 👩\u200d💻") == "مرحبا नमस्ते 中文 👩\u200d💻"
    assert display(LONG) == "L" * 80 + "… (+9920 characters)"


# The frontier


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12))
def test_the_frontier_equals_brute_force(points: list[tuple[int, int]]) -> None:
    def dominated(p: tuple[int, int]) -> bool:
        return any(q[0] >= p[0] and q[1] >= p[1] and q != p for q in points)

    assert pareto(points) == [not dominated(p) for p in points]


def test_only_complete_and_validly_timed_trials_are_ranked() -> None:
    (detection,) = (each for each in frontier_charts(results()) if each.task == "detection")
    assert {point.trial.variant: point.rank for point in detection.points} == {
        "yolo": "frontier",
        "ssd-b8": "frontier",
        "faster": "dominated",
        "throttled": "unranked",  # would dominate all, but its timing is not valid
        HOSTILE: "unranked",  # partial
    }


@pytest.mark.parametrize("difference", ["fingerprint", "signature", "hardware"])
def test_what_is_not_comparable_is_not_in_one_chart(difference: str) -> None:
    content = document()
    yolo = next(each for each in content["trials"] if each["variant"] == "yolo")
    if difference == "fingerprint":
        yolo["dataset"] = {**yolo["dataset"], "fingerprint": "other"}
    elif difference == "signature":
        yolo["metrics"]["ap50"]["signature"] = "v2"
    else:
        content["environments"]["env2"] = {**content["environments"]["env1"], "cpu": "Other CPU"}
        yolo["speed"]["offline"]["environment"] = "env2"
    charts = [each for each in frontier_charts(Results.model_validate(content)) if each.task == "detection"]
    assert sorted(len(each.points) for each in charts) == [1, 4]


def changed(edit: Callable[[dict[str, Any]], None]) -> list[FrontierChange]:
    """Return the change of the detectors' frontier (yolo, ssd-b8) in a run altered by `edit`."""
    content = document("run-2")
    edit({each["variant"]: each for each in content["trials"]})
    found = frontier_changes(results(), Results.model_validate(content))
    return [each for each in found if each.benchmark == "scenes-boxes"]


def test_a_frontier_is_unchanged_where_the_same_variants_are_on_it() -> None:
    (same,) = changed(lambda trials: trials["yolo"]["metrics"]["ap50"].update(value=0.42))
    assert (same.frontier, same.changed, same.describe()) == (("yolo", "ssd-b8"), False, "unchanged")


def test_a_variant_that_overtakes_another_changes_the_frontier() -> None:
    (found,) = changed(lambda trials: trials["faster"]["speed"]["offline"]["throughput"].update(value=400.0))
    assert (found.joined, found.left) == (("faster",), ())
    (found,) = changed(lambda trials: trials["faster"]["metrics"]["ap50"].update(value=0.9))
    assert (found.frontier, found.joined) == (("yolo", "ssd-b8", "faster"), ("faster",))
    (found,) = changed(lambda trials: trials["yolo"]["speed"]["offline"]["throughput"].update(value=90.0))
    assert (found.joined, found.left, found.describe()) == ((), ("yolo",), "changed: left yolo")


@pytest.mark.parametrize("why", ["invalid", "not timed", "failed", "not run"])
def test_what_is_ranked_in_one_run_only_neither_joins_nor_leaves_nor_moves_others(why: str) -> None:
    def run(with_ssd: bool) -> Results:
        content = document()
        trials = {each["variant"]: each for each in content["trials"]}
        trials["faster"]["metrics"]["ap50"]["value"] = 0.45  # dominated by ssd-b8 alone
        ssd = trials["ssd-b8"]
        if not with_ssd and why == "invalid":
            ssd["speed"]["offline"].update(valid=False, reasons=["disturbed"])
        elif not with_ssd and why == "not timed":
            ssd["speed"] = {}
        elif not with_ssd and why == "failed":
            ssd.update(status="failed", metrics={})
        elif not with_ssd:
            content["trials"].remove(ssd)
        return Results.model_validate(content)

    _, gone = frontier_changes(run(True), run(False))
    assert (gone.frontier, gone.joined, gone.left) == (("yolo", "faster"), (), ())
    assert (gone.changed, gone.describe()) == (False, "unchanged; not ranked in the run: ssd-b8")
    _, back = frontier_changes(run(False), run(True))
    assert (back.frontier, back.joined, back.left) == (("yolo", "ssd-b8"), (), ())
    assert (back.changed, back.describe()) == (False, "unchanged; not ranked in the baseline: ssd-b8")


def test_frontiers_of_other_samples_or_metrics_are_not_compared() -> None:
    def other_samples(trials: dict[str, Any]) -> None:
        for each in trials.values():
            each["dataset"] = {**each["dataset"], "fingerprint": "other"}

    after, before = changed(other_samples)
    assert (after.changed, before.changed) == (False, False)
    assert after.describe().startswith("cannot be compared: the baseline has no chart of the same samples")
    assert before.describe().startswith("cannot be compared: the run has no chart of the same samples")


def test_of_a_frontier_without_a_valid_timing_nothing_is_told() -> None:
    def disturbed(trials: dict[str, Any]) -> None:
        for each in trials.values():
            for scenario in each.get("speed", {}).values():
                scenario.update(valid=False, reasons=["disturbed"])

    (found,) = changed(disturbed)
    assert (found.changed, found.left) == (False, ())
    assert found.describe().startswith("cannot be compared: no complete trial has a valid timing in the run")
    content = document("run-2")
    disturbed({str(number): each for number, each in enumerate(content["trials"])})
    invalid = Results.model_validate(content)
    assert all("in the run and in the baseline" in each.reason for each in frontier_changes(invalid, invalid))


def test_a_frontier_is_said_to_be_of_point_values(page: str) -> None:
    said = "by point values; a percentage is the probability of being on it, given the intervals of both axes"
    assert said in page.partition("<main>")[0]
    assert f"accuracy and throughput {said}" in to_markdown(results())
    assert to_summary(results())["ranked"] == said


def test_a_dominated_trial_is_named_with_what_dominates_it(page: str) -> None:
    first = " ".join(" ".join(Page(page.partition("<main>")[0] + "</body></html>").text).split())
    assert "on the frontier; dominated: faster by ssd-b8 ; Example CPU" in first
    ranked = [trial for trial in to_summary(results())["trials"] if trial["benchmark"] == "scenes-boxes"]
    by = {trial["variant"]: trial["dominated_by"] for trial in ranked if trial["rank"]}
    assert by == {"yolo": None, "ssd-b8": None, "faster": "ssd-b8", "throttled": None, HOSTILE: None}
    assert all((trial["rank"] is None) == (trial["reason"] is not None) for trial in ranked)


# One adapter on one split in two benchmarks: one trial id


@pytest.fixture
def shared() -> Results:
    """faster is dominated in scenes-boxes; in scenes-voc, by another metric, it is on the frontier."""
    content = document()
    for each in [each for each in content["trials"] if each["variant"] in ("ssd-b8", "faster")]:
        value = 0.9 if each["variant"] == "faster" else 0.1
        voc = {"benchmark": "scenes-voc", "metrics": {"map": {**each["metrics"]["ap50"], "value": value}}}
        content["trials"].append({**each, **voc})
    return Results.model_validate(content)


def marks(found: Results) -> dict[tuple[str, str], str]:
    return {
        (row[1], row[2]): row[0]
        for table in tables(to_markdown(found))
        for row in table[1:]
        if row[2] in ("ssd-b8", "faster")
    }


def test_each_benchmark_marks_its_own_frontier(shared: Results) -> None:
    assert len({each.id for each in shared.trials}) == len(shared.trials) - 2
    expected = {
        ("scenes-boxes", "ssd-b8"): "◆",
        ("scenes-boxes", "faster"): "",
        ("scenes-voc", "ssd-b8"): "◆",
        ("scenes-voc", "faster"): "◆",
    }
    assert marks(shared) == expected
    standing = {(p.trial.benchmark, p.trial.variant): p.rank for p in charted(shared).values()}
    assert {key: "◆" if standing[key] == "frontier" else "" for key in expected} == expected


def test_each_benchmark_has_its_own_rows_sections_and_charts(shared: Results) -> None:
    drawn_latency = {"single-stream": distribution(np.array([0.01, 0.02]))}
    details = [Detail(drawn_latency if each.speed else {}, None, {}) for each in shared.trials]
    page = whole(to_html(shared, details))
    parsed = Page(page)
    ids = [each["id"] for _, each in parsed.elements if "id" in each]
    assert len(ids) == len(set(ids))
    charts = [each["data-chart"] for _, each in parsed.elements if "data-chart" in each]
    assert len(charts) == len(set(charts))
    rows = [each for _, each in parsed.elements if "trial" in (each.get("class") or "").split()]
    assert len({each["data-trial"] for each in rows}) == len(rows) == len(shared.trials)
    on = {each["data-trial"] for each in rows if each["class"] == "trial frontier"}
    assert on == {str(index) for index, point in charted(shared).items() if point.rank == "frontier"}
    drawn = json.loads(next(text for text in parsed.scripts if text.startswith("{")))
    points = [
        row for name in drawn if name.startswith("comparison/") for row in drawn[name]["datasets"]["points"]
    ]
    assert {row["trial"] for row in points if row["rank"] == "on the frontier"} == on
    assert len({row["trial"] for row in points}) == len(points)
    targets = [
        each["href"] for tag, each in parsed.elements if tag == "a" and "#trial-" in (each.get("href") or "")
    ]
    assert {target[1:] for target in targets} <= set(ids)


def test_the_verdict_counts_every_state() -> None:
    assert verdict(results()) == (
        "7 of 9 trials complete, 1 partial, 1 failed; 1 benchmark skipped; 2 speed measurements not valid: "
        "scenes-boxes/throttled offline, scenes-boxes/throttled single-stream; claims: 1 inconclusive"
    )


def test_the_verdict_counts_invalid_timings_that_are_too_many_to_name() -> None:
    content = document()
    for each in content["trials"]:
        for scenario in each.get("speed", {}).values():
            scenario["valid"] = False
    line = verdict(Results.model_validate(content))
    count = sum(len(each.get("speed", {})) for each in content["trials"])
    assert f"; {count} speed measurements not valid; claims" in line


# CSV


def test_csv_read_back_by_pandas_equals_the_results() -> None:
    frame = pd.read_csv(io.StringIO(to_csv(results())), keep_default_na=False, na_values=[""])
    rows = 0
    for each in results().trials:
        mine = frame[frame.trial == each.id].set_index(["kind", "name"])
        assert set(mine.variant) == {each.variant}
        assert set(mine.status) == {each.status}
        for name, figure in each.metrics.items():
            row = mine.loc[("accuracy", name)]
            shown = [None if pd.isna(row[field]) else row[field] for field in ("value", "low", "high")]
            assert shown == [figure.value, figure.low, figure.high]
            assert (row.n, row.unit, row.signature) == (figure.n, figure.unit, figure.signature)
        for name, scenario in each.speed.items():
            if scenario.throughput:
                row = mine.loc[("speed", f"{name}/throughput")]
                assert row.value == scenario.throughput.value
                assert row.valid == scenario.valid
        rows += len(mine)
    assert rows == len(frame)
    assert set(frame.kind.dropna()) == {"accuracy", "speed", "phases", "cost"}


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\n"])
def test_a_spreadsheet_sees_no_formula_and_every_number(start: str) -> None:
    content = document()
    content["trials"] = content["trials"][:1]
    content["trials"][0] |= {"variant": f"{start}cmd|' /C calc'!A0", "reason": None}
    content["trials"][0]["metrics"] = {f"{start}1": content["trials"][0]["metrics"]["bleu"] | {"value": -0.5}}
    rows = list(csv.DictReader(io.StringIO(to_csv(Results.model_validate(content)), newline="")))
    cells = [cell for row in rows for cell in row.values()]
    assert rows[0]["variant"] == f"'{start}cmd|' /C calc'!A0"
    assert rows[0]["name"] == f"'{start}1"
    assert rows[0]["value"] == "-0.5"
    assert {cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\n"))} == {"-0.5"}


def test_a_carriage_return_in_a_name_ends_no_line_of_the_table() -> None:
    content = document()
    content["trials"][0]["variant"] = "a\rb"
    rows = list(csv.DictReader(io.StringIO(to_csv(Results.model_validate(content)), newline="")))
    assert rows[0]["variant"] == "a\\rb"
    assert None not in rows[0]


def test_a_trial_without_figures_keeps_a_row() -> None:
    content = document()
    content["trials"] = [trial("detection", "lost", status="failed", cost={})]
    frame = pd.read_csv(io.StringIO(to_csv(Results.model_validate(content))))
    assert list(frame.status) == ["failed"]


# Markdown


def tables(text: str) -> list[list[list[str]]]:
    """Return table → row → cell texts, as a GFM parser reads them."""
    found: list[list[list[str]]] = []
    for token in (tokens := MarkdownIt("commonmark").enable("table").parse(text)):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and found and token.level >= 4 and tokens:
            found[-1][-1].append("".join(child.content for child in token.children or []))
    return found


def test_markdown_tables_have_a_row_a_trial_and_equal_columns() -> None:
    found = tables(to_markdown(results()))
    assert [len(table) - 1 for table in found] == [2, 5, 2, 1]
    assert [{len(row) for row in table} for table in found] == [{9}, {9}, {9}, {4}]
    assert found[1][1][2:5] == ["yolo", "ap50", "0.412 [0.392, 0.432] 0–1, n=300"]


def test_hostile_names_are_text_in_markdown() -> None:
    text = to_markdown(results())
    rendered = MarkdownIt("commonmark").enable("table").render(text)
    assert display(HOSTILE) in html.unescape(rendered)
    assert "<script" not in rendered
    assert "<a " not in rendered
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    assert not {"html_block", "html_inline"} & {
        each.type for token in tokens for each in [token, *(token.children or [])]
    }


def test_the_verdict_is_the_first_line_of_the_summary() -> None:
    assert verdict(results()) in to_markdown(results()).splitlines()[0]


def test_a_large_run_is_cut_to_what_github_takes() -> None:
    content = document()
    content["trials"] = [
        trial("detection", f"{number} {HOSTILE}", status="failed", reason=LONG) for number in range(2000)
    ]
    text = to_markdown(Results.model_validate(content))
    assert len(text.encode()) <= 60_000
    assert "0 of 2000 trials complete" in text
    assert "more rows are in" in text


# HTML


def test_the_page_is_balanced_loads_nothing_and_is_small(page: str) -> None:
    parsed = Page(page)
    assert len(page.encode()) < 5_000_000
    for tag, attributes in parsed.elements:
        assert tag not in {"link", "iframe", "object", "embed", "base"}
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")
        assert not any(name.startswith("on") for name in attributes)
    assert "@import" not in page.split("</style>")[0]
    policy = next(each["content"] for tag, each in parsed.elements if "http-equiv" in each)
    assert policy and policy.startswith("default-src 'none'")


def test_hostile_names_are_text_in_the_page(page: str) -> None:
    parsed = Page(page)
    assert sum(tag == "script" for tag, _ in parsed.elements) == 3  # charts, library, our own
    assert any(display(HOSTILE) in text for text in parsed.text)
    assert "\u202e" not in page
    assert LONG not in page
    embedded = next(text for text in parsed.scripts if text.startswith("{"))
    assert "<" not in embedded
    assert "alert('x')" in json.dumps(json.loads(embedded))


def test_the_page_shows_every_trial_and_figure_with_its_interval(page: str) -> None:
    text = " ".join(" ".join(Page(page).text).split())
    for each in results().trials:
        assert display(each.variant) in " ".join(Page(page).text)
        for figure in each.metrics.values():
            shown = printed(figure)
            assert " ".join(part for part in (shown.value, shown.interval) if part) in text
    assert "undefined" in text
    assert "fcn-8s (miou undefined)" in text
    assert "git checkout 0123456789abcdef0123456789abcdef01234567" in text


def test_links_lead_somewhere(page: str) -> None:
    parsed = Page(page)
    ids = [each["id"] for _, each in parsed.elements if "id" in each]
    assert len(ids) == len(set(ids))
    targets = {each["href"][1:] for tag, each in parsed.elements if tag == "a" and each.get("href")}
    assert targets <= set(ids)


def test_a_run_without_trials_still_has_a_page() -> None:
    content = document() | {"trials": [], "skipped": [], "claims": []}
    assert "0 of 0 trials complete" in " ".join(Page(to_html(Results.model_validate(content))).text)


# Charts and files


def test_a_chart_draws_each_point_with_both_intervals() -> None:
    detection = frontier_charts(results())[1]
    (data,) = {json.dumps(rows, sort_keys=True) for rows in _data(chart(detection))}
    rows = json.loads(data)
    assert [(row["x"], row["y"]) for row in rows[:2]] == [(320, 0.412), (141, 0.520)]
    assert all(
        row["x_low"] < row["x"] < row["x_high"] and row["y_low"] < row["y"] < row["y_high"] for row in rows
    )


def _data(specification: dict) -> list[list[dict]]:
    nodes = [specification, *specification["layer"]]
    return [node["data"]["values"] for node in nodes if "values" in node.get("data", {})] + list(
        specification.get("datasets", {}).values()
    )


def test_a_picture_shows_the_frontier_before_and_after(tmp_path: Path) -> None:
    detection = frontier_charts(results())[1]
    old = replace(detection, points=detection.points[1:])  # one variant is new
    rows = chart(detection, baseline=old)["datasets"]["points"]
    before = [row for row in rows if row["rank"] == "in the baseline"]
    assert [row["Variant"] for row in before] == [display(point.trial.variant) for point in old.points]
    moved = {row["Variant"]: (row["x_before"], row["y_before"]) for row in rows if "x_before" in row}
    assert moved == {row["Variant"]: (row["x"], row["y"]) for row in before}
    save(detection, tmp_path / "both.svg", old)
    drawing = (tmp_path / "both.svg").read_text()
    assert drawing.count('aria-roledescription="point"') == len(detection.points) + len(old.points)
    assert "in the baseline" in drawing


def test_a_chart_is_saved_as_picture(tmp_path: Path) -> None:
    detection = frontier_charts(results())[1]
    save(detection, tmp_path / "chart.png")
    save(detection, tmp_path / "chart.svg")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
    drawing = (tmp_path / "chart.svg").read_text()
    assert drawing.count('aria-roledescription="point"') == len(detection.points)
    assert drawing.count('aria-roledescription="rule mark"') == 2 * len(detection.points)
    save(detection, tmp_path / "chart.html")
    page = lxml.html.fromstring((tmp_path / "chart.html").read_text())
    assert [element.tag for element in page.iter()] == ["html", "head", "meta", "body", "div", "script"]
    with pytest.raises(ValueError, match=r"\.png, \.svg or \.html"):
        save(detection, tmp_path / "chart.bmp")


def test_write_reports_writes_every_form_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(to_json(results()))
    assert write_reports(tmp_path) == tmp_path / "report" / "index.html"
    assert {file.name for file in (tmp_path / "report").iterdir()} == {
        "index.html",
        "summary.md",
        "results.csv",
        "junit.xml",
        "bencher.json",
        "benchmark.json",
    }
    assert write_reports(tmp_path, tmp_path / "elsewhere").parent == tmp_path / "elsewhere"


def test_a_folder_without_results_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is it a run directory"):
        write_reports(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_every_place_marks_a_figure_that_is_not_valid() -> None:
    reason = "load of other processes 0.70 cores"
    content = results()
    index = [trial.variant for trial in content.trials].index("throttled")
    (line,) = (
        line for line in to_markdown(content).splitlines() if line.startswith("|") and "throttled" in line
    )
    assert line.count(f"(not valid: {reason})") == 2  # throughput and latency
    note = trial_to_markdown(content.trials[index], 10_000)
    assert note.count(f"(not valid: {reason})") == 2
    page = whole(to_html(content))
    row = page[page.index('data-sort="throttled"') :]
    row = row[: row.index("</tr>")]
    assert row.count(f'<span class="about failed">not valid: {reason}</span>') == 2
    assert f"samples/s, n=640 not valid: {reason}" in page  # the tooltip of the chart
    table = [row for row in csv.DictReader(io.StringIO(to_csv(content))) if row["variant"] == "throttled"]
    assert {row["reasons"] for row in table if row["kind"] == "speed"} == {reason}


def test_csv_has_no_control_character_but_line_ends_in_quotes() -> None:
    content = document()
    content["trials"][0]["variant"] = "a\x00b\x1b[2J\x9b\rc"
    text = to_csv(Results.model_validate(content))
    assert "a\\u0000b\\u001b[2J\\u009b\\rc" in text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)


def test_a_revision_and_references_are_plain_text_in_markdown() -> None:
    content = document()
    content["run"]["git_revision"] = "`<b>|[x](y)"
    content["trials"][0]["variant"] = "GH-1 gh-2 #3 @user http://x.example"
    rendered = github_flavored_markdown_to_html(to_markdown(Results.model_validate(content)))
    assert "<a " not in rendered and "<b>" not in rendered and "<code>" not in rendered
    assert not re.search(r"(?i)gh-\d|#\d|@user", rendered)


def test_figures_by_class_have_their_interval_and_their_samples() -> None:
    page = lxml.html.fromstring(whole(to_html(results())))
    table = page.xpath("//summary[text()='Per class (2)']/..//tr")
    rows = [" ".join(" ".join(cell.text_content() for cell in row).split()) for row in table]
    assert rows[:2] == [
        "Class ap50 [95% interval] ap [95% interval]",
        "digit 3 0.500 [0.410, 0.590] 0–1, n=37 undefined 0–1, n=300",
    ], rows[:2]
