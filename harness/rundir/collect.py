"""Run directory → results: a pure projection of what is on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from harness.errors import UsageError
from harness.files import read_json
from harness.metrics import speed
from harness.rundir.results import (
    CheckpointRecord,
    Cost,
    DatasetRecord,
    Failure,
    LatencyByLength,
    PairRecord,
    Results,
    RunRecord,
    Scenario,
    Skipped,
    Status,
    TrialRecord,
)
from harness.rundir.store import RunDirectory, TrialDirectory
from harness.statistics.holm import holm
from harness.task import Scores

_SCORES = TypeAdapter(dict[str, Scores])


def collect(path: Path) -> Results:
    """Everything the run directory knows, trials in the order of the plan.

    Raises:
        UsageError: not a run directory.
    """
    record = read_json(path / "run.json")
    if record is None:
        raise UsageError(f"{path}: not a run directory (it has no run.json)")
    directory = RunDirectory(path)
    trials = [_trial(entry, directory.trial(entry["id"])) for entry in record["trials"]]
    environments = {file.stem: read_json(file) for file in sorted((path / "environments").glob("*.json"))}
    return Results(
        schema="harness-results/1",
        suite=record["suite"],
        description=record["description"],
        run=RunRecord.model_validate(record["run"]),
        environments=environments,
        trials=trials,
        skipped=[Skipped.model_validate(entry) for entry in record["skipped"]],
        pairs=_pairs(record["trials"], trials, read_json(path / "pairs.json") or {}),
    )


def _pairs(
    entries: Sequence[dict[str, Any]],
    trials: Sequence[TrialRecord],
    compared: dict[str, list[dict[str, Any]]],
) -> list[PairRecord]:
    """Of the record's complete trials, by the headline of each metric; p adjusted within each family."""
    metrics = {entry["benchmark"]: entry["metrics"] for entry in entries}
    variants = {(trial.benchmark, trial.id): trial.variant for trial in trials if trial.status == "complete"}
    found: list[PairRecord] = []
    for benchmark, names in metrics.items():
        for metric in names:
            family = [
                {
                    "benchmark": benchmark,
                    "metric": figure,
                    "first": variants[benchmark, pair["first"]],
                    "second": variants[benchmark, pair["second"]],
                    **tested,
                }
                for pair in compared.get(benchmark, [])
                if {(benchmark, pair["first"]), (benchmark, pair["second"])} <= variants.keys()
                for figure, tested in list(pair["metrics"].get(metric, {}).items())[:1]
                if tested["p"] is not None
            ]
            adjusted = holm([pair["p"] for pair in family])
            found += [PairRecord(**pair, p_adjusted=p) for pair, p in zip(family, adjusted, strict=True)]
    return found


def _trial(entry: dict[str, Any], directory: TrialDirectory) -> TrialRecord:
    spec = read_json(directory.path / "trial.json") or {}
    size = entry["dataset"]["size"]
    failures = [Failure.model_validate(f) for f in read_json(directory.path / "error.json") or []]
    scored = read_json(directory.path / "metrics.json") or {}
    scores = _SCORES.validate_python(
        {
            name: {part: scored[name][part] for part in ("metrics", "per_class")}
            for name in entry["metrics"]
            if name in scored
        }
    )
    measured = read_json(directory.path / "speed" / "common.json") or {}
    todo = sum(stop - start for start, stop in directory.todo(size))
    status, reason = _status(size, todo, failures, scores.keys() >= set(entry["metrics"]))
    if status != "complete":
        scores = {}
    checkpoint = entry["checkpoint"]
    made = directory.made()
    batch_size = spec.get("batch_size", 0)
    return TrialRecord(
        id=entry["id"],
        benchmark=entry["benchmark"],
        task=entry["task"],
        adapter=entry["adapter"],
        variant=entry["variant"],
        settings={key: spec.get(key) for key in ("precision", "batch_size", "device", "options", "code")},
        dataset=DatasetRecord.model_validate(entry["dataset"]),
        checkpoint=CheckpointRecord(**{k: checkpoint[k] for k in ("name", "sha256", "recipe")})
        if checkpoint
        else None,
        status=status,
        reason=reason,
        failures=failures,
        environments=sorted({how.get("environment", "unknown") for how in made.values()}),
        halved=sum(
            stop - start
            for (start, stop), how in made.items()
            if int(how.get("batch_size", batch_size)) < batch_size
        ),
        metrics={name: figure for each in scores.values() for name, figure in each.metrics.items()},
        per_class=_per_class(scores),
        speed={name: found for name in entry["scenarios"] if (found := scenario(directory, name))},
        phases={
            phase: speed.mean_duration(seconds, phase)
            for phase, seconds in measured.get("phases", {}).items()
        },
        cost=Cost(
            **measured.get("cost", {}),
            checkpoint_bytes=checkpoint["bytes"] if checkpoint else None,
        ),
    )


def _per_class(scores: dict[str, Scores]) -> dict[str, dict[str, float | None]]:
    """Class figures of all metrics; a name that several metrics give stands once for each, as `voc10/ap`."""
    names = {
        metric: {name for values in found.per_class.values() for name in values}
        for metric, found in scores.items()
    }
    givers = Counter(name for own in names.values() for name in own)
    merged: dict[str, dict[str, float | None]] = {}
    for metric, found in scores.items():
        for label, values in found.per_class.items():
            merged.setdefault(label, {}).update(
                {name if givers[name] == 1 else f"{metric}/{name}": value for name, value in values.items()}
            )
    return merged


def _status(size: int, todo: int, failures: list[Failure], scored: bool) -> tuple[Status, str | None]:
    """Failure is a state, not a score."""
    if todo == 0 and scored:
        return "complete", None
    if not failures:
        return "pending", f"{todo} of {size} predictions are still to be made" if todo else "not scored yet"
    reason = f"{todo} of {size} predictions are missing; first error: {failures[0].error}"
    return ("failed" if todo == size else "partial"), reason


def scenario(directory: TrialDirectory, name: str) -> Scenario | None:
    """Figures of one scenario from its raw measurements; None where it was not measured."""
    raw = read_json(directory.path / "speed" / f"{name}.json")
    if raw is None:
        return None
    processes = raw["processes"]
    reasons = sorted({reason for process in processes for reason in process["reasons"]})
    if "error" in raw:
        reasons.append(raw["error"])
    common = {
        "environment": raw["environment"],
        "profile": raw["settings"]["profile"],
        "batch_size": raw["batch_size"],
        "threads": raw["settings"]["effective_threads"],
        "processes": len(processes),
        "valid": not reasons,
        "reasons": reasons,
        "timed_on": [process["timed_on"] for process in processes if "timed_on" in process],
    }
    if not processes:
        return Scenario(**common, queries=0, seconds=0.0)
    if name == "offline":
        windows = [[(int(n), float(s)) for n, s in process["windows"]] for process in processes]
        figure = speed.throughput(windows)
        seconds = sum(s for process in windows for _, s in process)
        queries = round(figure.n / raw["batch_size"])
        rates = {unit: speed.in_units(figure, counts, unit) for unit, counts in raw.get("units", {}).items()}
        return Scenario(**common, queries=queries, seconds=seconds, throughput=figure, rates=rates)
    latencies = [[ns / 1e9 for ns in process["latencies_ns"]] for process in processes]
    percentiles = {f"p{p:g}": speed.latency(p, latencies) for p in speed.PERCENTILES}
    queries, seconds = sum(map(len, latencies)), sum(map(sum, latencies))
    lengths = raw.get("units", {}).get("source_tokens")
    by_length = []
    if lengths:
        by_length = speed.median_by_length(latencies, [process["indices"] for process in processes], lengths)
    return Scenario(
        **common,
        queries=queries,
        seconds=seconds,
        latency=percentiles,
        latency_by_length=[
            LatencyByLength(shortest=shortest, longest=longest, median=median)
            for shortest, longest, median in by_length
        ],
    )
