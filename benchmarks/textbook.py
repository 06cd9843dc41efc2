"""Write docs/textbook.md and its charts from a run of the suite `textbook`.

    harness run textbook
    python benchmarks/textbook.py runs/textbook docs

Every figure comes from results.json of the run. A topic without claims in the run is an error, so the page
cannot lose one without a word.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import altair as alt
import vl_convert

from harness.compare.frontier import frontier_charts
from harness.rundir.results import ClaimRecord, Results, TrialRecord, is_defined, read_results
from reports.figures import bounds, count, invalidity, printed
from reports.markdown import BRACKETS
from reports.page.charts import LIGHT, POINTS, Spec, config, save
from reports.page.slices import SliceGroup, slice_groups
from reports.text import markdown

TOPICS = {
    "sequences": "Recurrent networks, gates and attention",
    "recall": "Memory over a distance",
    "detectors": "Detectors: regions, proposals, one stage or two",
    "skips": "Segmentation: skip connections",
    "work": "Segmentation: strides",
}
"""Benchmark of the suite → heading."""
MARKS = {"supported": "✔ supported", "refuted": "✘ refuted", "inconclusive": "? inconclusive"}


LEAST_SAMPLES = 100  # of a benchmark whose slices are shown: a slice of a few samples says nothing


def page(results: Results, images: Path) -> str:
    """Return the page as Markdown, and draw its charts.

    Raises:
        SystemExit: A topic has no claims in the run, or a benchmark of a claim is no topic.
    """
    benchmarks = {claim.benchmark for claim in results.claims}
    if benchmarks != set(TOPICS):
        raise SystemExit(f"topics are {sorted(TOPICS)}, but the claims are about {sorted(benchmarks)}")
    topics = (line for name in TOPICS for line in topic(results, name, images))
    return "\n".join([*introduction(results), *topics])


def introduction(results: Results) -> Iterator[str]:
    """Yield what was run, where, and how many claims have which verdict."""
    hardware = results.environments[results.run.environment]
    verdicts = [claim.verdict for claim in results.claims]
    totals = ", ".join(f"{verdicts.count(name)} {name}" for name in dict.fromkeys(verdicts))
    yield "# The textbook, measured"
    yield ""
    yield (
        "Sentences that courses on these models teach, as [claims](claims.md) with verdicts. A refuted "
        "sentence is a result, too: it holds for these small networks on this data, not for the papers' "
        "networks. The data are generated. The column *trainings* counts the models on each side."
    )
    yield ""
    yield f"**{len(verdicts)} claims: {totals}.**"
    yield ""
    revision = (results.run.git_revision or "")[:7]
    yield (
        f"`harness run textbook` on {markdown(hardware.cpu)}, {hardware.cores} cores, at {revision}; then "
        "`python benchmarks/textbook.py runs/textbook docs`. Claims that need a test are decided together "
        f"(Holm, 2.5% per direction). {BRACKETS}"
    )
    yield ""


def topic(results: Results, benchmark: str, images: Path) -> Iterator[str]:
    """Yield the claims about a benchmark, then the figures behind them."""
    yield f"## {TOPICS[benchmark]}"
    yield ""
    claims = [claim for claim in results.claims if claim.benchmark == benchmark]
    yield from table(
        ["claim", "verdict", "effect", "n", "trainings", "source", "refuted if"],
        [claim_row(claim) for claim in claims],
    )
    trials = [trial for trial in results.trials if trial.benchmark == benchmark]
    yield from table(
        ["model", "figure", "samples/s", "preprocess · model · postprocess", "parameters", "FLOPs/sample"],
        [trial_row(trial) for trial in trials],
    )
    headline, figure = next(iter(trials[0].metrics.items()))
    if figure.n < LEAST_SAMPLES:
        return
    for comparison in frontier_charts(results):
        if comparison.benchmark == benchmark:
            save(comparison, images / f"textbook-{benchmark}.svg")
            yield f"![Accuracy and throughput](images/textbook-{benchmark}.svg)"
            yield ""
    for group in slice_groups(results):
        if (group.benchmark, group.metric) == (benchmark, headline) and len(group.slices) > 1:
            yield from by_slice(group, images)


def claim_row(claim: ClaimRecord) -> list[str]:
    """Return verdict and effect of a claim."""
    where = f", where {claim.where}" if claim.where else ""
    verdict = MARKS.get(claim.verdict, claim.verdict) + (f" ({claim.reason})" if claim.reason else "")
    effect = claim.effect
    shown = printed(effect) if effect else None
    return [
        f"`{claim.claim}`{where}",
        markdown(verdict, 200),
        f"{shown.value} {shown.interval} {shown.unit}" if shown else "–",
        str(effect.n) if effect else "–",
        " · ".join(map(str, claim.seeds)) or "–",
        markdown(claim.source, 200),
        markdown(claim.refuted_if, 200),
    ]


def trial_row(trial: TrialRecord) -> list[str]:
    """Return accuracy, speed, phases and costs of a trial."""
    name, figure = next(iter(trial.metrics.items()), ("", None))
    throughput = trial.offline.throughput if trial.offline else None
    doubt = " (not valid)" if invalidity(trial.offline) else ""
    phases = [phase.value for phase in trial.phases.values()]
    seconds = [value for value in phases if value is not None]
    shares = " · ".join(f"{value / sum(seconds):.0%}" for value in seconds) if len(seconds) == 3 else "–"
    cost = trial.cost
    return [
        markdown(trial.variant),
        f"{name} {printed(figure)}" if figure else "–",
        f"{printed(throughput).value} {printed(throughput).interval}{doubt}" if throughput else "–",
        shares,
        count(cost.parameters, "") if cost.parameters else "–",
        count(cost.flops, "") if cost.flops else "–",
    ]


def by_slice(group: SliceGroup, images: Path) -> Iterator[str]:
    """Draw the headline figure of each model on each part of the samples, and yield chart and table."""
    name = f"textbook-{group.benchmark}-{group.column.replace(' ', '-')}.svg"
    (images / name).write_text(vl_convert.vegalite_to_svg(slice_chart(group)), encoding="utf-8")
    yield f"![{group.metric} by {group.column}](images/{name})"
    yield ""
    rows = []
    for part in group.slices:
        shown = [printed(part.figures[variant]) for variant in group.variants]
        rows.append([markdown(part.slice), str(part.n), *(f"{one.value} {one.interval}" for one in shown)])
    yield from table([group.column, "n", *map(markdown, group.variants)], rows)


def slice_chart(group: SliceGroup) -> Spec:
    """Draw the figure with its interval for each slice and model."""
    rows = [
        {"slice": part.slice, "model": variant, "value": figure.value, "low": low, "high": high}
        for part in group.slices
        for variant, figure in part.figures.items()
        if is_defined(figure)
        for low, high in [bounds(figure)]
    ]
    base = alt.Chart(alt.NamedData(POINTS), width=460, height=200).encode(
        x=alt.X("slice:O", sort=None, title=group.column, axis=alt.Axis(labelAngle=0)),
        xOffset=alt.XOffset("model:N", sort=None),
        color=alt.Color("model:N", sort=None, legend=alt.Legend(title=None, orient="top")),
    )
    y = alt.Y("low:Q", title=group.metric, axis=alt.Axis(tickCount=5))
    rules = base.mark_rule(strokeWidth=1.5, opacity=0.7).encode(y=y, y2="high:Q")
    points = base.mark_point(filled=True, size=50, opacity=1).encode(y="value:Q")
    plot = alt.layer(rules, points).configure(**config(LIGHT))
    return {**plot.to_dict(), "datasets": {POINTS: rows}}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield a table without the columns that no row fills."""
    rows = list(rows)
    used = [index for index in range(len(head)) if any(row[index] != "–" for row in rows)]
    for row in [head, ["---"] * len(head), *rows]:
        yield "| " + " | ".join(row[index] for index in used) + " |"
    yield ""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="run directory of the suite `textbook`")
    parser.add_argument("docs", type=Path, help="folder of textbook.md and images/")
    arguments = parser.parse_args()
    text = page(read_results(arguments.run), arguments.docs / "images")
    (arguments.docs / "textbook.md").write_text(text, encoding="utf-8")
