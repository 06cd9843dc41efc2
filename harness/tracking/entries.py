"""The contents of each MLflow run, as a pure function of the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from harness.compare.frontier import FRONTIER_MARK, FrontierChange, frontier_charts, points, why_not_charted
from harness.compare.trend import observations, to_text
from harness.rundir.results import Results, TrialRecord
from harness.tracking.names import RANK, RUN_NAME, TAG, cut, flat, key, readable
from harness.tracking.values import headlines, metrics_of, params_of

Curve = list[tuple[int, float]]  # (step, value)
TREND = "harness.trend-2."  # the number is that of the form of `Observation`
DISTRUST = "⚠"  # marks a trial with a timing that is not valid
NOT_COMPARED = "not compared"
_STATUS = {"complete": "FINISHED", "partial": "FAILED", "failed": "FAILED", "pending": "KILLED"}


@dataclass(frozen=True)
class Entry:
    """One MLflow run. It is found by the tags in `identity`."""

    identity: Mapping[str, str]
    status: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    series: Mapping[str, Curve] = field(default_factory=dict)


def run_entry(results: Results, ranked: Sequence[str], compared: Mapping[str, Any]) -> Entry:
    """Return the entry of the parent run.

    Args:
        ranked: the `ranks` of the trials.
        compared: the content of compare.json, or empty if nothing was compared.
    """
    from reports.markdown import to_markdown
    from reports.text import display, markdown
    from reports.verdict import verdict

    run = results.run
    changes = [FrontierChange(**fields) for fields in compared.get("frontier", ())]
    moved = "; ".join(f"{change.benchmark} {change.describe()}" for change in changes)
    outcome = compared.get("outcome", NOT_COMPARED)
    started = datetime.fromisoformat(run.started).astimezone(UTC)
    name = [results.suite, f"{started.day} {started:%b %H:%M}", (run.git_revision or "")[:7]]
    choice = "; ".join(
        f"{FRONTIER_MARK} {chart.benchmark}: {', '.join(map(readable, chart.frontier()))}"
        for chart in frontier_charts(results)
        if chart.frontier()
    )
    note = f"**Best trade-offs: {markdown(choice or 'none', 800)}**\n\n"
    note += to_markdown(results, limit=TAG - 2000)
    if compared:
        note += f"\nAgainst the baseline: **{outcome}**; frontier: {markdown(moved or 'no chart', 400)}\n"
    complete = sum(trial.status == "complete" for trial in results.trials)
    status = "FINISHED" if complete == len(results.trials) else "FAILED"
    tags = _shared_tags(results, run.environment) | {
        RUN_NAME: display(" · ".join(filter(None, name)), 200),
        "status": verdict(results),
        RANK: choice,
        "executor": f"{run.executor}, {run.workers} workers",
        "command": run.command,
        "verdict": outcome,
        "frontier": moved or NOT_COMPARED,
        **{f"claim.{key(claim.name)}": claim.verdict for claim in results.claims},
        **_trend(results),
        "mlflow.note.content": note,
    }
    return Entry(
        identity={"harness.run_id": run.id, "harness.kind": "run"},
        status=status if run.finished else "RUNNING",
        tags=_within_limits(tags),
        params={},  # MLflow parameters never change, but these may when a run is resumed, so they are tags
        metrics={
            "trials/complete": float(complete),
            "trials/all": float(len(results.trials)),
            "trials/not_valid": float(sum(DISTRUST in rank for rank in ranked)),
            **headlines(results),
        },
    )


def ranks(results: Results) -> list[str]:
    """Return whether each trial is worth choosing, and why not, in the order of the trials."""
    charted = points(results)
    ranked = []
    for index, trial in enumerate(results.trials):
        point = charted.get(index)
        invalid = [name for name, record in trial.speed.items() if not record.valid]
        texts = [f"{DISTRUST} not valid: {', '.join(invalid)}"] if invalid else []
        if point is None or trial.status != "complete":
            texts.append(f"not ranked: {trial.reason or why_not_charted(trial)}")
        elif point.rank == "frontier":
            texts.insert(0, f"{point.mark} on the frontier")
        elif point.dominated_by:
            chance = f", on the frontier with {p:.0%}" if (p := point.probability or 0) >= 0.005 else ""
            texts.append(f"dominated by {readable(point.dominated_by)}{chance}")
        ranked.append("; ".join(texts))
    return ranked


def _trend(results: Results) -> dict[str, str]:
    """Return the run's observations for trends, split over tags, so that one request reads a page of runs."""
    text = to_text(observations(results))
    pieces = [text[start : start + TAG] for start in range(0, len(text), TAG)]
    return {f"{TREND}{number:03}": piece for number, piece in enumerate(pieces)}


def trial_entry(
    results: Results, trial: TrialRecord, parent: str, verdict: str, rank: str, training: str
) -> Entry:
    """Return the entry of a trial.

    Args:
        parent: the id of the parent run.
        verdict: the outcome of the last comparison for this trial.
        rank: one of `ranks`.
        training: the MLflow run of the training of its weights, as an address of MLflow's pages; or empty.
    """
    from reports.markdown import trial_to_markdown
    from reports.text import display, markdown

    mark = next((f"{sign} " for sign in (DISTRUST, FRONTIER_MARK) if sign in rank), "")
    environment = trial.environments[0] if trial.environments else results.run.environment
    tags = _shared_tags(results, environment) | {
        "mlflow.parentRunId": parent,
        "mlflow.runType": "evaluation",  # MLflow's table unfolds the parents of such runs
        RUN_NAME: display(f"{mark}{readable(trial.variant)} · {trial.benchmark}", 200),
        RANK: rank,
        "training": training,
        "verdict": verdict,
        "task": trial.task,
        "status": trial.status,
        "reason": trial.reason or "",
        "mixed": "; ".join(trial.mixed),
        "dataset.fingerprint": trial.dataset.fingerprint,
        "checkpoint.sha256": trial.checkpoint.sha256 if trial.checkpoint else "",
        "mlflow.note.content": f"**{markdown(rank, 300)}**\n\n"
        + (f"Weights: [how they were trained]({training})\n\n" if training else "")
        + trial_to_markdown(trial, limit=TAG - 1000),
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
        identity=_within_limits(identity),
        status=_STATUS[trial.status],
        tags=_within_limits(tags),
        params=params_of(trial),
        metrics=metrics_of(trial),
    )


def _within_limits(tags: Mapping[str, str]) -> dict[str, str]:
    return {name: cut(value, TAG) for name, value in tags.items()}


def _shared_tags(results: Results, environment: str) -> dict[str, str]:
    run = results.run
    record = results.environments.get(environment)
    described = record.model_dump(mode="json") if record else {}
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
        "host": record.host if record else environment,
        "hardware": record.hardware_name if record else environment,
        "gpu": record.gpus[0].name if record and record.gpus else "none",
        **{f"system.{key(name)}": cut(value, TAG) for name, value in flat(described)},
    }
