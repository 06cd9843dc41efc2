"""Progress of a run: plain lines in a pipe, a table on a terminal, rates from the first shard on."""

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


def table_cells(progress: RunProgress) -> list[list[str]]:
    """Return the cells of the table by row, without the progress bars."""
    page = Console(file=io.StringIO(), width=200)
    page.print(progress.table())
    lines = page.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return [[cell.strip() for cell in line.split("  ") if cell.strip(" ━╸╺")] for line in lines]


def terminal(height: int = 40) -> tuple[RunProgress, Clock]:
    clock = Clock()
    console = Console(file=io.StringIO(), width=200, height=height, force_terminal=True)
    return RunProgress(console, clock), clock


def test_the_table_shows_running_trials_then_waiting_ones_then_the_sum() -> None:
    progress, clock = terminal()
    progress.begin("a/waiting", total=50, done=0)
    progress.begin("b/running", total=100, done=20)
    progress.begin("c/complete", total=10, done=10)
    clock.now = 100.0
    progress.advance("b/running", 10, "n1")
    clock.now = 110.0
    progress.advance("b/running", 20, "n2", retries=1)
    assert table_cells(progress) == [
        ["trial", "samples", "shards", "samples/s", "remaining", "retried", "nodes"],
        ["b/running", "50/100", "2", "2.0", "0:25", "1", "2"],
        ["a/waiting", "0/50", "0", "waiting"],
        ["all, 1 of 3 trials complete", "60/160", "2", "2.0", "0:50", "1", "2"],
    ]


def test_the_table_fits_the_height_of_the_terminal() -> None:
    progress, _ = terminal(height=12)
    for number in range(30):
        progress.begin(f"b/{number}", total=10, done=0)
    rows = table_cells(progress)
    assert len(rows) == 1 + 4 + 1 + 1
    assert rows[-2] == ["… and 26 more"]


def test_the_table_is_empty_when_all_trials_are_complete() -> None:
    progress, _ = terminal()
    for name in ("a", "b"):
        progress.begin(name, total=10, done=0)
        progress.advance(name, 10)
    assert len(table_cells(progress)) == 1


def test_on_a_terminal_notes_stay_above_the_live_table() -> None:
    output = io.StringIO()
    console = Console(file=output, width=120, height=30, force_terminal=True)
    with RunProgress(console) as progress:
        progress.begin("digits/yolo", total=10, done=4)
        progress.note("a line")
    text = output.getvalue()
    assert "a line" in text
    assert "4/10" in text
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
        progress._live.refresh()
        assert "ETA 0:08" in screen(output.getvalue())[0]
        progress.begin("digits/yolo", total=10, done=4)
        progress.note("digits/yolo: samples 4–5 failed: a reason")
        progress.advance("digits/yolo", 6)
        progress.timing("digits/yolo", ["offline"], 2, 3)
        progress._live.refresh()
        assert screen(output.getvalue())[-1].endswith("timing digits/yolo: offline (process 2/3)")
    assert screen(output.getvalue()) == ["digits/yolo: samples 4–5 failed: a reason"]


def test_the_controls_of_a_live_display_reach_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.StringIO()
    monkeypatch.setattr(sys, "stderr", VisibleStream(output))
    console = SafeConsole(stderr=True, width=120, height=30, force_terminal=True)
    with RunProgress(console) as progress:
        progress.begin("digits/yolo\x1b[2J", total=10, done=4)
        progress._live.refresh()
        sys.stderr.write("a warning\n")
    assert screen(output.getvalue()) == ["a warning"]
    assert "\\u001b[2K" not in output.getvalue()
    assert "\x1b[2J" not in output.getvalue()


def test_a_bar_shows_the_steps_of_a_training_without_an_empty_table() -> None:
    progress, _ = terminal()
    page = Console(file=io.StringIO(), width=100)
    progress.training("yolo", TrainingStep(20, 80, 1.5, "ap 0.2000", 8.0))
    page.print(progress.display())
    (line,) = page.file.getvalue().splitlines()  # type: ignore[attr-defined]
    bar, _, text = line.partition("training")
    assert bar == "━" * 5 + " " * 17  # a quarter of 20 columns
    assert text.rstrip() == " yolo: step 20/80  loss 1.500  ap 0.2000  8.0 steps/s  ETA 0:08"


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
