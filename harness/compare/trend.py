"""Figures of many runs in order of time: what a trend is drawn from, whether from disk or from MLflow."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from harness.environment import hardware_name
from harness.identity import content_id
from harness.rundir.results import Results, TrialRecord, read_results
from harness.task import Figure, TaskName

Kind = Literal["accuracy", "speed"]


@dataclass(frozen=True)
class PastRun:
    """One run of the past."""

    id: str
    suite: str
    started: str
    """ISO 8601, UTC."""
    revision: str | None
    branch: str | None
    source: str
    """Run directory, or MLflow's id of the run."""


@dataclass(frozen=True)
class Observation:
    """A figure of one trial in one run."""

    task: TaskName
    benchmark: str
    variant: str
    kind: Kind
    name: str
    figure: Figure
    conditions: str
    """Hash of what is equal on one line: samples and signature, or machine and settings."""
    setting: str
    """The same in words: the data set, or the machine."""


@dataclass(frozen=True)
class Moment:
    """An observation's place in time."""

    run: PastRun
    figure: Figure


@dataclass(frozen=True)
class Line:
    """One figure of one trial, over the runs in which it is comparable."""

    task: TaskName
    benchmark: str
    variant: str
    kind: Kind
    name: str
    setting: str
    moments: tuple[Moment, ...]


def read_history(run_dirs: Iterable[Path]) -> list[Line]:
    """The lines of run directories.

    Raises:
        UsageError: one is not a run directory.
    """
    found = []
    for path in run_dirs:
        results = read_results(path)
        found.append((past_run(results, str(path)), list(observations(results))))
    return lines(found)


def past_run(results: Results, source: str) -> PastRun:
    """What a trend says of a run."""
    run = results.run
    return PastRun(run.id, results.suite, run.started, run.git_revision, run.git_branch, source)


def observations(results: Results) -> Iterator[Observation]:
    """The headline figure, throughput and median latency of every complete trial, where valid and defined."""
    for trial in results.trials:
        if trial.status != "complete":
            continue
        about = (trial.task, trial.benchmark, trial.variant)
        for kind, name, figure, conditions, setting in _figures(results, trial):
            if figure.value is not None:
                yield Observation(*about, kind, name, figure, content_id(conditions), setting)


def lines(runs: Iterable[tuple[PastRun, Sequence[Observation]]]) -> list[Line]:
    """Observations by what they are of, each line in order of time; lines in order of first appearance."""
    found: dict[tuple[TaskName, str, str, Kind, str, str, str], list[Moment]] = {}
    for run, seen in sorted(runs, key=lambda each: each[0].started):
        for each in seen:
            trial = (each.task, each.benchmark, each.variant)
            key = (*trial, each.kind, each.name, each.setting, each.conditions)
            found.setdefault(key, []).append(Moment(run, each.figure))
    return [
        Line(task, benchmark, variant, kind, name, setting, tuple(moments))
        for (task, benchmark, variant, kind, name, setting, _), moments in found.items()
    ]


def to_text(seen: Iterable[Observation]) -> str:
    """JSON of observations, short enough for MLflow's tags."""
    return json.dumps([list(asdict(each).values()) for each in seen], ensure_ascii=False)


def from_text(text: str) -> list[Observation]:
    """The inverse of `to_text`."""
    return [
        Observation(task, benchmark, variant, kind, name, Figure(**figure), conditions, setting)
        for task, benchmark, variant, kind, name, figure, conditions, setting in json.loads(text)
    ]


def _figures(results: Results, trial: TrialRecord) -> Iterator[tuple[Kind, str, Figure, list[Any], str]]:
    data = trial.dataset
    for name, figure in list(trial.metrics.items())[:1]:
        samples = [data.fingerprint, data.split, data.size, figure.signature]
        yield "accuracy", name, figure, samples, f"{data.name} {data.split}, {data.size} samples"
    for name, scenario in trial.speed.items():
        measured = scenario.throughput if name == "offline" else scenario.latency.get("p50")
        if not scenario.valid or measured is None:
            continue
        machine = results.environments.get(scenario.environment, {})
        described = {"gpus", "cpu", "cores"} <= machine.keys()
        setting = hardware_name(machine) if described else scenario.environment
        settings = [scenario.profile, scenario.batch_size, scenario.threads]
        conditions = [machine.get("host"), setting, *settings]
        label = "throughput" if name == "offline" else "latency p50"
        yield "speed", f"{name} {label}", measured, conditions, f"{setting}, {scenario.profile}"
