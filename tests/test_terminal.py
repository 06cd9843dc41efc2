"""The output on a terminal at the end of a run, whatever its contents."""

from __future__ import annotations

import io
import re
import sys

import pytest
from sample_results import HOSTILE, LONG, document, figure, results

from harness.cli.terminal import show_results
from harness.rundir.results import Results


class Terminal(io.StringIO):
    """A stdout that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", Terminal())
        show_results(results())
        text = sys.stdout.getvalue()  # type: ignore[attr-defined]
    return re.sub("\x1b\\[[0-9;]*m", "", text)  # bold and dim stay without colours


def test_the_frontier_is_marked_and_every_figure_has_its_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(monkeypatch).splitlines()
    marked = [line.split()[1] for line in lines if line.strip().startswith("◆")]
    assert marked == ["attention", "yolo", "ssd-b8", "Pareto"]
    assert any("by point values: where intervals overlap, another run may rank otherwise" in s for s in lines)
    (yolo,) = (" ".join(line.split()) for line in lines if "yolo" in line)
    assert yolo == "◆ yolo ap50 0.412 [0.392, 0.432] 300 320 [304, 336] 3.12 [2.97, 3.28] ms"
    assert max(map(len, lines)) <= 120


def test_two_benchmarks_of_one_trial_mark_their_own_frontier(capsys: pytest.CaptureFixture[str]) -> None:
    content = document()
    for each in [each for each in content["trials"] if each["variant"] in ("ssd-b8", "faster")]:
        value = 0.9 if each["variant"] == "faster" else 0.1
        content["trials"].append({**each, "benchmark": "voc", "metrics": {"map": figure(value)}})
    show_results(Results.model_validate(content))
    rows = {row[1]: row[0] for row in (line.split("\t") for line in capsys.readouterr().out.splitlines())}
    assert (rows["scenes-boxes/faster"], rows["voc/faster"]) == ("", "◆")


def test_hostile_names_are_text_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch)
    assert "<script>alert" in text
    assert "\u202e" not in text
    assert "[l](http://evil.e" in text  # neither a link nor markup of the table's own
    assert LONG not in text


def test_hostile_names_stay_in_their_cell_where_output_is_piped(capsys: pytest.CaptureFixture[str]) -> None:
    show_results(results())
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert {len(row) for row in rows} == {7}
    assert len(rows) == 1 + len(results().trials)
    assert sum(row[0] == "◆" for row in rows) == 3
    assert any(" ".join(HOSTILE.split()) in row[1] for row in rows)
