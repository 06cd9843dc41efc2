"""What a run says while it runs: a table with rates and ETA on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

LINE_EVERY = 10.0  # s between plain lines of one trial
LEFT_FREE = 8  # lines of a terminal that the table leaves to what is said above it


@dataclass
class _Trial:
    """How far the predictions of a trial are."""

    total: int
    done: int
    told: float
    """When its last plain line was printed."""
    shards: int = 0
    """Made in this run."""
    started: float | None = None
    before: int = 0
    """Samples that were there at `started`."""
    retries: int = 0
    nodes: set[str] = field(default_factory=set)

    @property
    def complete(self) -> bool:
        return self.done >= self.total

    def rate(self, now: float) -> float | None:
        """Samples a second since the first result; before that a trial waits its turn and loads its model."""
        if self.started is None or self.done <= self.before:
            return None
        return (self.done - self.before) / max(now - self.started, 1e-9)


class RunProgress:
    """Counts samples by trial; a context manager that owns the terminal's lower lines."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._trials: dict[str, _Trial] = {}
        self._live = Live(console=console, get_renderable=self.table, refresh_per_second=2)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def note(self, line: str) -> None:
        """A line that stays."""
        self._console.print(line, markup=False, highlight=False)

    def begin(self, name: str, total: int, done: int) -> None:
        """A trial of `total` samples, `done` of which were on disk already."""
        self._trials[name] = _Trial(total, done, self._clock())
        if done:
            self.note(f"{name}: {done} of {total} predictions are on disk")

    def advance(self, name: str, count: int, node: str | None = None, retries: int = 0) -> None:
        """A shard of `count` further samples is on disk.

        Args:
            node: where it was made.
            retries: shards of the trial that were lost with their worker so far, and tried again.
        """
        trial = self._trials[name]
        now = self._clock()
        trial.done += count
        trial.shards += 1
        trial.retries = retries
        if node:
            trial.nodes = trial.nodes | {node}  # a new set: the table is drawn in another thread
        if trial.started is None:
            trial.started, trial.before = now, trial.done
        due = now - trial.told >= LINE_EVERY
        if not self._console.is_terminal and (trial.complete or due):
            trial.told = now
            self.note(f"{name}: {_line(trial, now)}")

    def table(self) -> Table:
        """One row a trial that is not complete, those under way first, and one for all of them."""
        now = self._clock()
        trials = dict(self._trials)
        open_trials = {name: trial for name, trial in trials.items() if not trial.complete}
        first = sorted(open_trials, key=lambda name: open_trials[name].started is None)
        room = max(1, self._console.height - LEFT_FREE)
        table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
        for column in ("trial", "", "samples", "shards", "samples/s", "to go", "tried again", "nodes"):
            table.add_column(column, no_wrap=True, justify="left" if column in {"trial", ""} else "right")
        for name in first[:room] if len(first) > 1 else first:
            table.add_row(*_row(name, open_trials[name], now))
        if len(first) > room:
            table.add_row(Text(f"… and {len(first) - room} more", style="dim"))
        if len(trials) > 1 and first:
            complete = len(trials) - len(first)
            table.add_row(*_row(f"all, {complete} of {len(trials)} trials made", _all(trials.values()), now))
        return table


def _all(trials: Collection[_Trial]) -> _Trial:
    """The trials as if they were one."""
    return _Trial(
        total=sum(trial.total for trial in trials),
        done=sum(trial.done for trial in trials),
        told=0.0,
        shards=sum(trial.shards for trial in trials),
        started=min((trial.started for trial in trials if trial.started is not None), default=None),
        before=sum(trial.done if trial.started is None else trial.before for trial in trials),
        retries=sum(trial.retries for trial in trials),
        nodes={node for trial in trials for node in trial.nodes},
    )


def _row(name: str, trial: _Trial, now: float) -> list[Text | ProgressBar]:
    rate = trial.rate(now)
    cells = [
        f"{trial.done}/{trial.total}",
        str(trial.shards),
        f"{rate:.1f}" if rate else "",
        _clock_time((trial.total - trial.done) / rate) if rate else "waits" if not trial.shards else "",
        str(trial.retries or ""),
        str(len(trial.nodes) or ""),
    ]
    return [Text(name), ProgressBar(trial.total, trial.done, width=20), *map(Text, cells)]


def _line(trial: _Trial, now: float) -> str:
    rate = trial.rate(now)
    said = [f"{trial.done}/{trial.total} samples"]
    if rate:
        said.append(f"{rate:.1f}/s")
        if not trial.complete:
            said.append(f"{(trial.total - trial.done) / rate:.0f} s to go")
    if trial.retries:
        said.append(f"{trial.retries} shards tried again")
    if len(trial.nodes) > 1:
        said.append(f"{len(trial.nodes)} nodes")
    return ", ".join(said)


def _clock_time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
