"""Small charts in the section of a trial, as Vega-Lite specifications in the colours of the page."""

from collections.abc import Sequence
from functools import cache

import altair as alt

from harness.analysis.record import DetectionAnalysis, PrecisionRecall
from harness.rundir.results import ScenarioRecord, TrialRecord
from reports.figures import printed
from reports.page.charts import PAGE, POINTS, Spec, config
from reports.page.details import Detail, Distribution
from reports.text import display

WIDTH, HEIGHT = 330, 170  # px; the page shrinks charts on a narrow screen
MARKED = ("p50", "p90", "p99")  # percentiles that are far enough apart to be labelled
CLASSES = 20  # classes with a curve of their own: those with the most annotations


def detail_charts(trial: TrialRecord, detail: Detail) -> dict[str, Spec]:
    """Return the charts of a trial by name: `latency/SCENARIO`, `precision-recall`."""
    specs = {f"latency/{name}": latency(shown, trial.speed[name]) for name, shown in detail.latencies.items()}
    if isinstance(detail.analysis, DetectionAnalysis):
        specs["precision-recall"] = precision_recall(detail.analysis.curves)
    return specs


def latency(shown: Distribution, scenario: ScenarioRecord) -> Spec:
    """Draw a histogram in ms on a log scale, with rules at the median and at the tails that n supports."""
    bins = zip(shown.edges[:-1], shown.edges[1:], shown.counts, strict=True)
    rows = [{"low": 1e3 * low, "high": 1e3 * high, "queries": count, "zero": 0} for low, high, count in bins]
    marks = [
        {"name": name, "at": 1e3 * figure.value, "line": line}
        for line, name in enumerate(MARKED)
        if (figure := scenario.latency.get(name)) is not None and figure.value is not None
    ]
    return {**_latency(), "datasets": {POINTS: rows, "percentiles": marks}}


@cache
def _latency() -> Spec:
    scale = alt.Scale(type="log", nice=False)
    bars = (
        alt.Chart(alt.NamedData(POINTS))
        .mark_rect(color=PAGE.accent, opacity=0.75)
        .encode(
            x=alt.X("low:Q", scale=scale, title="latency (ms, log scale)", axis=alt.Axis(tickCount=5)),
            x2="high:Q",
            y=alt.Y("queries:Q", title="queries", axis=alt.Axis(tickCount=4)),
            y2="zero:Q",
            tooltip=[
                alt.Tooltip("low:Q", format=".4g", title="from ms"),
                alt.Tooltip("high:Q", format=".4g", title="to ms"),
                alt.Tooltip("queries:Q"),
            ],
        )
    )
    percentiles = alt.Chart(alt.NamedData("percentiles")).encode(x="at:Q")
    rules = percentiles.mark_rule(color=PAGE.text, strokeDash=[3, 3])
    names = percentiles.mark_text(color=PAGE.text, align="left", dx=3, dy=6, fontSize=10.5).encode(
        text="name:N", y=alt.Y("top:Q", scale=None, axis=None)
    )
    names = names.transform_calculate(top="12 * datum.line")
    return finish(alt.layer(bars, rules, names).resolve_scale(y="independent"))


def precision_recall(curves: Sequence[PrecisionRecall]) -> Spec:
    """Draw the mean over the classes at each IoU, and single classes at the lowest."""
    means = [curve for curve in curves if curve.label is None]
    first = min((curve.iou for curve in curves), default=None)
    classes = [curve for curve in curves if curve.label is not None and curve.iou == first]
    classes = sorted(classes, key=lambda curve: -curve.positives)[:CLASSES]
    rows = [row for curve in [*classes, *means] for row in _curve(curve)]
    return {**_precision_recall(), "datasets": {POINTS: rows}}


def _curve(curve: PrecisionRecall) -> list[dict[str, object]]:
    """Return the corners of the steps. Each precision applies from the previous recall level to its own."""
    values = curve.precision or []  # empty if nothing is annotated
    corners = [i for i, value in enumerate(values) if i in (0, len(values) - 1) or value != values[i + 1]]
    kind = f"mean, IoU {curve.iou:g}" if curve.label is None else f"one class, IoU {curve.iou:g}"
    name = "all classes" if curve.label is None else display(curve.label, 40)
    return [
        {
            "recall": i / (len(values) - 1),
            "precision": round(values[i], 4),
            "curve": f"{curve.iou:g} {name}",
            "kind": kind,
            "class": name,
            "AP": str(printed(curve.ap)),
        }
        for i in corners
    ]


@cache
def _precision_recall() -> Spec:
    scale = alt.Scale(domain=[0, 1], nice=False)
    axis = alt.Axis(tickCount=5)
    color = alt.Color(
        "kind:N",
        sort=None,
        scale=alt.Scale(range=[PAGE.grey, PAGE.accent, PAGE.text]),
        legend=alt.Legend(title=None, orient="top"),
    )
    return finish(
        alt.Chart(alt.NamedData(POINTS))
        .mark_line(interpolate="step-before")
        .encode(
            x=alt.X("recall:Q", scale=scale, axis=axis),
            y=alt.Y("precision:Q", scale=scale, axis=axis),
            detail="curve:N",
            color=color,
            opacity=alt.condition("datum.class === 'all classes'", alt.value(1), alt.value(0.55)),
            strokeWidth=alt.condition("datum.class === 'all classes'", alt.value(2.2), alt.value(1.1)),
            tooltip=["class:N", alt.Tooltip("kind:N", title="curve"), "AP:N"],
        )
    )


def finish(plot: alt.LayerChart | alt.Chart | alt.FacetChart) -> Spec:
    """Give a small chart its size and style."""
    spec: Spec = plot.properties(width=WIDTH, height=HEIGHT).configure(**config(PAGE)).to_dict()
    return spec
