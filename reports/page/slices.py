"""Figures by slice: one chart and one table per benchmark, metric and column."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby

import altair as alt

from harness.rundir.results import Results, SliceRecord, is_defined
from reports.figures import bounds, printed
from reports.page.charts import POINTS, Spec
from reports.page.detail_charts import finish
from reports.text import display


@dataclass(frozen=True)
class SliceGroup:
    """The slices of one column of a benchmark, in one metric."""

    key: str  # name of the chart
    benchmark: str
    metric: str
    column: str
    slices: Sequence[SliceRecord]

    @property
    def variants(self) -> list[str]:
        """Return the variants in the order of the suite."""
        return list(self.slices[0].figures)


def slice_groups(results: Results) -> list[SliceGroup]:
    """Return the slices of a run by benchmark, metric and column, in the order of results.json."""

    def column(record: SliceRecord) -> tuple[str, str, str]:
        # AP by size has a figure per slice: ap_small, ap_medium, ap_large.
        sized = record.column == "object size"
        return record.benchmark, "ap" if sized else record.metric, record.column

    return [
        SliceGroup(f"slices/{index}", *names, list(slices))
        for index, (names, slices) in enumerate(groupby(results.slices, key=column))
    ]


def slice_chart(group: SliceGroup) -> Spec:
    """Draw the figure with its interval for each slice and variant."""
    rows = [
        {
            "slice": display(record.slice, 24),
            "variant": display(variant, 40),
            "value": figure.value,
            **dict(zip(("low", "high"), bounds(figure), strict=True)),
            "samples": record.n,
            "figure": str(printed(figure)),
        }
        for record in group.slices
        for variant, figure in record.figures.items()
        if is_defined(figure)
    ]
    return {**_chart(display(group.column, 30), display(group.metric, 30)), "datasets": {POINTS: rows}}


@cache
def _chart(column: str, metric: str) -> Spec:
    base = alt.Chart(alt.NamedData(POINTS)).encode(
        x=alt.X("slice:O", sort=None, title=column, axis=alt.Axis(labelAngle=0)),
        xOffset=alt.XOffset("variant:N", sort=None),
        color=alt.Color("variant:N", sort=None, legend=alt.Legend(title=None, orient="top", columns=2)),
        tooltip=["variant:N", "slice:O", alt.Tooltip("figure:N", title=metric), "samples:Q"],
    )
    y = alt.Y("low:Q", title=metric, scale=alt.Scale(zero=False, nice=True), axis=alt.Axis(tickCount=5))
    rules = base.mark_rule(strokeWidth=1.5, opacity=0.7).encode(y=y, y2="high:Q")
    points = base.mark_point(filled=True, size=50, opacity=1).encode(y="value:Q")
    return finish(alt.layer(rules, points))
