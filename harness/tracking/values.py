"""The values of a trial in MLflow: metrics, parameters, the columns to show first, and timings as curves."""

import math
from pathlib import Path

from harness.rundir.results import Results, TrialRecord
from harness.rundir.speed import read_timings
from harness.scenarios.scenario import OFFLINE, SCENARIOS, SINGLE_STREAM
from harness.task import Figure
from harness.tracking.names import PARAM, cut, flat, key

MOST = 1000  # points per curve: the limit of one request, and more than the pixels of its chart
Curve = list[tuple[int, float]]  # (step, value)
_PHASES = {"preprocess": "pre", "model": "model", "postprocess": "post"}


def metrics_of(trial: TrialRecord) -> dict[str, float]:
    """Return the metrics of a trial. Keys are short (`speed/p50_ms`), because MLflow cuts headings.

    Undefined and non-finite values are skipped, because MLflow cannot show them.
    """
    metrics: dict[str, float | None] = {}
    for name, figure in trial.metrics.items():
        metrics |= _with_bounds(f"acc/{key(name)}", figure)
    for name, scenario in trial.speed.items():
        prefix = "speed/" if name in (OFFLINE, SINGLE_STREAM) else f"speed/{key(name)}_"
        for kind, figure in scenario.figures.items():
            label, scale = ("ips", 1.0) if kind == "throughput" else (f"{key(kind)}_ms", 1e3)
            metrics |= _with_bounds(f"{prefix}{label}", figure, scale)
    for name, figure in trial.phases.items():
        metrics |= _with_bounds(f"phase/{_PHASES.get(name, key(name))}_ms", figure, scale=1e3)
    cost = trial.cost
    metrics["cost/params"] = cost.parameters
    metrics["cost/gflop"] = cost.flops and cost.flops / 1e9
    metrics["cost/peak_mb"] = cost.peak_memory_bytes and cost.peak_memory_bytes / 1e6
    metrics["cost/ckpt_mb"] = cost.checkpoint_bytes and cost.checkpoint_bytes / 1e6
    return {
        name: float(value) for name, value in metrics.items() if value is not None and math.isfinite(value)
    }


def params_of(trial: TrialRecord) -> dict[str, str]:
    """Return settings and data set of a trial under dotted keys."""
    nested: dict[str, object] = {
        "adapter": trial.adapter,
        **trial.settings,
        "dataset": trial.dataset.model_dump(include={"name", "split", "size", "options"}),
        "checkpoint": trial.checkpoint.name if trial.checkpoint else "none",
    }
    return {key(name): cut(value, PARAM) for name, value in flat(nested)}


def columns(results: Results) -> list[str]:
    """Return the columns to show first in MLflow's table of runs: headline metrics, then speed."""
    headlines = [f"acc/{key(next(iter(trial.metrics)))}" for trial in results.trials if trial.metrics]
    shown = [f"metrics.`{name}`" for name in dict.fromkeys(headlines)]
    for metric, scenario in (("ips", OFFLINE), ("p50_ms", SINGLE_STREAM)):
        shown += [f"metrics.`speed/{metric}`", f"tags.`speed.{scenario}`"]  # the tag says whether it is valid
    return [*shown, "metrics.`cost/params`", "tags.`status`"]


def _with_bounds(name: str, figure: Figure, scale: float = 1) -> dict[str, float | None]:
    values = {name: figure.value, f"{name}_low": figure.low, f"{name}_high": figure.high}
    return {bound: None if value is None else value * scale for bound, value in values.items()}


def series(trial_dir: Path) -> dict[str, Curve]:
    """Return one curve of raw timings per scenario of a trial, its processes one after another.

    It shows warm-up and disturbances. Longer curves are thinned: every k-th point is kept, with its step.
    """
    curves = {}
    for scenario in SCENARIOS.entries():
        timings = read_timings(trial_dir, scenario)
        if timings is not None and timings.processes:
            name, values = timings.curve()
            curves[f"series/{name}"] = list(enumerate(values))[:: -(-len(values) // MOST)]
    return curves
