"""Charts of accuracy against speed in Vega-Lite: in the page, or as PNG and SVG files."""

import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import altair as alt

from harness.compare.frontier import FrontierChart, Point
from reports.figures import bounds, invalidity, printed
from reports.text import display

WIDTH, HEIGHT = 640, 340  # px of a file; a chart in the page is as wide as its container
POINTS = "points"  # name of the rows under `datasets`
LOG_FROM = 5  # ratio of the ends of an axis; below, a log scale has one or two ticks
LABEL = 28  # characters beside a point; tooltip and table show the whole name
FONT = "Inter, 'Helvetica Neue', Arial, sans-serif"
LEGEND = {"frontier": "on the frontier", "dominated": "dominated", "unranked": "not ranked"}
BEFORE = "in the baseline"  # further entry of the legend
Spec: TypeAlias = dict[str, Any]  # a Vega-Lite specification
_ON_FRONTIER = f"datum.rank === '{LEGEND['frontier']}'"


@dataclass(frozen=True)
class Palette:
    """Colours by role."""

    text: str
    muted: str
    grid: str
    accent: str
    grey: str
    background: str


LIGHT = Palette("#1c2430", "#5d6775", "#e6e9ee", "#0f6e84", "#a3abb6", "#ffffff")
PAGE = Palette("var(--text)", "var(--muted)", "var(--grid)", "var(--accent)", "var(--grey)", "transparent")
"""CSS variables of the page. An SVG drawn with them adapts to light, dark and print mode."""


def chart(
    comparison: FrontierChart,
    palette: Palette = LIGHT,
    width: int | str = WIDTH,
    baseline: FrontierChart | None = None,
) -> Spec:
    """Draw intervals as rules, the frontier as a line, and dominated points in grey.

    A page can replace the rows under `datasets`. The width is in px, or "container".
    """
    rows = _rows(comparison, baseline)
    x_low, x_high = _domain([(row["x_low"], row["x_high"]) for row in rows], log=True)
    y_low, y_high = _domain([(row["y_low"], row["y_high"]) for row in rows], log=False)
    first = comparison.points[0]
    unit, is_error = display(first.throughput.unit, 20), first.accuracy.better == "lower"
    x = _throughput(x_low, x_high, unit)
    y = alt.Y(
        "y:Q",
        title=f"{display(comparison.metric, 30)} ({display(comparison.unit, 20)})",
        scale=alt.Scale(domain=[y_low, y_high], nice=False, reverse=is_error),
    )
    line_color = alt.condition(_ON_FRONTIER, alt.value(palette.accent), alt.value(palette.grey))
    base = alt.Chart(alt.NamedData(POINTS)).encode(x=x, y=y)
    rules = base.mark_rule(strokeWidth=1.5, opacity=0.7).encode(color=line_color)
    moves = base.transform_filter("isValid(datum.x_before)").mark_rule(color=palette.grey, strokeDash=[2, 3])
    line = base.transform_filter(_ON_FRONTIER).mark_line(
        interpolate="step-before", color=palette.accent, opacity=0.45, strokeDash=[5, 4], aria=False
    )
    points = base.mark_point(size=80, strokeWidth=2, opacity=1, fillOpacity=1).encode(
        fill=_fill(rows, palette),
        stroke=line_color,
        tooltip=[alt.Tooltip(f"{field}:N") for field in rows[0] if field[0].isupper()],
    )
    # Names are on the side with more space, above the points of the frontier and below the others.
    is_left = f"datum.x > {math.sqrt(x_low * x_high)}"
    names = base.mark_text(
        align=alt.expr(f"{is_left} ? 'right' : 'left'"),
        dx=alt.expr(f"{is_left} ? -8 : 8"),
        dy=alt.expr(f"{_ON_FRONTIER} ? -10 : 12"),
        fontSize=11.5,
    )
    layers = [
        line.encode(order="x:Q"),
        rules.encode(x="x_low:Q", x2="x_high:Q"),
        rules.encode(y="y_low:Q", y2="y_high:Q"),
        *([moves.encode(x="x_before:Q", x2="x:Q", y="y_before:Q", y2="y:Q")] if baseline else []),
        points,
        names.encode(
            text="name:N",
            color=alt.condition(_ON_FRONTIER, alt.value(palette.text), alt.value(palette.muted)),
        ),
    ]
    plot = alt.layer(*layers).properties(width=width, height=HEIGHT).configure(**config(palette))
    return {**plot.to_dict(), "datasets": {POINTS: rows}}


def save(comparison: FrontierChart, path: Path, baseline: FrontierChart | None = None) -> None:
    """Write the chart on white as .png (two pixels per point), .svg or .html; else raise a ValueError."""
    import vl_convert

    specification = chart(comparison, baseline=baseline)
    title = f"{comparison.benchmark}: {comparison.dataset}"
    specification["title"] = {"text": display(title), "subtitle": display(comparison.hardware)}
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        path.write_bytes(vl_convert.vegalite_to_png(specification, scale=2))
    elif path.suffix == ".svg":
        path.write_text(vl_convert.vegalite_to_svg(specification), encoding="utf-8")
    elif path.suffix == ".html":  # with tooltips, and without network access
        data = json.dumps(specification).replace("<", "\\u003c")  # a name must not end the script
        script = f"(() => {{{library()}}})();vegaEmbed('#chart', {data}, {{renderer: 'svg'}});"
        page = f"<!doctype html><meta charset=utf-8><div id=chart></div><script>{script}</script>"
        path.write_text(page, encoding="utf-8")
    else:
        raise ValueError(f"{path}: expected a name ending in .png, .svg or .html")


@cache
def library() -> str:
    """Return Vega, Vega-Lite and vega-embed as one script without network access."""
    import vl_convert

    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


def _fill(rows: list[dict[str, Any]], palette: Palette) -> alt.Fill:
    """Fill points by rank, with a legend of the ranks that are present."""
    colours = (palette.accent, palette.grey, palette.background, palette.grid)
    fills = dict(zip((*LEGEND.values(), BEFORE), colours, strict=True))
    present = [shown for shown in fills if any(row["rank"] == shown for row in rows)]
    return alt.Fill(
        "rank:N",
        scale=alt.Scale(domain=present, range=[fills[shown] for shown in present]),
        legend=alt.Legend(title=None, orient="top", symbolType="circle", symbolStrokeColor=palette.grey),
    )


def _rows(comparison: FrontierChart, baseline: FrontierChart | None) -> list[dict[str, Any]]:
    """Return the points of a chart with their places in the baseline, then the points of the baseline."""
    rows = [_row(point) for point in comparison.points]
    earlier = {point.trial.variant: _row(point) for point in (baseline.points if baseline else ())}
    for point, row in zip(comparison.points, rows, strict=True):
        if before := earlier.get(point.trial.variant):
            row |= {"x_before": before["x"], "y_before": before["y"]}
    return [*rows, *({**row, "name": "", "rank": BEFORE} for row in earlier.values())]


def _row(point: Point) -> dict[str, Any]:
    """Return plot coordinates under lower-case names, and the lines of the tooltip under capitalised ones."""
    trial, accuracy, speed = point.trial, point.accuracy, point.throughput
    assert accuracy.value is not None and speed.value is not None
    name, (y_low, y_high) = display(trial.variant), bounds(accuracy)
    row = {
        "trial": str(point.index),  # as the page's `data-trial`
        "name": name if len(name) <= LABEL else name[: LABEL - 1] + "…",
        "x": speed.value,
        "x_low": _positive(speed.low, speed.value),
        "x_high": _positive(speed.high, speed.value),
        "y": accuracy.value,
        "quality": point.coordinates.accuracy,
        "y_low": y_low,
        "y_high": y_high,
        "rank": LEGEND[point.rank],
        "Variant": name,
        "Adapter": display(trial.adapter),
        "Accuracy": display(f"{next(iter(trial.metrics))} {printed(accuracy)}", 200),
        "Throughput": display(" ".join(filter(None, [str(printed(speed)), invalidity(point.scenario)])), 200),
        "Timed at": f"batch size {point.scenario.batch_size}, threads {point.scenario.threads}",
        "Precision": display(trial.settings.get("precision", "not recorded")),
        "Backend": display(trial.settings.get("backend", "not recorded")),
        "Rank": LEGEND[point.rank],
        "On the frontier": "unknown" if point.probability is None else f"{point.probability:.0%}",
    }
    reservations = [f"trial is {trial.status}"] if trial.status != "complete" else []
    reservations += [f"timing {invalidity(point.scenario)}"] if not point.scenario.valid else []
    if reservations:
        row["Why"] = display(", ".join(reservations), 200)
    return row


def _positive(bound: float | None, value: float) -> float:
    """Return the bound, or a value that a log scale can draw in its place."""
    return value if bound is None else max(bound, value / 100)


def _domain(intervals: list[tuple[float, float]], log: bool) -> tuple[float, float]:
    """Return a range that contains all intervals, with a margin of a tenth on each side for the labels."""
    low, high = min(low for low, _ in intervals), max(high for _, high in intervals)
    if log:
        margin = max(1.25, (high / low) ** 0.1)
        return low / margin, high * margin
    margin = 0.1 * (high - low) or 0.05 * abs(high) or 1
    return low - margin, high + margin


def _throughput(low: float, high: float, unit: str) -> alt.X:
    """Return the horizontal axis of a frontier; its scale is logarithmic if the range is wide."""
    log = high > LOG_FROM * low
    return alt.X(
        "x:Q",
        title=f"throughput, offline ({unit}{', log scale' if log else ''})",
        scale=alt.Scale(type="log" if log else "linear", domain=[low, high], nice=False),
        axis=alt.Axis(
            tickCount=6,
            values=_log_ticks(low, high) if log else alt.Undefined,
            labelExpr="format(datum.value, datum.value < 1 ? '.3~r' : '~s')",
            labelOverlap="greedy",
            labelSeparation=8,
        ),
    )


def _log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times the powers of ten in a range: labels of 8, 9 and 90 would hide 10 and 100."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
    return [tick for decade in decades for step in (1, 2, 5) if low <= (tick := step * 10.0**decade) <= high]


def config(palette: Palette) -> dict[str, Any]:
    """Return the style that all charts share."""
    return {
        "background": palette.background,
        "font": FONT,
        "view": {"stroke": None},
        "axis": {
            "domainColor": palette.grey,
            "gridColor": palette.grid,
            "tickColor": palette.grey,
            "labelColor": palette.muted,
            "titleColor": palette.muted,
            "titleFontWeight": "normal",
            "labelFontSize": 11,
            "titleFontSize": 12,
            "titlePadding": 10,
        },
        "legend": {"labelColor": palette.muted, "labelFontSize": 11.5, "symbolSize": 70},
        "title": {"color": palette.text, "subtitleColor": palette.muted, "anchor": "start"},
    }
