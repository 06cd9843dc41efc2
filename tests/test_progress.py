"""Progress of a run: plain lines in a pipe, bars on a terminal, rates from the first shard on."""

from __future__ import annotations

import io
import re
import sys

import pytest
from rich.console import Console

from harness.cli.streams import VisibleStream
from harness.cli.terminal import SafeConsole
from harness.driver.progress import RunProgress
from harness.recipe import TrainingStep


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_show_rate_and_remaining_time_from_the_first_shard_on() -> None:
    clock = Clock()
    output = io.StringIO()
    progress = RunProgress(Console(file=output, width=200), clock)
    progress.begin("digits/yolo", total=100, done=20)
    clock.now = 50.0  # waiting and loading
    progress.advance("digits/yolo", 10)
    clock.now = 55.0
    progress.advance("digits/yolo", 10)  # too soon after the last line
    clock.now = 60.0
    progress.advance("digits/yolo", 10)  # 20 samples in 10 s
    clock.now = 61.0
    progress.advance("digits/yolo", 50)
    assert output.getvalue().splitlines() == [
        "digits/yolo: 20 of 100 predictions are on disk",
        "digits/yolo: 30/100 samples",
        "digits/yolo: 50/100 samples, 2.0/s, 25 s remaining",
        "digits/yolo: 100/100 samples, 6.4/s",
    ]


def test_plain_lines_show_retried_shards_and_the_number_of_nodes() -> None:
    clock = Clock()
    output = io.StringIO()
    progress = RunProgress(Console(file=output, width=200), clock)
    progress.begin("digits/yolo", total=30, done=0)
    for second, node in enumerate(("a", "b", "a")):
        clock.now = float(second)
        progress.advance("digits/yolo", 10, node, retries=2)
    assert output.getvalue() == "digits/yolo: 30/30 samples, 10.0/s, 2 shards retried, 2 nodes\n"


def rows(progress: RunProgress, width: int = 200) -> list[tuple[str, str]]:
    """Return the bar and the text of each row."""
    page = Console(file=io.StringIO(), width=width)
    page.print(progress.display)
    lines = page.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return [(line[:20].rstrip(), line[21:].rstrip()) for line in lines]


def terminal() -> tuple[RunProgress, Clock]:
    clock = Clock()
    console = Console(file=io.StringIO(), width=200, force_terminal=True)
    return RunProgress(console, clock), clock


def test_the_rows_are_the_sum_and_the_trials_that_are_predicted() -> None:
    progress, clock = terminal()
    progress.begin("a/waiting", total=50, done=0)
    progress.begin("b/running", total=100, done=20)
    progress.begin("c/complete", total=10, done=10)
    assert rows(progress) == []
    clock.now = 100.0
    progress.advance("b/running", 10, "n1")
    clock.now = 110.0
    progress.advance("b/running", 20, "n2", retries=1)
    assert rows(progress) == [
        ("━" * 7 + "╸", "all 3 trials: 60/160 samples, 2.0/s, 50 s remaining"),
        ("━" * 10, "b/running: 50/100 samples, 2.0/s, 25 s remaining, 1 shards retried, 2 nodes"),
    ]


def test_complete_trials_have_no_row() -> None:
    progress, _ = terminal()
    for name in ("a", "b"):
        progress.begin(name, total=10, done=0)
        progress.advance(name, 10)
    assert rows(progress) == []


def test_on_a_terminal_notes_stay_above_the_bars() -> None:
    output = io.StringIO()
    console = Console(file=output, width=120, height=30, force_terminal=True)
    with RunProgress(console) as progress:
        progress.begin("digits/yolo", total=10, done=4)
        progress.advance("digits/yolo", 2)
        progress.note("a line")
    text = output.getvalue()
    assert "a line" in text
    assert "6/10" in text
    assert "10.0/s" not in text


def screen(text: str) -> list[str]:
    """Return the lines that a terminal shows after this output."""
    lines, row, column = [""], 0, 0
    for piece in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text):
        if piece == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif piece == "\r":
            column = 0
        elif piece == "\x1b[2K":
            lines[row] = ""
        elif piece.startswith("\x1b") and piece.endswith("A"):
            row -= int(piece[2:-1] or 1)
        elif not piece.startswith("\x1b"):
            lines[row] = (lines[row][:column].ljust(column) + piece).rstrip()
            column += len(piece)
    return [line for line in lines if line]


def test_only_notes_stay_in_the_scrollback() -> None:
    output = io.StringIO()
    console = Console(file=output, width=120, height=30, force_terminal=True)
    progress = RunProgress(console)
    with progress:
        progress.training("yolo", TrainingStep(20, 80, 1.5, "ap 0.2000", 8.0))
        progress.display.refresh()
        assert "ETA 0:08" in screen(output.getvalue())[0]
        progress.begin("digits/yolo", total=10, done=4)
        progress.note("digits/yolo: samples 4–5 failed: a reason")
        progress.advance("digits/yolo", 6)
        progress.timing("digits/yolo", ["offline"], 2, 3)
        progress.display.refresh()
        assert screen(output.getvalue())[-1].endswith("timing digits/yolo: offline (process 2/3)")
    assert screen(output.getvalue()) == ["digits/yolo: samples 4–5 failed: a reason"]


def test_the_controls_of_a_live_display_reach_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.StringIO()
    monkeypatch.setattr(sys, "stderr", VisibleStream(output))
    console = SafeConsole(stderr=True, width=120, height=30, force_terminal=True)
    with RunProgress(console) as progress:
        progress.begin("digits/yolo\x1b[2J", total=10, done=4)
        progress.advance("digits/yolo\x1b[2J", 2)
        progress.display.refresh()
        sys.stderr.write("a warning\n")
    assert screen(output.getvalue()) == ["a warning"]
    assert "\\u001b[2K" not in output.getvalue()
    assert "\x1b[2J" not in output.getvalue()


def test_a_bar_shows_the_steps_of_a_training() -> None:
    progress, _ = terminal()
    progress.training("yolo", TrainingStep(20, 80, 1.5, "ap 0.2000", 8.0))
    text = "training yolo: step 20/80  loss 1.500  ap 0.2000  8.0 steps/s  ETA 0:08"
    assert rows(progress) == [("━" * 5, text)]


def test_of_the_lines_of_a_training_few_are_printed_where_there_is_no_terminal() -> None:
    clock, output = Clock(), io.StringIO()
    progress = RunProgress(Console(file=output, width=200), clock)
    for second in range(25):
        clock.now = float(second)
        progress.training("yolo", TrainingStep(second, 80, 1.5, rate=1.0))
    progress.training("yolo", TrainingStep(25, 80, 1.4, "ap 0.3000 (best)"))
    assert [line.split("  ")[0] for line in output.getvalue().splitlines()] == [
        f"training yolo: step {step}/80" for step in (0, 10, 20, 25)
    ]
