"""The output on a terminal at the end of a run, whatever its contents."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sample_results import HOSTILE, LONG, document, figure, results

from harness.cli.streams import VisibleStream
from harness.cli.terminal import SafeConsole, show_results, show_table
from harness.driver.progress import RunProgress
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
    assert any("by point values; a percentage is the probability of being on it" in s for s in lines)
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


CONTROLS = "\x1b]0;title\x07\x1b[2J\x9b31m\x85\u202e\u2066\r\b\x00"
SHOWN = r"\u001b]0;title\u0007\u001b[2J\u009b31m\u0085\u202e\u2066\u000d\u0008\u0000"


def test_no_control_character_reaches_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(sys, "stdout", Terminal())
    show_table(["[red]name", CONTROLS], [["[bold]x :smile:", f"{CONTROLS}[/]"]])
    text = re.sub("\x1b\\[[0-9;]*m", "", sys.stdout.getvalue())  # type: ignore[attr-defined]
    assert SHOWN.partition(r"\u000d")[0] in text
    assert "[red]name" in text and "[bold]x :smile:" in text and "[/]" in text
    assert not set(CONTROLS) - set(SHOWN) & set(text)


def test_progress_shows_no_control_character(monkeypatch: pytest.MonkeyPatch) -> None:
    console = SafeConsole(file=io.StringIO(), width=300, force_terminal=True, no_color=True)
    progress = RunProgress(console)
    progress.begin(CONTROLS, total=4, done=1)
    progress.advance(CONTROLS, 1)
    console.print(progress.display)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert r"\u001b]0;title" in text
    assert not (set(CONTROLS) - set(SHOWN) - {"\x1b"}) & set(text)
    assert "\x1b]" not in text and "\x1b[2J" not in text


def test_json_with_control_characters_keeps_its_meaning() -> None:
    stream = VisibleStream(io.StringIO())
    document = {"name": CONTROLS + "\U000e0001 über\u202f1\n"}
    stream.write(json.dumps(document, ensure_ascii=False) + "\n")
    text = stream.getvalue()
    assert text.isprintable() or text.rstrip("\n").replace("\u202f", "").isprintable()
    assert json.loads(text) == document


def test_an_escape_in_a_suite_does_not_reach_stderr(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text('name: good\n"\\e[2J\\u202e": 1\n')
    command = [sys.executable, "-m", "harness", "validate", str(tmp_path / "s.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert r"unknown key '\u001b[2J\u202e'" in done.stderr
