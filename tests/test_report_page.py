"""The page in a browser: its visible content at any width, in any mode and with any names in a run."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import vl_convert
from axe_playwright_python.sync_playwright import Axe
from browser import Seen, chromium, open_page, settled
from sample_results import ENVIRONMENT, HOSTILE, LONG, document, trial
from sample_run import write_run
from test_ci_forms import compared
from typer.testing import CliRunner

from harness.cli.app import app
from harness.compare.dominance import pareto
from harness.compare.frontier import FrontierChange, Point, frontier_charts
from harness.rundir.results import Results
from harness.task import Figure
from reports.page.charts import chart
from reports.page.comparison import comparison_to_html
from reports.table import to_csv
from reports.text import display
from reports.write import write_reports

if TYPE_CHECKING:
    from playwright.sync_api import Browser

WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
DETECTION = '[data-chart="comparison/1"]'
POINTS = f'{DETECTION} path[aria-roledescription="point"]'
ROWS = "#detection tbody tr"
TRIALS = f"{ROWS} .trial"


def varied() -> dict[str, Any]:
    """Return the sample document with two machines, precisions and batch sizes among its detectors."""
    content = document()
    content["environments"]["env2"] = {**ENVIRONMENT, "cpu": HOSTILE, "host": "b"}
    detectors = [each for each in content["trials"] if each["task"] == "detection"]
    detectors[0]["settings"] = {**detectors[0]["settings"], "batch_size": 16}  # yolo, on the frontier
    detectors[2]["settings"] = {**detectors[2]["settings"], "precision": "bf16"}  # faster, dominated
    detectors[4]["environments"] = ["env2"]
    for scenario in detectors[4]["speed"].values():
        scenario["environment"] = "env2"
    content["trials"].append(trial("detection", LONG, status="failed", reason=LONG))
    return content


def scaled(point: Point, factor: float) -> Figure:
    """Return the throughput of a point times a factor."""
    figure = point.throughput
    value, low, high = (None if x is None else x * factor for x in (figure.value, figure.low, figure.high))
    return replace(figure, value=value, low=low, high=high)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    run = write_run(tmp_path_factory.mktemp("run") / "<b>&'\"", varied())
    return write_reports(run).as_uri()


@pytest.fixture
def seen(browser: Browser, report: str) -> Iterator[Seen]:
    with open_page(browser, report, viewport=WIDE) as opened:
        opened.page.wait_for_selector(POINTS)
        settled(opened, "#packed", 0)
        yield opened
        assert opened.messages == []
        assert all(url.startswith(("file:", "data:")) for url in opened.requests)


def unfold(seen: Seen) -> None:
    settled(seen, "#packed", 0)
    unfolding = "document.querySelectorAll('details').forEach((item) => { item.open = true; })"
    seen.page.evaluate(unfolding)
    settled(seen, "[data-section]:empty", 0)
    seen.page.evaluate(unfolding)  # those in the sections
    settled(seen, "[data-chart]:not(:has(svg))", 0)


def texts(seen: Seen, selector: str) -> list[str]:
    return [text.strip() for text in seen.page.locator(selector).all_inner_texts()]


def variants(seen: Seen) -> list[str]:
    return texts(seen, f"{TRIALS}:not([hidden]) a")


# Charts


def test_every_comparison_has_its_points_with_both_intervals(seen: Seen) -> None:
    for index, comparison in enumerate(frontier_charts(Results.model_validate(varied()))):
        chart = seen.page.locator(f'[data-chart="comparison/{index}"]')
        assert chart.locator('path[aria-roledescription="point"]').count() == len(comparison.points)
        assert chart.locator('[aria-roledescription="rule mark"]').count() == 2 * len(comparison.points)


def test_pointing_at_a_mark_shows_its_figures(seen: Seen) -> None:
    seen.page.locator(POINTS).first.hover(force=True)
    tooltip = seen.page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    assert "0.412 [0.392, 0.432]" in tooltip.inner_text()
    assert "on the frontier" in tooltip.inner_text()


def test_a_section_draws_its_charts_when_it_is_opened(seen: Seen) -> None:
    assert seen.page.locator("#trials svg.marks").count() == 0
    unfold(seen)
    assert (
        seen.page.locator("#trials svg.marks").count()
        == seen.page.locator("#trials [data-chart]").count()
        > 5
    )


def test_a_narrow_range_of_throughputs_is_not_drawn_on_a_log_scale_and_ticks_are_plain_numbers() -> None:
    groups = frontier_charts(Results.model_validate(varied()))
    (group,) = (each for each in groups if len(each.points) > 3)
    wide, narrow = chart(group), chart(replace(group, points=group.points[:1]))
    scales = [spec["layer"][0]["encoding"]["x"]["scale"]["type"] for spec in (wide, narrow)]
    assert scales == ["log", "linear"]
    slow = replace(group, points=tuple(replace(p, throughput=scaled(p, 1e-3)) for p in group.points))
    svg = vl_convert.vegalite_to_svg(chart(slow))
    assert ">0.1<" in svg and ">100m<" not in svg


def test_a_log_axis_names_the_powers_of_ten() -> None:
    groups = frontier_charts(Results.model_validate(varied()))
    (group,) = (each for each in groups if len(each.points) > 3)
    factors = (1, 3, 9, 40)
    points = tuple(replace(p, throughput=scaled(p, f)) for p, f in zip(group.points, factors, strict=False))
    axis = chart(replace(group, points=points))["layer"][0]["encoding"]["x"]
    low, high = axis["scale"]["domain"]
    powers = [10.0**power for power in range(-6, 7) if low <= 10.0**power <= high]
    assert powers and set(powers) <= set(axis["axis"]["values"])


# Sections of trials


def test_a_section_is_put_in_when_it_is_opened(seen: Seen) -> None:
    assert seen.page.locator("[data-section] > *").count() == 0
    seen.page.locator("#trial-1 > summary").click()
    settled(seen, "[data-section] > dl", 1)
    assert "SHA-256" in seen.page.locator("#trial-1").inner_text()


def test_a_trial_that_repeats_the_accuracy_of_another_refers_to_it(browser: Browser, tmp_path: Path) -> None:
    content = document()
    content["trials"].append({**content["trials"][0], "id": "c0ffee", "variant": "again"})
    page = write_reports(write_run(tmp_path, content))
    shutil.rmtree(tmp_path / "trials")  # so that neither has an analysis
    page = write_reports(tmp_path)
    last = len(content["trials"]) - 1
    with open_page(browser, f"{page.as_uri()}#trial-{last}", viewport=WIDE) as seen:
        settled(seen, "#packed", 0)
        text = seen.page.locator(f"#trial-{last}").inner_text()
        assert f"equal those of {content['trials'][0]['variant']}" in text
        assert "Signature" not in text.split("Speed")[0]


def test_the_verdict_names_each_timing_that_is_not_valid(seen: Seen) -> None:
    invalid = [
        each["variant"]
        for each in varied()["trials"]
        for scenario in each.get("speed", {}).values()
        if not scenario["valid"]
    ]
    rows = texts(seen, ".verdict details li")
    assert len(rows) == len(invalid) > 0
    assert all(display(name)[:20] in row for name, row in zip(invalid, rows, strict=True))


# Tables


def test_a_click_on_a_heading_sorts_and_a_second_one_reverses(seen: Seen) -> None:
    before = variants(seen)
    heading = seen.page.locator("#detection th", has_text="Accuracy")
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    falling = variants(seen)
    assert falling[:2] == ["throttled", "ssd-b8"]
    heading.locator("button").press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert variants(seen)[:-1] == falling[-2::-1]
    assert variants(seen)[-1] == falling[-1] == display(LONG)  # never scored: last in either order
    assert sorted(variants(seen)) == sorted(before)


def test_a_link_in_the_table_opens_the_trial(seen: Seen) -> None:
    seen.page.locator(f"{ROWS} a", has_text="ssd-b8").click()
    assert seen.page.locator("#trials details[data-trial][open] > summary").inner_text().startswith("ssd-b8")


def test_variants_of_equal_accuracy_share_a_row_with_their_speeds(browser: Browser, tmp_path: Path) -> None:
    content = document()
    yolo, again = (next(each for each in content["trials"] if each["variant"] == "yolo") for _ in range(2))
    again = copy.deepcopy(again) | {"id": "c0ffee", "variant": "yolo-b16"}
    again["settings"]["batch_size"] = 16
    again["speed"]["offline"] |= {"valid": False, "reasons": ["load"]}
    again["speed"]["offline"]["throughput"] |= {"value": 4e4, "low": 3e4, "high": 5e4}
    content["trials"].append(again)
    write_reports(write_run(tmp_path, content))
    shutil.rmtree(tmp_path / "trials")  # so that neither has an analysis
    page = write_reports(tmp_path)
    with open_page(browser, page.as_uri(), viewport=WIDE) as seen:
        folded = seen.page.locator(ROWS, has_text="yolo-b16")
        assert folded.locator(".trial a").all_inner_texts() == ["yolo", "yolo-b16"]
        cells = [folded.locator(f'td[data-label="{name}"]') for name in ("Throughput", "Latency p50")]
        fast, slow = (cells[0].locator("[data-sort]").nth(i).inner_text() for i in (1, 0))
        assert fast.startswith("batch 16\n40") and "not valid: load" in fast
        assert slow.startswith(f"batch {yolo['settings']['batch_size']}\n") and "not valid" not in slow
        assert cells[1].inner_text().count("ms") == 1  # the same record
        seen.page.locator("#detection th", has_text="Throughput").locator("button").click()
        assert variants(seen)[0] == "yolo"  # by the fastest trial of the row
        seen.page.select_option('[data-filter="batch"]', "16")
        assert variants(seen) == ["yolo-b16"]
        assert texts(seen, f"{ROWS}:not([hidden]) td[data-label=Throughput] :not([hidden])[data-sort]") == [
            fast
        ]
        assert seen.page.locator(f"{ROWS}:has(.trial):visible").count() == 1
    assert to_csv(Results.model_validate(content)).count("yolo-b16") > 5


# Filters


def test_a_filter_acts_on_rows_sections_and_points_and_the_rest_is_ranked_anew(seen: Seen) -> None:
    assert texts(seen, ".filters label select").__len__() == 3
    frontier = f"{TRIALS}.frontier:not([hidden]) a"
    assert texts(seen, frontier) == ["yolo", "ssd-b8"]
    seen.page.select_option('[data-filter="precision"]', "bf16")
    assert variants(seen) == ["faster"]
    assert texts(seen, frontier) == ["faster"]
    settled(seen, POINTS, 1)
    assert seen.page.locator("#trials details[data-trial]:not([hidden])").count() == 1
    assert seen.page.locator(".filters output").inner_text() == "1 of 10 trials shown"
    seen.page.get_by_role("button", name="Show all").click()
    settled(seen, POINTS, 4)
    assert texts(seen, frontier) == ["yolo", "ssd-b8"]


def test_the_frontier_of_what_is_left_equals_that_of_the_report(seen: Seen) -> None:
    (group,) = (each for each in frontier_charts(Results.model_validate(varied())) if len(each.points) > 3)
    left = [p for p in group.points if p.trial.settings["batch_size"] == 8 and p.rank != "unranked"]
    kept = pareto([(p.throughput.value or 0, p.accuracy.value or 0) for p in left])
    seen.page.select_option('[data-filter="batch"]', "8")
    assert texts(seen, f"{TRIALS}.frontier:not([hidden]) a") == [
        p.trial.variant for p, on in zip(left, kept, strict=True) if on
    ]


def test_a_machine_with_a_hostile_name_can_be_chosen(seen: Seen) -> None:
    seen.page.select_option('[data-filter="hardware"]', index=1)
    assert variants(seen) == [display(HOSTILE)]


# Layout


@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["1280", "390"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows(browser: Browser, report: str, viewport: Any, scheme: Any) -> None:
    with open_page(browser, report, viewport=viewport, color_scheme=scheme) as seen:
        unfold(seen)
        width = seen.page.evaluate("document.documentElement.scrollWidth")
        assert width <= viewport["width"]
        beyond = seen.page.evaluate(
            """(width) => [...document.querySelectorAll("main *, header *")]
                .filter((item) => !item.closest(".scroll, svg, .definitions"))
                .filter((item) => item.getBoundingClientRect().right > width + 1)
                .map((item) => item.outerHTML.slice(0, 120))""",
            viewport["width"],
        )
        assert beyond == []
        assert seen.messages == []


@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["1280", "390"])
def test_a_comparison_is_whole_at_any_width_and_runs_nothing(
    browser: Browser, tmp_path: Path, viewport: Any
) -> None:
    found = compared()
    moved = FrontierChange("b", "ap50", LONG, (HOSTILE,), joined=(HOSTILE,), left=(LONG,))
    trials = (replace(found.trials[0], flipped_ids=(HOSTILE, LONG)), *found.trials[1:])
    page = tmp_path / "compare.html"
    page.write_text(comparison_to_html(replace(found, frontier=(moved,), trials=trials)))
    with open_page(browser, page.as_uri(), viewport=viewport) as seen:
        seen.page.locator("details summary").first.click()
        assert seen.page.locator("#rest details[open] tbody tr").count() == 1
        assert "frontier changed: " in seen.page.locator(".verdict").inner_text()
        assert display(HOSTILE).strip() in seen.page.locator("body").inner_text()
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        assert seen.messages == []
        assert seen.requests == [page.as_uri()]


@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["1280", "390"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_barrier(browser: Browser, report: str, viewport: Any, scheme: Any) -> None:
    context = {"viewport": viewport, "color_scheme": scheme, "bypass_csp": True}  # axe is another script
    with open_page(browser, report, **context) as seen:
        unfold(seen)
        violations = Axe().run(seen.page).response["violations"]
        serious = [each for each in violations if each["impact"] in ("serious", "critical")]
        assert [(each["id"], each["nodes"][0]["html"][:200], len(each["nodes"])) for each in serious] == []


def test_a_difference_keeps_its_verdict_on_a_phone(browser: Browser, report: str) -> None:
    with open_page(browser, report, viewport=NARROW) as seen:
        cells = seen.page.locator('td[data-label="At the 5% level"]')
        assert cells.count() > 0
        box = cells.first.bounding_box()
        assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= NARROW["width"]


def brightness(seen: Seen, selector: str, name: str) -> float:
    """Return the brightness, 0–255, of a computed colour."""
    color = seen.page.locator(selector).first.evaluate(f"(item) => getComputedStyle(item).{name}")
    red, green, blue = (float(part) for part in color[color.index("(") + 1 : -1].split(",")[:3])
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue  # ITU-R BT.709 luma


def test_dark_is_dark_and_paper_is_white(browser: Browser, report: str) -> None:
    with open_page(browser, report, viewport=WIDE, color_scheme="dark") as seen:
        assert brightness(seen, "body", "backgroundColor") < 40
        assert brightness(seen, "body", "color") > 200
        label = f"{DETECTION} text:text-is('yolo')"
        seen.page.wait_for_selector(label)
        assert brightness(seen, label, "fill") > 120
        seen.page.emulate_media(media="print")
        assert brightness(seen, "body", "backgroundColor") > 254
        assert brightness(seen, label, "fill") < 130
        assert not seen.page.locator("nav").is_visible()


def test_paper_shows_every_section_with_its_charts(seen: Seen) -> None:
    state = seen.page.evaluate(
        """() => {
            dispatchEvent(new Event("beforeprint"));
            return Promise.resolve().then(() => document.querySelectorAll("details:not([open])").length);
        }"""
    )
    assert state == 0
    drawn = (
        "[...document.querySelectorAll('[data-chart]')].filter((item) => !item.querySelector('svg')).length"
    )
    assert seen.page.evaluate(drawn) == 0  # the promises of the drawings are kept before paper is laid out
    assert seen.page.pdf().startswith(b"%PDF")


# Hostile names


def test_hostile_text_is_text(seen: Seen) -> None:
    unfold(seen)
    page = seen.page
    assert page.locator("script").count() == 3
    body = page.locator("body").inner_text()
    assert "<script>alert('x')</script>" in body
    assert "\u202e" not in body
    for selector in (
        "td.name bdi",
        "#trials summary bdi",
        ".samples dd bdi",
        ".confusion th bdi",
        ".legend bdi",
    ):
        assert any("<script>alert" in text for text in texts(seen, selector)), selector
    for selector in ("g.box text", ".alignment text"):  # SVG has no inner text
        assert any("<script>alert" in text for text in page.locator(selector).all_text_contents()), selector
    assert page.locator("main b, main img, main iframe, main object").count() == 0


def test_pictures_are_drawn_from_the_page_itself(seen: Seen) -> None:
    unfold(seen)
    sizes = seen.page.evaluate(
        """() => Promise.all([...document.querySelectorAll(".definitions image")].map(async (item) => {
            const picture = new Image();
            picture.src = item.getAttribute("href");
            await picture.decode();
            return picture.naturalWidth;
        }))"""
    )
    assert sizes == [64, 64]  # the masks of the sample are one file, and so are the images
    uses = seen.page.locator(".panels use")
    assert uses.count() == 2 + 7
    assert all(
        seen.page.evaluate("(id) => document.querySelector(id) !== null", uses.nth(i).get_attribute("href"))
        for i in range(uses.count())
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_page_of_the_quickstart_is_at_most_5_mb(browser: Browser, tmp_path: Path) -> None:
    run = tmp_path / "quickstart"
    options = ["--executor", "inline", "--no-sync", "--limit", "40", "--out", str(run)]
    CliRunner().invoke(app, ["run", "quickstart", *options])  # on a busy machine a timing may be invalid
    page = run / "report" / "index.html"
    assert page.stat().st_size <= 5_000_000
    with open_page(browser, page.as_uri(), viewport=WIDE) as seen:
        unfold(seen)
        assert seen.page.locator(".definitions image").count() >= 16
        assert seen.page.locator("svg.alignment").count() > 0
        assert seen.messages == []
