"""The values of a trial in MLflow: metrics, parameters and the columns to show first."""

import math
from collections.abc import Mapping
from typing import Any

from harness.rundir.results import Results, TrialRecord
from harness.scenarios.scenario import OFFLINE, SINGLE_STREAM
from harness.task import Figure
from harness.tracking.names import PARAM, RANK, VIEW, cut, flat, key, readable

SPEEDS = ("speed/ips", "speed/p50_ms", "speed/valid")
_SETTINGS = ("batch_size", "precision", "backend", "options.beam")
_WIDTHS = {"attributes.`Run Name`": 330, f"tags.`{RANK}`": 250}  # px
_PHASES = {"preprocess": "pre", "model": "model", "postprocess": "post"}


def metrics_of(trial: TrialRecord) -> dict[str, float]:
    """Return the metrics of a trial. Keys are short (`speed/p50_ms`), because MLflow cuts headings.

    Undefined and non-finite values are skipped, because MLflow cannot show them.
    """
    metrics: dict[str, float | None] = {}
    for name, figure in trial.metrics.items():
        metrics |= _with_bounds(f"acc/{key(name)}", figure)
    for name, scenario in trial.speed.items():
        # Another group, so that no table or chart ranks a timing that is not valid.
        group = "speed" if scenario.valid else "not_valid"
        prefix = f"{group}/" if name in (OFFLINE, SINGLE_STREAM) else f"{group}/{key(name)}_"
        for kind, figure in scenario.figures.items():
            label, scale = ("ips", 1.0) if kind == "throughput" else (f"{key(kind)}_ms", 1e3)
            metrics |= _with_bounds(f"{prefix}{label}", figure, scale)
    for name, figure in trial.phases.items():
        metrics |= _with_bounds(f"phase/{_PHASES.get(name, key(name))}_ms", figure, scale=1e3)
    if trial.speed:
        metrics["speed/valid"] = float(all(scenario.valid for scenario in trial.speed.values()))
    cost = trial.cost
    metrics["cost/params"] = cost.parameters
    metrics["cost/gflop"] = cost.flops and cost.flops / 1e9
    metrics["cost/peak_mb"] = cost.peak_memory_bytes and cost.peak_memory_bytes / 1e6
    metrics["cost/ckpt_mb"] = cost.checkpoint_bytes and cost.checkpoint_bytes / 1e6
    metrics["cost/artefact_mb"] = cost.artefact_bytes and cost.artefact_bytes / 1e6
    return {
        name: float(value) for name, value in metrics.items() if value is not None and math.isfinite(value)
    }


def headlines(results: Results) -> dict[str, float]:
    """Return headline accuracy, throughput and median latency of every trial, for the parent's MLflow run.

    `digit-detection/valid/yolo batch 16` is 0 if one of the trial's timings is not valid.
    """
    metrics = {}
    for trial in results.trials:
        of_trial = metrics_of(trial)
        for name in [*(f"acc/{key(metric)}" for metric in list(trial.metrics)[:1]), *SPEEDS]:
            if name in of_trial:
                parts = (trial.benchmark, name.rpartition("/")[2], readable(trial.variant, " "))
                metrics["/".join(key(part, 70) for part in parts)] = of_trial[name]
    return metrics


def params_of(trial: TrialRecord) -> dict[str, str]:
    """Return settings and data set of a trial under dotted keys."""
    nested: dict[str, object] = {
        "adapter": trial.adapter,
        **trial.settings,
        "dataset": trial.dataset.model_dump(include={"name", "split", "size", "options"}),
        "checkpoint": trial.checkpoint.name if trial.checkpoint else "none",
    }
    return {key(name): cut(value, PARAM) for name, value in flat(nested)}


def view(results: Results, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return a view of MLflow's table of runs, and of its charts: headlines, speed and what varies.

    The names are those of the page of MLflow 3.17.

    Args:
        known: the view stored before, which is extended.
    """
    trials = results.trials
    headline = dict.fromkeys(f"acc/{key(next(iter(trial.metrics)))}" for trial in trials if trial.metrics)
    settings = dict.fromkeys(
        name
        for trial in trials
        for name in params_of(trial)
        if name in _SETTINGS or f"{name.removeprefix('options.')}=" in trial.variant
    )
    columns = [f"tags.`{RANK}`", *(f"metrics.`{name}`" for name in (*headline, *SPEEDS)), "tags.`benchmark`"]
    columns += [*(f"params.`{name}`" for name in settings), "metrics.`cost/params`", "tags.`status`"]
    columns = list(dict.fromkeys([*known.get("selectedColumns", []), *columns]))
    charts = {chart["uuid"]: chart for chart in known.get("compareRunCharts", [])}
    for name in headline:
        axes = {"xaxis": {"key": SPEEDS[0], "type": "METRIC"}, "yaxis": {"key": name, "type": "METRIC"}}
        shape = {"type": "SCATTER", "metricSectionId": VIEW, "runsCountToCompare": 100, "isGenerated": False}
        charts[name] = {"uuid": name, "deleted": False, **shape, **axes}
    return {
        "selectedColumns": columns,
        "columnOrder": [*_WIDTHS, *columns, "runDateAndNestInfo", "duration"],
        "columnWidths": _WIDTHS,
        "compareRunCharts": list(charts.values()),
        "compareRunSections": [{"uuid": VIEW, "name": "Accuracy versus speed", "display": True}],
        "isAccordionReordered": True,  # otherwise sections are in alphabetical order
    }


def _with_bounds(name: str, figure: Figure, scale: float = 1) -> dict[str, float | None]:
    values = {name: figure.value, f"{name}_low": figure.low, f"{name}_high": figure.high}
    return {bound: None if value is None else value * scale for bound, value in values.items()}
