"""compare.md: a run against its baseline in GitHub-flavoured Markdown, for a step summary or a comment."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from harness.compare.outcome import URGENCY, Change, Comparison, TrialComparison, Verdict
from harness.compare.speed_verdict import DRIFT
from harness.task import Figure
from reports.figures import printed, trainings_text
from reports.markdown import BRACKETS, LIMIT, bullets, shortened, table
from reports.text import markdown

_MARKS = {"pass": "✅", "regression": "❌", "incomplete": "⚠️", "inconclusive": "❔"}
_QUIET: tuple[Verdict, ...] = ("unchanged", "pass", "not decided")
_HEADINGS = ("Trial", "Figure", "Baseline → run", "Δ%", "Difference", "n", "Verdict")
Row = tuple[TrialComparison, Change]


def comparison_to_markdown(comparison: Comparison, limit: int = LIMIT) -> str:
    """Return the verdict, the worst change of each trial, and all other figures in collapsed sections.

    Rows beyond `limit` bytes are only counted.
    """
    rows = 1 + sum(1 + len(trial.changes) for trial in comparison.trials)
    return shortened(lambda most: _document(comparison, most), rows, limit)


def _document(comparison: Comparison, rows: int) -> str:
    changed, unchanged = changed_first(comparison)
    worst: dict[str, Row] = {}  # by trial
    others = [row for row in changed if worst.setdefault(row[0].name, row) is not row]
    rest = [*others, *unchanged]
    not_compared = [trial for trial in comparison.trials if trial.state != "compared"]
    verdict = f"**{markdown(comparison.suite)}**: {markdown(comparison.verdict(), 400)}"
    parts = [
        f"{_MARKS[comparison.outcome]} {verdict}",
        *_frontier(comparison, rows),
        *_table(list(worst.values()), rows, Counter(trial.name for trial, _ in others)),
        *bullets([_not_compared(trial) for trial in not_compared], rows),
        *_folded("Other figures", rest, _table(rest, rows, {})),
        *_folded("Samples with another prediction", *_flips(comparison, rows)),
        *([f"{DRIFT} A difference in time is per sample: above 0 is slower."] * comparison.compares_speed),
        *bullets([f"- Note: {markdown(note, 400)}" for note in comparison.notes], rows),
        _origin(comparison),
    ]
    return "\n\n".join(parts) + "\n"


def changed_first(comparison: Comparison) -> tuple[list[Row], list[Row]]:
    """Split figures into those to show and those to fold. Deciding figures come first, the worst first."""
    pairs = [(trial, change) for trial in comparison.trials for change in trial.changes]
    pairs.sort(key=lambda row: (not row[1].decides, URGENCY.index(row[1].verdict)))
    changed = [row for row in pairs if _is_changed(row[1])]
    return changed, [row for row in pairs if not _is_changed(row[1])]


def _is_changed(change: Change) -> bool:
    """Return whether to show a figure.

    A figure that decides is shown unless it is unchanged, passed or not decided. Any other figure is shown
    only if a regression or an improvement is proven.
    """
    if change.decides:
        return change.verdict not in _QUIET
    return change.verdict in ("regression", "improvement")


def _table(shown: Sequence[Row], rows: int, others: Mapping[str, int]) -> list[str]:
    """Return at most `rows` rows. `others` counts the changes of a trial that another table shows."""
    cells = [_cells(*row, others.get(row[0].name, 0)) for row in shown]
    return [table(_HEADINGS, cells, rows, "harness compare --json")] if shown else []


def _cells(trial: TrialComparison, change: Change, others: int) -> list[str]:
    figure = change.head or change.base
    verdict = change.verdict if change.decides else f"{change.verdict}, does not decide"
    more = f"; {others} more changed, see below" if others else ""
    return [
        markdown(trial.name, 160),
        markdown(change.name),
        f"{_figure(change.base)} → {_figure(change.head)}",
        change.relative_text(),
        markdown(change.difference_text()),
        ", ".join(filter(None, [str(figure.n) if figure else "", trainings_text(trial.trainings)])),
        f"**{verdict}**: {markdown(change.reason, 300)}{more}",
    ]


def _figure(figure: Figure | None) -> str:
    if figure is None:
        return "none"
    shown = printed(figure)
    return " ".join(filter(None, [shown.value, shown.interval, markdown(shown.unit, 20)]))


def _not_compared(trial: TrialComparison) -> str:
    return f"- **{trial.state}** {markdown(trial.name, 160)}: {markdown(trial.reason, 300)}"


def _frontier(comparison: Comparison, rows: int) -> list[str]:
    """Return the frontier's part: how many charts are unchanged, then at most `rows` of the others."""
    if not comparison.frontier:
        return []
    lines = [
        f"- {markdown(chart.benchmark)} ({markdown(chart.hardware)}): {markdown(description, 400)}"
        for chart in comparison.frontier
        if (description := chart.describe()) != "unchanged"
    ]
    same = sum(not (chart.changed or chart.reason) for chart in comparison.frontier)
    title = f"Accuracy-versus-speed frontier: unchanged in {same} of {len(comparison.frontier)} charts"
    return ["\n".join([title, *([""] if lines else []), *bullets(lines, rows)])]


def _flips(comparison: Comparison, rows: int) -> tuple[list[str], list[str]]:
    lines = []
    for trial in comparison.trials:
        if trial.flipped:
            more = trial.flipped - len(trial.flipped_ids)
            ids = ", ".join(markdown(sample_id, 60) for sample_id in trial.flipped_ids)
            ids += f" and {more} more" if more else ""
            lines.append(f"- {markdown(trial.name, 160)}: {trial.flipped} of {trial.samples} samples: {ids}")
    return lines, bullets(lines, rows)


def _folded(title: str, items: Sequence[object], parts: Iterable[str]) -> list[str]:
    if not items:
        return []
    return [f"<details><summary>{title} ({len(items)})</summary>", *parts, "</details>"]


def _origin(comparison: Comparison) -> str:
    run, baseline = (
        markdown(name) + (f" (revision {markdown(revision[:12])})" if revision else "")
        for name, revision in (
            (comparison.run, comparison.run_revision),
            (comparison.baseline, comparison.baseline_revision),
        )
    )
    software = ", ".join(comparison.software)
    software = f" Software differs: {markdown(software, 400)}." if software else ""
    return f"Run {run} against {baseline}. {BRACKETS}{software}"
