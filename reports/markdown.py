"""summary.md: a run in GitHub-flavoured Markdown, for a step summary or MLflow's description."""

from collections.abc import Callable, Iterable, Sequence

from harness.compare.frontier import CAVEAT, Point, headline, points, throughput
from harness.compare.sequential import turns_changes
from harness.rundir.results import Results, TrialRecord
from harness.task import TASKS, Figure
from reports.figures import count, invalidity, printed
from reports.text import markdown
from reports.verdict import is_clean, verdict

BRACKETS = "Brackets are 95% intervals; † marks those that too few samples of a class make doubtful."
_HEADINGS = (
    *("", "Benchmark", "Variant", "Metric", "Accuracy", "Throughput", "Latency p50", "Parameters", "Status"),
)
LIMIT = 60_000  # bytes; GitHub refuses comments above 64 KiB


def to_markdown(results: Results, limit: int = LIMIT) -> str:
    """Return the verdict and one table per task. Rows beyond `limit` bytes are only counted."""
    return shortened(
        lambda rows: _document(results, rows), max(1, len(results.trials), len(results.claims)), limit
    )


def shortened(document: Callable[[int], str], rows: int, limit: int) -> str:
    """Return a document of at most `rows` rows per table, halved until it has at most `limit` bytes."""
    while len((text := document(rows)).encode()) > limit and rows > 1:
        rows //= 2
    return text


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], most: int, source: str) -> str:
    """Return a table of the first rows, and how many others are in `source`."""
    shown = [headings, ["---"] * len(headings), *rows[:most]]
    lines = [f"| {' | '.join(cells)} |" for cells in shown]
    if len(rows) > most:
        lines += ["", f"{len(rows) - most} more rows are in `{source}`."]
    return "\n".join(lines)


def bullets(lines: Sequence[str], rows: int) -> list[str]:
    """Join the first lines of a list to one paragraph and count the others; none for an empty list."""
    if len(lines) > rows:
        lines = [*lines[:rows], f"- and {len(lines) - rows} more"]
    return ["\n".join(lines)] if lines else []


def _document(results: Results, rows: int) -> str:
    mark = "✅" if is_clean(results) else "⚠️"
    run = results.run
    revision = f", revision {markdown(run.git_revision[:12])}" if run.git_revision else ""
    dirty = " with local changes" if run.git_dirty else ""
    parts = [
        f"{mark} **{markdown(results.suite)}**: {markdown(verdict(results), 800)}",
        *_tables(results, rows),
        *_problems(results, rows),
        *_turns(results, 2 * rows),
        *_claims(results, rows),
        f"Run {markdown(run.id)}, started {markdown(run.started)}, profile {markdown(run.profile)}{revision}"
        f"{dirty}. ◆ marks the Pareto frontier of accuracy and throughput {CAVEAT}. "
        f"{BRACKETS}",
    ]
    return "\n\n".join(parts) + "\n"


def _tables(results: Results, rows: int) -> Iterable[str]:
    charted = points(results)
    for task in TASKS:
        trials = enumerate(results.trials)
        cells = [_cells(trial, charted.get(index)) for index, trial in trials if trial.task == task]
        if cells:
            yield f"### {task.capitalize()}\n\n{table(_HEADINGS, cells, rows, 'results.csv')}"


def _cells(trial: TrialRecord, point: Point | None) -> list[str]:
    name, accuracy = headline(trial) or ("", None)
    single = trial.single_stream
    return [
        point.mark if point else "",
        markdown(trial.benchmark),
        markdown(trial.variant),
        markdown(name),
        _figure(accuracy, "not scored"),
        _figure(throughput(trial), "not measured", invalidity(trial.offline)),
        _figure(
            single.latency.get("p50") if single else None,
            "too few queries" if single else "not measured",
            invalidity(single),
        ),
        "" if trial.cost.parameters is None else count(trial.cost.parameters, ""),
        trial.status,
    ]


def _problems(results: Results, rows: int) -> Iterable[str]:
    lines = []
    for trial in results.trials:
        if trial.status != "complete":
            reason = markdown(trial.reason or "no reason recorded", 160)
            lines.append(f"- **{trial.status}** {_name(trial)}: {reason}")
        if trial.mixed:
            lines.append(f"- **mixed** {_name(trial)}: {_mixed(trial)}")
    lines += [
        f"- **skipped** {markdown(skipped.benchmark)}: {markdown(skipped.reason, 160)}"
        for skipped in results.skipped
    ]
    return bullets(lines, rows)


def _name(trial: TrialRecord) -> str:
    return f"{markdown(trial.benchmark)} / {markdown(trial.variant)}"


def _mixed(trial: TrialRecord) -> str:
    return f"the predictions were made with different software: {markdown('; '.join(trial.mixed), 400)}"


def _turns(results: Results, rows: int) -> list[str]:
    lines = [
        f"- **{change.verdict}** {_name(trial)} {markdown(change.name)}: "
        f"{markdown(change.difference_text())} {markdown(change.reason, 300)}"
        for trial in results.trials
        for change in turns_changes(trial.turns)
    ]
    return bullets(lines, rows)


def _claims(results: Results, rows: int) -> list[str]:
    if not results.claims:
        return []
    cells = []
    for claim in results.claims:
        where = f" where {claim.where}" if claim.where else ""
        cells.append(
            [
                f"**{markdown(claim.name)}** {markdown(f'{claim.claim} in {claim.benchmark}{where}', 300)}",
                f"**{claim.verdict}**" + (f": {markdown(claim.reason, 200)}" if claim.reason else ""),
                _figure(claim.effect, "none"),
                " and ".join(map(str, claim.seeds)),
            ]
        )
    headings = ("Claim", "Verdict", "Effect", "Trainings")
    return [f"### Claims\n\n{table(headings, cells, rows, 'results.json')}"]


def _figure(figure: Figure | None, missing: str, invalid: str = "") -> str:
    # Only the unit is of unknown origin. The rest is digits, and brackets alone are not a link.
    if figure is None:
        return missing
    shown = printed(figure)
    quantity = f"{shown.value} {shown.interval}".strip()
    mark = f" ({markdown(invalid, 160)})" if invalid else ""
    return f"{quantity} {markdown(shown.unit, 20)}, n={shown.n}{mark}"


def trial_to_markdown(trial: TrialRecord, limit: int) -> str:
    """Return the status of a trial and every figure with interval, unit, n and signature."""
    lines = [f"**{_name(trial)}**: {trial.status}"]
    if trial.reason:
        lines[0] += f": {markdown(trial.reason, 400)}"
    if trial.mixed:
        lines += ["", f"**mixed**: {_mixed(trial)}"]
    lines += ["", "| Figure | Value [95% interval] | Signature |", "|---|---|---|"]
    for name, figure, invalid in _figures(trial):
        note = f" † {markdown(figure.note, 200)}" if figure.note else ""
        row = (
            f"| {markdown(name)} | {_figure(figure, '', invalid)} | {markdown(figure.signature, 200)}{note} |"
        )
        if sum(map(len, lines)) + len(lines) + len(row) > limit:
            break
        lines.append(row)
    return "\n".join(lines) + "\n"


def _figures(trial: TrialRecord) -> Iterable[tuple[str, Figure, str]]:
    """Yield name, figure and why it is not valid."""
    yield from ((name, figure, "") for name, figure in trial.metrics.items())
    for name, scenario in trial.speed.items():
        for kind, figure in scenario.figures.items():
            label = kind if kind == "throughput" else f"latency {kind}"
            yield f"{name} {label}", figure, invalidity(scenario)
    for name, figure in trial.phases.items():
        yield f"phase {name}", figure, ""
