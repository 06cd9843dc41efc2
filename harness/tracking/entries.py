"""What each MLflow run is to hold: a pure function of the results."""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.compare.frontier import FrontierChange
from harness.compare.trend import observations, to_text
from harness.environment import hardware_name
from harness.rundir.results import Results, TrialRecord
from harness.task import Figure
from harness.tracking.series import Curve

# Limits of mlflow.utils.validation, version 3.17.
KEY, TAG, PARAM, EXPERIMENT, NAME, DIGEST = 250, 8000, 6000, 500, 500, 36
Trial = tuple[str, str]
"""(benchmark, variant)."""
WHOLE_RUN: Trial = ("", "")
TREND = "harness.trend."
NOT_COMPARED = "not compared"
_STATUS = {"complete": "FINISHED", "partial": "FAILED", "failed": "FAILED", "pending": "KILLED"}
_PHASES = {"preprocess": "pre", "model": "model", "postprocess": "post"}


@dataclass(frozen=True)
class Entry:
    """One MLflow run. `identity` are the tags it is found by."""

    identity: Mapping[str, str]
    name: str
    status: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    dataset: Input | None = None
    series: Mapping[str, Curve] = field(default_factory=dict)


@dataclass(frozen=True)
class Input:
    """A data set as MLflow lists it."""

    name: str
    digest: str
    source: str  # JSON
    size: int
    context: str


def run_entry(
    results: Results, verdict_on: Mapping[Trial, str], frontier: Sequence[Mapping[str, Any]] = ()
) -> Entry:
    """The parent run.

    Args:
        verdict_on: what `harness compare` found last, under `WHOLE_RUN`; empty if nothing was compared.
        frontier: its changes of the frontier, fields of `FrontierChange`.
    """
    from reports.markdown import to_markdown
    from reports.text import markdown
    from reports.verdict import verdict

    run = results.run
    moved = "; ".join(
        f"{each.benchmark} {each.describe()}" for each in (FrontierChange(**fields) for fields in frontier)
    )
    outcome = verdict_on.get(WHOLE_RUN, NOT_COMPARED)
    note = to_markdown(results, limit=TAG - 1000)
    if verdict_on:
        note += f"\nAgainst the baseline: **{outcome}**; frontier: {markdown(moved or 'no chart', 400)}\n"
    complete = sum(trial.status == "complete" for trial in results.trials)
    status = "FINISHED" if complete == len(results.trials) else "FAILED"
    tags = _shared_tags(results, run.environment) | {
        "status": verdict(results),
        "executor": f"{run.executor}, {run.workers} workers",
        "command": run.command,
        "verdict": outcome,
        "frontier": moved or NOT_COMPARED,
        **_trend(results),
        "mlflow.note.content": note,
    }
    return Entry(
        identity={"harness.run_id": run.id, "harness.kind": "run"},
        name=run.id,
        status=status if run.finished else "RUNNING",
        tags=_fitting(tags),
        params={},  # never change once written, and a resumed run may: they are tags
        metrics={"trials/complete": float(complete), "trials/all": float(len(results.trials))},
    )


def _trend(results: Results) -> dict[str, str]:
    """What a trend needs of the run, in as many tags as its length takes: a page of runs is one request."""
    text = to_text(observations(results))
    pieces = [text[start : start + TAG] for start in range(0, len(text), TAG)]
    return {f"{TREND}{number:03}": piece for number, piece in enumerate(pieces)}


def trial_entry(
    results: Results,
    trial: TrialRecord,
    parent: str,
    verdict_on: Mapping[Trial, str],
    series: Mapping[str, Curve],
) -> Entry:
    """A child of the MLflow run `parent`; `verdict_on` as in `run_entry`, by benchmark and variant."""
    from reports.markdown import trial_to_markdown
    from reports.text import display

    machine = trial.environments[0] if trial.environments else results.run.environment
    tags = _shared_tags(results, machine) | {
        "mlflow.parentRunId": parent,
        "verdict": verdict_on.get((trial.benchmark, trial.variant), NOT_COMPARED),
        "task": trial.task,
        "status": trial.status,
        "reason": trial.reason or "",
        "dataset.fingerprint": trial.dataset.fingerprint,
        "checkpoint.sha256": trial.checkpoint.sha256 if trial.checkpoint else "",
        "mlflow.note.content": trial_to_markdown(trial, limit=TAG - 500),
    }
    for name, scenario in trial.speed.items():
        tags[f"speed.{key(name)}"] = (
            "valid" if scenario.valid else f"not valid: {'; '.join(scenario.reasons)}"
        )
    identity = {
        "harness.run_id": results.run.id,
        "harness.kind": "trial",
        "harness.trial_id": trial.id,
        "benchmark": trial.benchmark,
        "variant": trial.variant,
    }
    return Entry(
        identity=_fitting(identity),
        name=f"{display(trial.benchmark)} / {display(trial.variant)}",
        status=_STATUS[trial.status],
        tags=_fitting(tags),
        params=params_of(trial),
        metrics=metrics_of(trial),
        dataset=_input(trial),
        series=series,
    )


def _input(trial: TrialRecord) -> Input:
    data = trial.dataset
    described = {"dataset": data.name, "options": data.options, "split": data.split}
    source = json.dumps({"tags": described}, ensure_ascii=False)
    return Input(cut(data.name, NAME), data.fingerprint[:DIGEST], source, data.size, cut(data.split, NAME))


def metrics_of(trial: TrialRecord) -> dict[str, float]:
    """Metrics of a trial; keys are short because MLflow cuts column headings: `acc/map`, `speed/p50_ms`.

    Undefined and non-finite values are left out: MLflow cannot show them.
    """
    found: dict[str, float | None] = {}
    for name, figure in trial.metrics.items():
        found |= _with_bounds(f"acc/{key(name)}", figure)
    for name, scenario in trial.speed.items():
        prefix = "speed/" if name in ("offline", "single-stream") else f"speed/{key(name)}_"
        if scenario.throughput:
            found |= _with_bounds(f"{prefix}ips", scenario.throughput)
        for percentile, latency in scenario.latency.items():
            if latency:
                found |= _with_bounds(f"{prefix}{key(percentile)}_ms", latency, scale=1e3)
    for name, figure in trial.phases.items():
        found |= _with_bounds(f"phase/{_PHASES.get(name, key(name))}_ms", figure, scale=1e3)
    cost = trial.cost
    found["cost/params"] = cost.parameters
    found["cost/gflop"] = cost.flops and cost.flops / 1e9
    found["cost/peak_mb"] = cost.peak_memory_bytes and cost.peak_memory_bytes / 1e6
    found["cost/ckpt_mb"] = cost.checkpoint_bytes and cost.checkpoint_bytes / 1e6
    return {name: float(value) for name, value in found.items() if value is not None and math.isfinite(value)}


def params_of(trial: TrialRecord) -> dict[str, str]:
    """Settings and data of a trial, with dotted keys."""
    nested: dict[str, Any] = {
        "adapter": trial.adapter,
        **trial.settings,
        "dataset": trial.dataset.model_dump(include={"name", "split", "size", "options"}),
        "checkpoint": trial.checkpoint.name if trial.checkpoint else "none",
    }
    return {key(name): cut(value, PARAM) for name, value in _flat(nested)}


def columns(results: Results) -> list[str]:
    """The columns worth seeing first in MLflow's table of runs: each task's headline, then speed."""
    headlines = [f"acc/{key(next(iter(trial.metrics)))}" for trial in results.trials if trial.metrics]
    shown = [*headlines, "speed/ips", "speed/p50_ms", "cost/params"]
    return [*(f"metrics.`{name}`" for name in dict.fromkeys(shown)), "tags.`status`"]


def key(name: str) -> str:
    """A name as MLflow takes keys; one that had to be altered ends in a checksum, so that none collide."""
    plain = re.sub(r"[^A-Za-z0-9_\-. ]", "_", name).strip(". ")[: KEY - 50]
    return plain if plain == name else f"{plain}_{zlib.crc32(name.encode()):08x}"


def cut(value: object, limit: int) -> str:
    """At most `limit` characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _fitting(tags: Mapping[str, str]) -> dict[str, str]:
    return {name: cut(value, TAG) for name, value in tags.items()}


def _shared_tags(results: Results, environment: str) -> dict[str, str]:
    run = results.run
    machine = results.environments.get(environment, {})
    described = {"gpus", "cpu", "cores"} <= machine.keys()
    revision = run.git_revision or "none"
    return {
        "suite": results.suite,
        "profile": run.profile,
        "harness.version": run.harness_version,
        "git.revision": f"{revision} with local changes" if run.git_dirty else revision,
        "git.branch": run.git_branch or "none",
        "mlflow.source.name": "harness",
        "mlflow.source.git.commit": revision,
        "mlflow.source.git.branch": run.git_branch or "none",
        "host": str(machine.get("host", environment)),
        "hardware": hardware_name(machine) if described else environment,
        "gpu": str(machine["gpus"][0]["name"]) if machine.get("gpus") else "none",
        **{f"system.{key(name)}": cut(value, TAG) for name, value in _flat(machine)},
    }


def _with_bounds(name: str, figure: Figure, scale: float = 1) -> dict[str, float | None]:
    values = {name: figure.value, f"{name}_low": figure.low, f"{name}_high": figure.high}
    return {each: None if value is None else value * scale for each, value in values.items()}


def _flat(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in nested.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
