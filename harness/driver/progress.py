"""Progress of a run: bars with rates and remaining time on a terminal, plain lines elsewhere."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TaskID, TextColumn

from harness.recipe import TrainingStep

LINE_INTERVAL = 10.0  # s between plain lines of one trial, or of all trainings


class RunProgress:
    """Counts completed samples per trial; a context manager that draws lines that vanish at its end."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self.display = Progress(
            BarColumn(20),
            TextColumn("{task.description}", markup=False),
            console=console,
            get_time=clock,
            refresh_per_second=2,
            speed_estimate_period=math.inf,
            transient=True,
        )
        """Show one row per trial from its first result until it is complete, then what is being done."""
        self._all = self._add_row(total=0)
        self._trials: dict[str, Task] = {}
        self._status: TaskID | None = None
        self._last_lines: dict[str, float] = {}  # times of the last plain lines

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self.display.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:  # elsewhere, it would print an empty line
            self.display.stop()

    def note(self, line: str) -> None:
        """Print a line above the bars."""
        self._console.print(line, markup=False, highlight=False)

    def status(self, line: str, done: int = 0, total: int = 0, passing: bool = False) -> None:
        """Show what is being done in the last row of a terminal, with a moving bar if `total` is unknown.

        Elsewhere, print the line, but `passing` ones at most once per `LINE_INTERVAL`.
        """
        self._end_status()
        if self._console.is_terminal:
            self._status = self.display.add_task(line, total=total or None, completed=done)
        elif not passing or self._is_due("status"):
            self.note(line)

    def training(self, name: str, event: TrainingStep | str) -> None:
        """Show the progress of a training."""
        bar = (0, 0) if isinstance(event, str) else (event.step, event.steps)
        passing = not isinstance(event, str) and event.rate is not None
        self.status(f"training {name}: {event}", *bar, passing)

    def timing(self, name: str, scenarios: Sequence[str], process: int, processes: int) -> None:
        """Show that a process times a trial; processes are counted from 1."""
        line = f"timing {name}: {', '.join(scenarios)} (process {process}/{processes})"
        self.status(line, process, processes)

    def begin(self, name: str, total: int, done: int) -> None:
        """Add a trial of `total` samples, `done` of which already have a prediction on disk."""
        self._end_status()
        self._trials[name] = self._add_row(total, done)
        self._last_lines[name] = self._clock()
        if done and not self._console.is_terminal:
            self.note(f"{name}: {done} of {total} predictions are on disk")
        total += round(self._all.total or 0)
        done += round(self._all.completed)
        self.display.reset(self._all.id, start=False, total=total, completed=done)

    def advance(self, name: str, count: int, node: str | None = None, retries: int = 0) -> None:
        """Count a new shard of `count` samples, and the trial's shards that were dispatched again so far."""
        trial = self._trials[name]
        nodes = trial.fields.get("nodes", frozenset()) | {node}
        self._count(trial, name, count, retries=retries, nodes=nodes)
        self._count(self._all, f"all {len(self._trials)} trials", count)
        if not self._console.is_terminal and (self._is_due(name) or trial.finished):
            self.note(trial.description)

    def _add_row(self, total: int, done: int = 0) -> Task:
        self.display.add_task("", start=False, total=total, completed=done, visible=False)
        return self.display.tasks[-1]

    def _count(self, row: Task, name: str, count: int, **fields: Any) -> None:
        if not row.started:
            self.display.start_task(row.id)
        self.display.update(row.id, advance=count, **fields)
        visible = not row.finished and (row is not self._all or len(self._trials) > 1)
        self.display.update(row.id, description=f"{name}: {_describe(row)}", visible=visible)

    def _end_status(self) -> None:
        if self._status is not None:
            self.display.remove_task(self._status)
        self._status = None

    def _is_due(self, name: str) -> bool:
        """Return whether the last plain line of this name is long ago, and count another one if so."""
        due = self._clock() - self._last_lines.get(name, -math.inf) >= LINE_INTERVAL
        if due:
            self._last_lines[name] = self._clock()
        return due


def _describe(row: Task) -> str:
    parts = [f"{row.completed:.0f}/{row.total or 0:.0f} samples"]
    if row.speed:  # since the first shard, without waiting and loading
        parts.append(f"{row.speed:.1f}/s")
        if not row.finished:
            parts.append(f"{row.time_remaining:.0f} s remaining")
    if retries := row.fields.get("retries"):
        parts.append(f"{retries} shards retried")
    if (nodes := len(row.fields.get("nodes", ()))) > 1:
        parts.append(f"{nodes} nodes")
    return ", ".join(parts)
