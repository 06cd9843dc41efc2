"""Progress of a run: plain lines in a pipe, a table on a terminal, rates from the first shard on."""

from __future__ import annotations

import io

from rich.console import Console

from harness.driver.progress import RunProgress


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
