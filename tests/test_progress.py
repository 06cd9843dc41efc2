"""What a run says on a pipe: plain lines with rates that leave out the wait for the first result."""

from __future__ import annotations

import io

from rich.console import Console

from harness.progress import RunProgress


def test_plain_lines_have_rate_and_time_to_go_from_the_first_result_on() -> None:
    now = 0.0
    output = io.StringIO()
    progress = RunProgress(Console(file=output, width=200), clock=lambda: now)
    progress.begin("digits/yolo", total=100, done=20)
    now = 50.0  # waiting and loading
    progress.advance("digits/yolo", 10)
    now = 55.0
    progress.advance("digits/yolo", 10)  # too soon after the last line
    now = 60.0
    progress.advance("digits/yolo", 10)  # 20 samples in 10 s
    now = 61.0
    progress.advance("digits/yolo", 50)
    assert output.getvalue().splitlines() == [
        "digits/yolo: 20 of 100 predictions are on disk",
        "digits/yolo: 30/100 samples",
        "digits/yolo: 50/100 samples, 2.0/s, 25 s to go",
        "digits/yolo: 100/100 samples, 6.4/s",
    ]
