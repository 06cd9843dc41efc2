"""What a run says while it runs: bars with rates and ETA on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LINE_EVERY = 10.0  # s between plain lines of one trial


class RunProgress:
    """Counts samples by trial; a context manager that owns the terminal's lower lines."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._bars: dict[str, TaskID] = {}
        self._counts: dict[str, tuple[int, int]] = {}
        self._started: dict[str, tuple[float, int]] = {}
        self._printed: dict[str, float] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def note(self, line: str) -> None:
        """A line that stays."""
        self._console.print(line, markup=False, highlight=False)

    def begin(self, name: str, total: int, done: int) -> None:
        """A trial of `total` samples, `done` of which were on disk already."""
        self._counts[name] = (done, total)
        self._printed[name] = self._clock()
        self._bars[name] = self._progress.add_task(name, total=total, completed=done, rate="")
        if done:
            self.note(f"{name}: {done} of {total} predictions are on disk")

    def advance(self, name: str, count: int) -> None:
        """`count` further samples are on disk."""
        done, total = self._counts[name]
        done += count
        self._counts[name] = (done, total)
        # Counted from the first result on: before that the trial waits its turn and loads its model.
        start, before = self._started.setdefault(name, (self._clock(), done))
        rate = (done - before) / max(self._clock() - start, 1e-9)
        speed = f", {rate:.1f}/s" if done > before else ""
        self._progress.update(self._bars[name], completed=done, rate=speed.removeprefix(", "))
        due = self._clock() - self._printed[name] >= LINE_EVERY
        if not self._console.is_terminal and (done == total or due):
            self._printed[name] = self._clock()
            remaining = f", {(total - done) / rate:.0f} s to go" if speed and done < total else ""
            self.note(f"{name}: {done}/{total} samples{speed}{remaining}")
