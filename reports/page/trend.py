"""trend.html: figures over many runs as one file without network access."""

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import NamedTuple

import altair as alt

from harness.compare.trend import TrendLine, TrendPoint
from harness.task import TASKS
from reports.figures import bounds, printed
from reports.page.charts import PAGE, POINTS, Spec
from reports.page.detail_charts import finish
from reports.page.html import render
from reports.text import display

MARKED = 60  # maximum runs per line with a point and a tooltip, always including the last; more would overlap
TOOLTIP = ("Figure", "Run", "Started", "Revision", "Branch")
DIGITS = 6  # significant digits of a drawn value; more digits are invisible and double the size of the page


class Trend(NamedTuple):
    """A line over several runs, the name of its chart, and the unit of the chart."""

    line: TrendLine
    chart: str
    unit: str


def to_trend(lines: Sequence[TrendLine]) -> str:
    """Return the page. Figures from different samples or machines are on separate lines."""
    runs = {point.run.id: point.run for line in lines for point in line.points}
    trends = [Trend(line, f"trend/{number}", _scale(line)[1]) for number, line in enumerate(lines)]
    steps = [step for line in lines for step in line.steps]
    return render(
        "trend.html.j2",
        {trend.chart: chart(trend.line) for trend in trends},
        runs=sorted(runs.values(), key=lambda run: run.started),
        tasks={
            task: trends_of_task
            for task in TASKS
            if (trends_of_task := [trend for trend in trends if trend.line.subject.task == task])
        },
        steps=sorted(steps, key=lambda step: step.first.run.started, reverse=True),
        trends=trends,
    )


def chart(line: TrendLine) -> Spec:
    """Draw values with a band of intervals and a rule per step. At most MARKED + 1 runs have a tooltip."""
    every = max(1, -(-len(line.points) // MARKED))
    marked = [*line.points[:-1][::every], line.points[-1]]
    factor, _ = _scale(line)
    band = [_row(point, factor) for point in line.points]
    named = [_row(point, factor) | _tooltip(point) for point in marked]
    steps = [_row(step.first, factor) | {"Step": display(step.describe(), 300)} for step in line.steps]
    return {**_chart(bool(steps)), "datasets": {"band": band, POINTS: named, "steps": steps}}


def _scale(line: TrendLine) -> tuple[float, str]:
    """Return factor and unit: latencies below a second are drawn in ms."""
    figure = line.points[-1].figure
    short = figure.unit == "s" and figure.value is not None and figure.value < 1
    return (1e3, "ms") if short else (1.0, figure.unit)


def _row(point: TrendPoint, factor: float) -> dict[str, object]:
    low, high = bounds(point.figure)
    at = datetime.fromisoformat(point.run.started).timestamp() * 1000
    assert point.figure.value is not None
    values = {"v": point.figure.value, "l": low, "h": high}
    return {"t": round(at), **{name: float(f"{factor * value:.{DIGITS}g}") for name, value in values.items()}}


def _tooltip(point: TrendPoint) -> dict[str, str]:
    run = point.run
    figure, branch = display(printed(point.figure), 120), display(run.branch or "unknown", 40)
    texts = (figure, display(run.source, 60), run.started, (run.revision or "unknown")[:12], branch)
    return dict(zip(TOOLTIP, texts, strict=True))


@cache
def _chart(has_steps: bool) -> Spec:
    axis = alt.Axis(tickCount=4)
    x = alt.X("t:T", title=None, axis=axis)
    y = alt.Y("l:Q", title=None, scale=alt.Scale(zero=False, nice=True), axis=axis)
    lines, points, steps = (alt.Chart(alt.NamedData(name)).encode(x=x) for name in ("band", POINTS, "steps"))
    marks = points.mark_point(color=PAGE.accent, fill=PAGE.accent, size=18, opacity=1)
    rules = steps.mark_rule(color=PAGE.text, strokeWidth=1.5, strokeDash=[4, 3])
    layers = [
        lines.mark_area(color=PAGE.accent, opacity=0.2).encode(y=y, y2="h:Q"),
        lines.mark_line(color=PAGE.accent, strokeWidth=1.5).encode(y="v:Q"),
        *([rules.encode(tooltip="Step:N")] if has_steps else []),  # an empty layer has no extent
        marks.encode(y="v:Q", tooltip=[f"{name}:N" for name in TOOLTIP]),
    ]
    return finish(alt.layer(*layers))
