"""Progress of a run: a live table with rates and remaining time on a terminal, plain lines elsewhere."""

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from harness.recipe import TrainingStep

LINE_INTERVAL = 10.0  # s between plain lines of one trial
FREE_LINES = 8  # lines of the terminal that are left for notes above the table


@dataclass
class _TrialProgress:
    """The number of complete predictions of a trial, and the rate at which they arrive."""

    total: int  # number of samples
    done: int  # samples with a prediction on disk
    last_line: float  # time of the last plain line
    shards: int = 0  # shards predicted in this run
    started: float | None = None  # time of the first shard
    done_at_start: int = 0  # samples with a prediction at `started`
    retries: int = 0  # shards that were dispatched again after their worker was lost
    nodes: set[str] = field(default_factory=set)

    @property
    def complete(self) -> bool:
        return self.done >= self.total

    def rate(self, now: float) -> float | None:
        """Return samples per second since the first shard, which excludes waiting and loading the model.

        Returns None before the second shard.
        """
        if self.started is None or self.done <= self.done_at_start:
            return None
        return (self.done - self.done_at_start) / max(now - self.started, 1e-9)


class RunProgress:
    """Counts completed samples per trial; a context manager that draws lines that vanish at its end."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._trials: dict[str, _TrialProgress] = {}
        self._status, self._bar = "", (0, 0)
        self._last_status = -math.inf  # time of the last plain line with a remaining time
        self._live = Live(console=console, get_renderable=self.display, refresh_per_second=2, transient=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def note(self, line: str) -> None:
        """Print a line above the table."""
        self._console.print(line, markup=False, highlight=False)

    def status(self, line: str, done: int = 0, total: int = 0, passing: bool = False) -> None:
        """Show what is being done in the last row of a terminal, with a bar if there is a `total`.

        Elsewhere, print the line, but `passing` ones at most once per `LINE_INTERVAL`.
        """
        self._status, self._bar = line, (done, total)
        now = self._clock()
        if not self._console.is_terminal and not (passing and now - self._last_status < LINE_INTERVAL):
            self._last_status = now if passing else self._last_status
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
        self._status = ""
        self._trials[name] = _TrialProgress(total, done, self._clock())
        if done and not self._console.is_terminal:
            self.note(f"{name}: {done} of {total} predictions are on disk")

    def advance(self, name: str, count: int, node: str | None = None, retries: int = 0) -> None:
        """Count a new shard of `count` samples, and the trial's shards that were dispatched again so far."""
        trial = self._trials[name]
        now = self._clock()
        trial.done += count
        trial.shards += 1
        trial.retries = retries
        if node:
            trial.nodes = trial.nodes | {node}  # a new set, because the table is drawn in another thread
        if trial.started is None:
            trial.started, trial.done_at_start = now, trial.done
        due = now - trial.last_line >= LINE_INTERVAL
        if not self._console.is_terminal and (trial.complete or due):
            trial.last_line = now
            self.note(f"{name}: {_line(trial, now)}")

    def display(self) -> Group:
        """Return the live part: the table of incomplete trials, then what is being done."""
        table, status = self.table(), Table.grid(padding=(0, 2, 0, 0))
        done, total = self._bar
        bar = [ProgressBar(total, done, width=20)] if total else []
        status.add_row(*bar, Text(self._status, no_wrap=True, overflow="ellipsis"))
        return Group(*([table] if table.row_count else []), *([status] if self._status else []))

    def table(self) -> Table:
        """Return one row per incomplete trial, those that are running first, and one row for all trials."""
        now = self._clock()
        trials = dict(self._trials)
        open_trials = {name: trial for name, trial in trials.items() if not trial.complete}
        first = sorted(open_trials, key=lambda name: open_trials[name].started is None)
        room = max(1, self._console.height - FREE_LINES)
        table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
        for column in ("trial", "", "samples", "shards", "samples/s", "remaining", "retried", "nodes"):
            table.add_column(column, no_wrap=True, justify="left" if column in {"trial", ""} else "right")
        for name in first[:room] if len(first) > 1 else first:
            table.add_row(*_row(name, open_trials[name], now))
        if len(first) > room:
            table.add_row(Text(f"… and {len(first) - room} more", style="dim"))
        if len(trials) > 1 and first:
            complete = len(trials) - len(first)
            table.add_row(
                *_row(f"all, {complete} of {len(trials)} trials complete", _sum(trials.values()), now)
            )
        return table


def _sum(trials: Collection[_TrialProgress]) -> _TrialProgress:
    """Return the progress of several trials as if they were one."""
    return _TrialProgress(
        total=sum(trial.total for trial in trials),
        done=sum(trial.done for trial in trials),
        last_line=0.0,
        shards=sum(trial.shards for trial in trials),
        started=min((trial.started for trial in trials if trial.started is not None), default=None),
        done_at_start=sum(trial.done if trial.started is None else trial.done_at_start for trial in trials),
        retries=sum(trial.retries for trial in trials),
        nodes={node for trial in trials for node in trial.nodes},
    )


def _row(name: str, trial: _TrialProgress, now: float) -> list[Text | ProgressBar]:
    rate = trial.rate(now)
    cells = [
        f"{trial.done}/{trial.total}",
        str(trial.shards),
        f"{rate:.1f}" if rate else "",
        _clock_time((trial.total - trial.done) / rate) if rate else "waiting" if not trial.shards else "",
        str(trial.retries or ""),
        str(len(trial.nodes) or ""),
    ]
    return [Text(name), ProgressBar(trial.total, trial.done, width=20), *map(Text, cells)]


def _line(trial: _TrialProgress, now: float) -> str:
    rate = trial.rate(now)
    parts = [f"{trial.done}/{trial.total} samples"]
    if rate:
        parts.append(f"{rate:.1f}/s")
        if not trial.complete:
            parts.append(f"{(trial.total - trial.done) / rate:.0f} s remaining")
    if trial.retries:
        parts.append(f"{trial.retries} shards retried")
    if len(trial.nodes) > 1:
        parts.append(f"{len(trial.nodes)} nodes")
    return ", ".join(parts)


def _clock_time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
