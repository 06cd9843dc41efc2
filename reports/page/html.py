"""index.html: the report of a run as one file without network access."""

import base64
import gzip
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from harness.compare import frontier
from harness.compare.sequential import turns_changes
from harness.rundir.results import Results, ScenarioRecord, TrialRecord
from harness.task import TASKS, Figure
from reports.figures import count, disturbances, invalidity
from reports.page import charts, filters, matrices
from reports.page.detail_charts import detail_charts
from reports.page.details import Detail, SideBySide
from reports.page.rows import equal_accuracy, table_rows
from reports.page.slices import slice_groups
from reports.page.templating import environment, template
from reports.verdict import invalid_timings, is_clean, verdict

_COST = {
    "parameters": "parameters",
    "flops": "FLOP per sample",
    "peak_memory_bytes": "B at peak",
    "checkpoint_bytes": "B of checkpoint",
    "artefact_bytes": "B of artefacts",
}


def to_html(
    results: Results,
    details: Sequence[Detail] = (),
    images: Mapping[str, str] = MappingProxyType({}),
    side_by_side: Sequence[SideBySide] = (),
) -> str:
    """Return the page. All text of a run is escaped, and its invisible characters are shown.

    Args:
        details: one per trial, as `read_details` returns them. Without them, the sections of trials show only
            the contents of results.json.
    """
    groups = frontier.frontier_charts(results)
    drawn = {
        f"comparison/{i}": charts.chart(group, charts.PAGE, "container") for i, group in enumerate(groups)
    }
    originals = equal_accuracy(results, details)
    rows = table_rows(results, originals)
    return render(
        "index.html.j2",
        drawn,
        packed=_packed(results, details, originals),
        results=results,
        verdict=verdict(results),
        clean=is_clean(results),
        comparisons=groups,
        invalid=invalid_timings(results),
        charted=frontier.points(results),
        filters=filters.filters(results),
        filter_names=filters.NAMES,
        members={member.index: member for row in rows for member in row.members},
        not_charted={
            task: [
                (t, why) for t in results.trials if t.task == task and (why := frontier.why_not_charted(t))
            ]
            for task in TASKS
        },
        tasks={
            task: rows_of_task
            for task in TASKS
            if (rows_of_task := [row for row in rows if row.members[0].trial.task == task])
        },
        caveat=frontier.CAVEAT,
        slices=slice_groups(results),
        side_by_side=side_by_side,
        images=images,
        hardware=lambda key: frontier.hardware_name(results, key),
    )


def _packed(results: Results, details: Sequence[Detail], originals: Mapping[int, int]) -> Markup:
    """Return the sections of all trials and their charts: gzipped JSON in base64.

    They are most of the page, and a reader opens few. The script unpacks them after the rest is drawn.
    """
    small = {
        f"{index}/{name}": chart
        for index, detail in enumerate(details)
        for name, chart in detail_charts(results.trials[index], detail).items()
    }
    template_of_trial = _environment().get_template("trial.html.j2")
    sections = [
        template_of_trial.render(
            trial=trial,
            index=index,
            detail=details[index] if details else None,
            original=originals[index] if originals[index] < index else None,
            trials=results.trials,
            drawn=small.keys(),
            hardware=lambda key: frontier.hardware_name(results, key),
        )
        for index, trial in enumerate(results.trials)
    ]
    content = json.dumps({"sections": sections, "charts": small}, allow_nan=False).encode()
    return Markup(base64.b64encode(gzip.compress(content, mtime=0)).decode())  # base64 needs no escape


def render(name: str, drawn: Mapping[str, charts.Spec], **context: Any) -> str:
    """Render a template. The `data-chart` attribute of an element names the chart that it shows."""
    texts = {"library": charts.library(), "script": template("report.js")}
    scripts = {key: f"(() => {{{text}}})();" for key, text in texts.items()}
    template_of_page = _environment().get_template(name)
    return template_of_page.render(
        charts=Markup(_json_in_html(drawn)),
        drawn=drawn.keys(),
        policy=Markup(_policy(scripts.values())),
        style=Markup(template("style.css")),
        **{key: Markup(text) for key, text in scripts.items()},
        **context,
    )


@cache
def _environment() -> Environment:
    made = environment()
    made.globals.update(confusion_matrix=matrices.confusion, readable_classes=matrices.READABLE_CLASSES)
    made.filters.update(
        class_metrics=_class_metrics,
        heat_map=matrices.heat_map,
        confidence=lambda value: f"{value:.2f}".removeprefix("0"),
        cost=_cost,
        count=count,
        disturbances=disturbances,
        invalidity=invalidity,
        data=Markup,  # data URIs of images, base64 only
        headline=frontier.headline,
        largest_confusions=matrices.largest,
        machine_fact=_machine_fact,
        milliseconds=lambda seconds: f"{1e3 * seconds:.4g} ms",
        phase_shares=_phase_shares,
        score=lambda value: f"{value:.2f}",
        speed_figures=_speed_figures,
        turns_changes=lambda turns: list(turns_changes(turns)),
        tojson_text=lambda value: json.dumps(value, ensure_ascii=False),
    )
    return made


def _json_in_html(document: object) -> str:
    r"""Return JSON that is safe in HTML: `<` occurs only in strings, where \u003c means the same."""
    return json.dumps(document, allow_nan=False).replace("<", "\\u003c")


def _policy(scripts: Iterable[str]) -> str:
    """Return a Content-Security-Policy that allows two scripts by hash and embedded images only."""
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed}"


def _class_metrics(trial: TrialRecord) -> list[str]:
    return list(dict.fromkeys(name for values in trial.per_class.values() for name in values))


def _speed_figures(scenario: ScenarioRecord) -> dict[str, Figure | None]:
    throughput = {"throughput": scenario.throughput} if scenario.throughput else {}
    latencies = {f"latency {name}": figure for name, figure in scenario.latency.items()}
    rates = {name.replace("_", " "): figure for name, figure in scenario.rates.items()}
    energy = {"energy per sample": scenario.energy} if scenario.energy else {}
    return {**throughput, **rates, **latencies, **energy}


def _phase_shares(trial: TrialRecord) -> list[str]:
    """Return the percentage of the total time that each phase takes."""
    values = [figure.value or 0.0 for figure in trial.phases.values()]
    return [f"{100 * value / sum(values):.1f}" for value in values] if sum(values) else []


def _cost(trial: TrialRecord) -> str:
    known = {name: value for name, value in trial.cost.model_dump().items() if value is not None}
    return ", ".join(count(value, _COST[name]) for name, value in known.items()) or "not measured"


def _machine_fact(value: object, name: str) -> str:
    if name.endswith("_bytes") and isinstance(value, int):
        return count(value, "B")
    if isinstance(value, dict):
        return ", ".join(f"{key} {_machine_fact(inner, key)}" for key, inner in value.items())
    if isinstance(value, list):
        return "; ".join(_machine_fact(inner, name) for inner in value) or "none"
    return str(value)
