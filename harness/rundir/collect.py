"""Derive results.json from the other files of a run directory."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from harness.environment import Environment
from harness.errors import UsageError
from harness.files import read_record
from harness.rundir import speed
from harness.rundir.prediction_shards import Range, ShardProvenance
from harness.rundir.records import (
    ClaimsFile,
    MetricRecord,
    PairsFile,
    PlannedTrial,
    RunFile,
    SlicesFile,
    TrialSpec,
)
from harness.rundir.results import (
    ArtefactRecord,
    CheckpointRecord,
    Failure,
    Results,
    RunRecord,
    Status,
    TrialRecord,
)
from harness.rundir.store import RunDirectory, TrialDirectory
from harness.task import Figure


def collect(path: Path) -> Results:
    """Return the results of a run directory, with trials in the order of the plan."""
    directory = RunDirectory(path)
    run_file = read_record(directory.run_file, RunFile)
    if run_file is None:
        raise UsageError(f"{path}: not a run directory (it has no run.json)")
    environments = _environments(path / "environments")
    trials = [
        _trial(planned, directory.trial(planned.id), run_file.run, environments)
        for planned in run_file.trials
    ]
    pairs = read_record(path / "pairs.json", PairsFile)
    slices = read_record(path / "slices.json", SlicesFile)
    claims = read_record(path / "claims.json", ClaimsFile)
    return Results(
        schema="harness-results/3",
        suite=run_file.suite,
        description=run_file.description,
        run=run_file.run,
        environments=environments,
        trials=trials,
        skipped=list(run_file.skipped),
        pairs=[record for part in pairs.root.values() for record in part.pairs] if pairs else [],
        slices=[record for part in slices.root.values() for record in part.slices] if slices else [],
        claims=list(claims.root) if claims else [],
    )


def _environments(folder: Path) -> dict[str, Environment]:
    """Return the environments of a run by their keys, which are the names of the files."""
    records = {file.stem: read_record(file, Environment) for file in sorted(folder.glob("*.json"))}
    return {key: record for key, record in records.items() if record is not None}


def _trial(
    planned: PlannedTrial,
    directory: TrialDirectory,
    run: RunRecord,
    environments: Mapping[str, Environment],
) -> TrialRecord:
    spec = directory.read_spec()
    failures = directory.read_failures()
    scored = directory.read_metrics()
    scores = {name: scored[name] for name in planned.metrics if name in scored}
    size = planned.dataset.size
    missing = directory.predictions.count_missing(size)
    status, reason = _status(size, missing, failures, scores.keys() >= set(planned.metrics))
    if status != "complete":
        scores = {}
    checkpoint = planned.checkpoint
    provenance = directory.predictions.provenance()
    artefacts = _artefacts(provenance.values())
    return TrialRecord(
        id=planned.id,
        benchmark=planned.benchmark,
        task=planned.task,
        adapter=planned.adapter,
        variant=planned.variant,
        settings=_settings(spec),
        dataset=planned.dataset,
        checkpoint=checkpoint and CheckpointRecord(**checkpoint.model_dump(exclude={"bytes"})),
        artefacts=artefacts,
        status=status,
        reason=reason,
        failures=failures,
        environments=sorted({shard.environment for shard in provenance.values()}),
        mixed=_mixed(provenance.values(), environments),
        halved=_halved(provenance, spec.batch_size),
        metrics={name: figure for record in scores.values() for name, figure in record.metrics.items()},
        per_class=_per_class(scores),
        turns=speed.turns(directory.path, planned.scenarios),
        speed=speed.scenarios(directory.path, planned.scenarios, run, spec.batch_size),
        phases=speed.phases(directory.path),
        cost=speed.cost(
            directory.path,
            checkpoint.bytes if checkpoint else None,
            sum(artefact.bytes for artefact in artefacts) or None,
            next((shard.parameters for shard in provenance.values() if shard.parameters is not None), None),
        ),
    )


def _settings(spec: TrialSpec) -> dict[str, object]:
    names = ("backend", "precision", "batch_size", "device", "options", "code")
    further = spec.model_dump(include={"threads", "calibration"}, exclude_none=True)
    return {name: getattr(spec, name) for name in names} | further


def _artefacts(shards: Iterable[ShardProvenance]) -> list[ArtefactRecord]:
    """Return the files that the backend executed; `mixed` says if those of other shards differ."""
    texts = sorted({shard.artefacts for shard in shards if shard.artefacts})
    return [ArtefactRecord.model_validate(record) for record in json.loads(texts[0])] if texts else []


def _mixed(shards: Iterable[ShardProvenance], environments: Mapping[str, Environment]) -> list[str]:
    """Return the software and settings that differ between shards, such as `pillow 10.3.0 and 11.1.0`."""
    values: dict[str, set[str]] = {}
    for key, flags, artefacts in {(shard.environment, shard.flags, shard.artefacts) for shard in shards}:
        machine = environments.get(key)
        software = {"python": machine.python, **machine.packages} if machine else {}
        settings = dict(flag.split("=", 1) for flag in flags.split())
        digests = {f"artefact {file['name']}": file["sha256"] for file in json.loads(artefacts or "[]")}
        for name, value in {**software, **settings, **digests}.items():
            values.setdefault(name, set()).add(value)
    return [
        f"{name} {' and '.join(sorted(numbers))}"
        for name, numbers in sorted(values.items())
        if len(numbers) > 1
    ]


def _halved(provenance: Mapping[Range, ShardProvenance], batch_size: int) -> int:
    """Count the samples that were predicted in batches below the trial's size."""
    return sum(
        stop - start
        for (start, stop), shard in provenance.items()
        if shard.batch_size is not None and shard.batch_size < batch_size
    )


def _per_class(scores: Mapping[str, MetricRecord]) -> dict[str, dict[str, Figure]]:
    """Merge the class figures of all metrics: class → name → figure.

    If several metrics have a figure, its name is prefixed with the metric, as in `voc10/ap`.
    """
    names = {
        metric: {name for values in record.per_class.values() for name in values}
        for metric, record in scores.items()
    }
    occurrences = Counter(name for metric_names in names.values() for name in metric_names)
    merged: dict[str, dict[str, Figure]] = {}
    for metric, record in scores.items():
        for label, values in record.per_class.items():
            merged.setdefault(label, {}).update(
                {
                    name if occurrences[name] == 1 else f"{metric}/{name}": value
                    for name, value in values.items()
                }
            )
    return merged


def _status(size: int, missing: int, failures: list[Failure], scored: bool) -> tuple[Status, str | None]:
    """Return a trial's status, and the reason unless it is complete."""
    if missing == 0 and scored:
        return "complete", None
    if not failures:
        return "pending", f"{missing} of {size} predictions are missing" if missing else "not scored yet"
    reason = f"{missing} of {size} predictions are missing; first error: {failures[0].error}"
    return ("failed" if missing == size else "partial"), reason
