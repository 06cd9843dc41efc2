"""index.html: the report of a run as one file that needs no network."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from harness.environment import hardware_name
from harness.results import Results, Scenario, TrialRecord
from harness.task import TASKS, Figure
from reports import charts
from reports.figures import count, printed
from reports.frontier import comparisons, headline, throughput, why_not_charted
from reports.text import display
from reports.verdict import is_clean, verdict

_LONGEST = 4000  # characters shown of an error message or a command
_COST = {
    "parameters": "parameters",
    "flops": "FLOP a sample",
    "peak_memory_bytes": "B at peak",
    "checkpoint_bytes": "B of checkpoint",
}


def to_html(results: Results) -> str:
    """The page; every text from `results` is escaped and loses its invisible characters."""
    groups = comparisons(results)
    scripts = {
        "library": f"(() => {{{_library()}}})();",
        "script": f"(() => {{{_template('report.js')}}})();",
    }
    return (
        _environment()
        .get_template("index.html.j2")
        .render(
            results=results,
            verdict=verdict(results),
            clean=is_clean(results),
            comparisons=groups,
            frontier={p.trial.id for group in groups for p in group.points if p.standing == "frontier"},
            left_out={trial.id: why for trial in results.trials if (why := why_not_charted(trial))},
            numbers={trial.id: number for number, trial in enumerate(results.trials, start=1)},
            tasks={
                task: trials
                for task in TASKS
                if (trials := [trial for trial in results.trials if trial.task == task])
            },
            hardware=lambda key: _hardware(results, key),
            charts=Markup(_json_in_html([charts.chart(group, charts.PAGE, "container") for group in groups])),
            policy=Markup(_policy(scripts.values())),
            style=Markup(_template("style.css")),
            **{name: Markup(text) for name, text in scripts.items()},
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        loader=FunctionLoader(_template),
        finalize=lambda value: value if isinstance(value, Markup) else display(value, 500),
    )
    environment.filters.update(
        class_metrics=_class_metrics,
        class_value=lambda value: "undefined" if value is None else f"{value:.3f}",
        cost=_cost,
        count=count,
        headline=headline,
        lines=lambda text: Markup(escape(display(text, _LONGEST, lines=True))),
        machine_fact=_machine_fact,
        phase_shares=_phase_shares,
        printed=printed,
        short=display,
        sortable=lambda value: "" if value is None else repr(value),
        speed_figures=_speed_figures,
        throughput=throughput,
        tojson_text=lambda value: json.dumps(value, ensure_ascii=False),
    )
    return environment


def _template(name: str) -> str:
    return (files("reports") / "templates" / name).read_text(encoding="utf-8")


@cache
def _library() -> str:
    return charts.library()


def _json_in_html(document: Any) -> str:
    r"""JSON that no HTML parser mistakes for markup: `<` only ever occurs in strings, so it may be \u003c."""
    return json.dumps(document, allow_nan=False).replace("<", "\\u003c")


def _policy(scripts: Any) -> str:
    """Content-Security-Policy: our two scripts by their hash, no other script, nothing from a network."""
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src {allowed}"


def _hardware(results: Results, key: str) -> str:
    machine = results.environments.get(key, {})
    return hardware_name(machine) if {"gpus", "cpu", "cores"} <= machine.keys() else key


def _class_metrics(trial: TrialRecord) -> list[str]:
    return list(dict.fromkeys(name for values in trial.per_class.values() for name in values))


def _speed_figures(scenario: Scenario) -> dict[str, Figure | None]:
    first = {"throughput": scenario.throughput} if scenario.throughput else {}
    return {**first, **{f"latency {name}": figure for name, figure in scenario.latency.items()}}


def _phase_shares(trial: TrialRecord) -> list[str]:
    """Percent of the whole, by phase."""
    values = [figure.value or 0.0 for figure in trial.phases.values()]
    return [f"{100 * value / sum(values):.1f}" for value in values] if sum(values) else []


def _cost(trial: TrialRecord) -> str:
    known = {name: value for name, value in trial.cost.model_dump().items() if value is not None}
    return ", ".join(count(value, _COST[name]) for name, value in known.items()) or "not measured"


def _machine_fact(value: Any, name: str) -> str:
    if name.endswith("_bytes") and isinstance(value, int):
        return count(value, "B")
    if isinstance(value, dict):
        return ", ".join(f"{key} {_machine_fact(inner, key)}" for key, inner in value.items())
    if isinstance(value, list):
        return "; ".join(_machine_fact(inner, name) for inner in value) or "none"
    return str(value)
