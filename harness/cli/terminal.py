"""Results as text: compact tables on a terminal, tab-separated lines elsewhere, JSON on request."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import IO, TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from harness.compare.frontier import CAVEAT, FRONTIER_MARK, points
from harness.compare.outcome import Comparison
from harness.compare.sequential import turns_changes
from harness.compare.speed_verdict import DRIFT
from harness.rundir.results import Results, ScenarioRecord, TrialRecord, TurnsRecord
from harness.task import Figure
from reports.figures import invalidity, printed, trainings_text
from reports.text import display, visible
from reports.verdict import invalid_timings

if TYPE_CHECKING:
    from harness.driver.estimate import PlanEstimate


_FIGURES = ("accuracy", "n", "samples/s", "median latency")


class SafeConsole(Console):
    """A console that prints text as it is: no markup, no emoji codes, and hidden characters made visible."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **settings)

    @property  # type: ignore[misc]  # nothing sets it
    def file(self) -> IO[str]:
        """Return the stream below a `VisibleStream`, also while a live display redirects standard streams."""
        return getattr(super().file, "rich_proxied_file", super().file)

    def render_str(self, text: str, **settings: Any) -> Text:
        return super().render_str(visible(text), **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


# Programs read stdout, so progress and errors go to stderr.
console = SafeConsole(stderr=True, soft_wrap=True)


def show(document: Any) -> None:
    """Print JSON to stdout; raise a ValueError for NaN."""
    sys.stdout.write(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to stdout: with borders on a terminal, tab-separated when piped."""
    if not sys.stdout.isatty():
        for row in [columns, *rows]:
            sys.stdout.write("\t".join(" ".join(cell.split()) for cell in row) + "\n")
        return
    table = Table(header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    SafeConsole().print(table)


def figure_text(figure: Figure | None, unit: bool = True) -> str:
    """Return value, interval and, if asked for, unit: `0.412 [0.387, 0.436] points`."""
    if figure is None:
        return "–"
    shown = printed(figure)
    return shown.quantity if unit and figure.unit != "fraction" else f"{shown.value} {shown.interval}".strip()


def show_results(results: Results) -> None:
    """Print one row per trial; ◆ marks the frontier. On a terminal, each benchmark has one heading.

    The reasons of incomplete trials and invalid timings go to stderr.
    """
    charted = points(results)
    rows = [
        [charted[index].mark if index in charted else "", *_cells(trial)]
        for index, trial in enumerate(results.trials)
    ]
    if sys.stdout.isatty():
        _show_groups(results.trials, rows)
    else:
        show_table(["frontier", "trial", "status", *_FIGURES], rows)
    problems = [
        f"{trial.status} {trial.benchmark}/{trial.variant}: {trial.reason}"
        for trial in results.trials
        if trial.reason
    ]
    for _, trial, kind, record in invalid_timings(results):
        problems.append(f"{kind} of {trial.benchmark}/{trial.variant}: {invalidity(record)}")
    for problem in problems:
        console.print(display(problem, 400), style="yellow")


def _show_groups(trials: Sequence[TrialRecord], rows: Sequence[Sequence[str]]) -> None:
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(min_width=1)
    for name in ("trial", *_FIGURES):
        table.add_column(name, justify="right" if name == "n" else "left", overflow="fold")
    groups = groupby(zip(trials, rows, strict=True), key=lambda row: row[0].benchmark)
    for benchmark, group in groups:
        table.add_row("", Text(display(benchmark), style="cyan"))
        for trial, (mark, _, status, *figures) in group:
            name = display(trial.variant) + ("" if status == "complete" else f" ({status})")
            table.add_row(mark, name, *figures, style="bold" if mark else None)
    out = SafeConsole()
    out.print(table)
    out.print(f"{FRONTIER_MARK} Pareto frontier of accuracy and throughput {CAVEAT}", style="dim")
    out.print("Brackets are 95% intervals.", style="dim")


def _cells(trial: TrialRecord) -> list[str]:
    """Return trial, status and the cells of `_FIGURES`."""
    name, accuracy = next(iter(trial.metrics.items()), ("", None))
    offline, stream = trial.offline, trial.single_stream
    return [
        f"{trial.benchmark}/{trial.variant}",
        trial.status,
        f"{name} {figure_text(accuracy, unit=False)}".strip(),
        str(accuracy.n) if accuracy else "–",
        figure_text(offline.throughput, unit=False) + _mark(offline) if offline else "–",
        figure_text(stream.latency.get("p50")) + _mark(stream) if stream else "–",
    ]


def _mark(scenario: ScenarioRecord) -> str:
    return "" if scenario.valid else " (not valid)"


def show_claims(results: Results) -> None:
    """Print one row per claim."""
    rows = [
        [
            claim.name,
            claim.claim + (f" where {claim.where}" if claim.where else ""),
            figure_text(claim.effect),
            f"{claim.verdict}: {claim.reason}" if claim.reason else claim.verdict,
        ]
        for claim in results.claims
    ]
    if rows:
        show_table(["claim", "statement", "effect", "verdict"], rows)


def show_turns(records: Iterable[tuple[str, Mapping[str, TurnsRecord]]]) -> None:
    """Print one row per comparison of versions in turns; each pair is a trial and its records by scenario."""
    rows = [
        [
            trial,
            change.name,
            figure_text(change.base),
            figure_text(change.head),
            change.difference_text(),
            f"{change.verdict}: {change.reason}",
        ]
        for trial, turns in records
        for change in turns_changes(turns)
    ]
    if rows:
        show_table(["trial", "figure", "baseline", "present", "difference", "verdict"], rows)


def show_notes(notes: Sequence[str]) -> None:
    """Print to stderr what was left out of files, or is doubtful in them."""
    for note in notes:
        console.print(f"note: {display(note, 1000)}")


def show_comparison(comparison: Comparison) -> None:
    """Print the verdict, then one row per headline figure, speed scenario and trial that was not compared."""
    rows = []
    for trial in comparison.trials:
        flipped = "–" if trial.flipped is None else f"{trial.flipped}/{trial.samples}"
        if trial.state != "compared":
            rows.append([trial.name, "–", "–", "–", "–", flipped, f"{trial.state}: {trial.reason}"])
        for change in trial.changes:
            if change.decides or change.figure_kind == "speed":
                sides = figure_text(change.base), figure_text(change.head)
                parts = (change.difference_text(), trainings_text(trial.trainings))
                difference = ", ".join(filter(None, parts))
                verdict = f"{change.verdict}: {change.reason}"
                rows.append([trial.name, change.name, *sides, difference, flipped, verdict])
    sys.stdout.write(f"{comparison.verdict()}\n")
    show_table(["trial", "figure", "baseline", "run", "difference", "flipped", "verdict"], rows)
    for chart in comparison.frontier:
        if not chart.reason and (description := chart.describe()) != "unchanged":
            sys.stdout.write(f"frontier of {display(chart.benchmark)} {display(description, 400)}\n")
    if comparison.software:
        sys.stdout.write(f"software differs: {', '.join(comparison.software)}\n")
    if comparison.compares_speed:
        sys.stdout.write(f"{DRIFT}\n")


def show_plan(estimate: PlanEstimate) -> None:
    """Print the plan as a table, then the checkpoints to train and the skipped benchmarks."""
    rows = [
        [
            trial.trial,
            "after training" if trial.train else trial.id,
            f"{trial.done}/{trial.samples}",
            f"{len(trial.timed)}/{len(trial.scenarios)}",
            f"train {trial.checkpoint}" if trial.train else trial.checkpoint or "–",
            trial.worker,
            _seconds(trial.predict_seconds, ""),
            _seconds(trial.time_seconds, "≥ "),
        ]
        for trial in estimate.trials
    ]
    show_table(
        ["trial", "id", "predicted", "timed", "checkpoint", "per worker", "predicting", "timing"], rows
    )
    least = sum(trial.time_seconds for trial in estimate.trials)
    if least:
        console.print(f"timing takes at least {least:.0f} s and reserves {estimate.timing_needs}")
    for training in estimate.train:
        console.print(f"will be trained first: {training.checkpoint} ({training.steps} steps)")
    for skipped in estimate.skipped:
        console.print(f"skipped {skipped.benchmark}: {skipped.reason}")
    for shown in estimate.effects:
        effect = "unknown until one run has two models" if shown.effect is None else f"{shown.effect:.3g}"
        console.print(f"smallest effect in {shown.benchmark}, {shown.metric}: {effect}")


def _seconds(seconds: float | None, bound: str) -> str:
    return "unknown" if seconds is None else f"{bound}{seconds:.0f} s" if seconds else "–"
