"""The page and the comment on a comparison show what changed, fold the rest and trust no name."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from lxml import html
from markdown_it import MarkdownIt
from sample_results import HOSTILE

from harness.compare.frontier import FrontierChange
from harness.compare.outcome import Change, Comparison, TrialComparison, Verdict
from harness.task import Figure
from reports.comparison import comparison_to_markdown
from reports.page.comparison import comparison_to_html
from reports.text import display


def comparison(trials: int, verdict: Verdict = "regression") -> Comparison:
    figure = Figure(0.5, 0.4, 0.6, 300, "fraction", "v1")
    change = Change("accuracy", "ap", figure, figure, figure, verdict, HOSTILE, True)
    compared = tuple(
        TrialComparison(
            f"b{i}", HOSTILE, "detection", "compared", "", 300, 2, (HOSTILE, "x"), (change, change)
        )
        for i in range(trials)
    )
    return Comparison("tiny", "run-1", "a" * 40, "run-0", None, compared, ("torch 2.6.0 → 2.7.0",))


def cells(text: str) -> list[list[str]]:
    """Return the cells of every table row, as a GFM parser reads it."""
    rows: list[list[str]] = []
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(text)
    for before, token in pairwise(tokens):
        if token.type == "tr_open":
            rows.append([])
        if before.type in ("th_open", "td_open"):
            rows[-1].append(token.content)
    return rows


def test_hostile_names_stay_in_their_cells() -> None:
    text = comparison_to_markdown(comparison(2))
    rows = cells(text)
    assert len(rows) == 2 * (1 + 2)  # the worst change of each of two trials, and the folded others
    assert {len(row) for row in rows} == {7}
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(text)
    html = {token.content.strip() for token in tokens if token.type == "html_block"}
    folded = ("Other figures (2)", "Samples with another prediction (2)")
    assert html == {*(f"<details><summary>{title}</summary>" for title in folded), "</details>"}


def test_the_page_is_complete_escaped_and_self_contained() -> None:
    frontier = (
        FrontierChange("b0", "ap", "cpu", ("x",), joined=(HOSTILE,), left=("old",)),
        FrontierChange("b1", "ap", "cpu", ("x",)),
        FrontierChange("b2", "ap", "cpu", reason="the run has no such metric"),
    )
    shown = comparison_to_html(replace(comparison(2), frontier=frontier))
    parsed = html.fromstring(shown)
    text = " ".join(parsed.text_content().split())
    assert parsed.xpath("//script | //img | //link | //*[@src] | //*[@onclick]") == []
    assert parsed.xpath("//meta[@http-equiv]/@content") == ["default-src 'none'; style-src 'unsafe-inline'"]
    assert "regression; accuracy: 4 regression" in text
    assert len(parsed.xpath("//section[@id='changed']//tbody/tr")) == 4
    assert "0.50 [0.40, 0.60] → 0.50 [0.40, 0.60]" in text
    assert display(HOSTILE).strip() in text
    assert "2 of 300" in text
    for expected in (
        "joined, old left",
        "frontier unchanged (x)",
        "cannot be compared: the run has no such metric",
    ):
        assert expected in text


def test_the_page_folds_unchanged_figures() -> None:
    parsed = html.fromstring(comparison_to_html(comparison(3, "unchanged")))
    assert parsed.xpath("//section[@id='changed']//tr") == []
    (folded,) = parsed.xpath("//details[not(@open)][starts-with(summary, 'Other figures')]")
    assert len(folded.xpath(".//tbody/tr")) == 6


@pytest.mark.parametrize(
    ("figure_kind", "base", "difference", "expected"),
    [
        ("accuracy", 30.0, -1.5, "−5.0%"),
        ("accuracy", 0.5, 0.01, "+2.0%"),
        ("accuracy", 0.0, 0.1, ""),
        ("accuracy", None, 0.1, ""),
        ("speed", 120.0, 0.034, "+3.4% time"),
    ],
)
def test_a_relative_difference_is_relative_to_the_baseline(
    figure_kind: Any, base: float | None, difference: float, expected: str
) -> None:
    before, change_figure = (Figure(value, None, None, 9, "u", "s") for value in (base, difference))
    change = Change(figure_kind, "x", before, before, change_figure, "regression", "", True)
    assert change.relative_text() == expected


def test_unchanged_figures_are_folded() -> None:
    text = comparison_to_markdown(comparison(3, "unchanged"))
    assert text.startswith("✅ **tiny**: pass; accuracy: 6 unchanged\n")
    assert text.index("<summary>Other figures (6)</summary>") < text.index("| Trial |")


def test_a_broken_model_is_one_line_and_its_other_figures_are_folded() -> None:
    figure = Figure(0.5, 0.4, 0.6, 300, "fraction", "v1")
    change = partial(Change, "accuracy", base=figure, head=figure, difference=figure)
    worse = change("bleu", verdict="regression", decides=True)
    others = tuple(change(f"figure-{n}", verdict="regression") for n in range(11))
    same = change("chrf", verdict="unchanged", decides=True)
    trials = tuple(
        TrialComparison("b", name, "translation", "compared", samples=9, flipped=0, changes=changes)
        for name, changes in (("broken", (*others, worse)), ("fine", (same,)))
    )
    text = comparison_to_markdown(Comparison("tiny", "run-1", None, "run-0", None, trials, ()))
    shown, _, folded = text.partition("<details><summary>Other figures (12)</summary>")
    assert [row[:2] for row in cells(shown)[1:]] == [["b/broken", "bleu"]]
    assert cells(shown)[1][-1].endswith("; 11 more changed, see below")
    assert [row[1] for row in cells(folded)[1:]] == [*(f"figure-{n}" for n in range(11)), "chrf"]


def test_a_large_comparison_fits_a_comment_and_names_what_was_omitted() -> None:
    text = comparison_to_markdown(comparison(2_000))
    assert len(text.encode()) <= 60_000
    assert "more rows are in `harness compare --json`" in text
