"""Figures over many runs in order of time, from run directories or from MLflow."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from harness.compare.frontier import hardware_name
from harness.compare.outcome import FigureKind
from harness.identity import content_id
from harness.rundir.results import Results, TrialRecord
from harness.rundir.store import read_run
from harness.scenarios.scenario import SCENARIOS
from harness.task import Figure, TaskName

PENALTY = 18.0  # per change point, in variances of the noise; chosen by benchmarks/change_points.py
SHORTEST = 3  # runs between two change points, and after the last one
LEAST_NOISE = 1e-3  # of the figure; without a limit, every change of an accuracy that never varies is a step


@dataclass(frozen=True)
class PastRun:
    """One of the runs of a trend."""

    id: str
    suite: str
    started: str  # ISO 8601, UTC
    revision: str | None
    branch: str | None
    source: str  # run directory, or MLflow's run id


@dataclass(frozen=True)
class Observation:
    """One figure of one trial in one run."""

    task: TaskName
    benchmark: str
    variant: str
    figure_kind: FigureKind
    name: str
    conditions: str
    """Hash of what all points of a line share: samples and signature, or hardware and settings."""
    setting: str  # the conditions in words: the data set, or the hardware
    figure: Figure


@dataclass(frozen=True)
class TrendPoint:
    """The figure of one run on a line."""

    run: PastRun
    figure: Figure


@dataclass(frozen=True)
class Step:
    """A lasting change of a figure between two successive runs."""

    subject: Observation
    last: TrendPoint  # before the step
    first: TrendPoint  # after it
    before: float  # median of the points since the step before
    after: float  # median of the points until the next step

    def describe(self) -> str:
        """Return one line with the size of the step and the commits between which it lies."""
        trial = f"{self.subject.benchmark}/{self.subject.variant} {self.subject.name}"
        size = f" ({self.after / self.before - 1:+.1%})" if self.before else ""
        since, last = (point.run.revision or point.run.id for point in (self.first, self.last))
        moved = f"from {self.before:.4g} to {self.after:.4g}{size}".replace("-", "−")
        return f"{trial} {moved} since {since[:12]} of {self.first.run.started[:10]}, after {last[:12]}"


@dataclass(frozen=True)
class TrendLine:
    """One figure of one trial over the runs in which it is comparable, in order of time."""

    subject: Observation
    """The oldest observation; the others differ from it in run and figure only."""
    points: tuple[TrendPoint, ...]

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """Return the lasting changes of the figure, in order of time."""
        values = [point.figure.value for point in self.points if point.figure.value is not None]
        edges = [0, *change_points(values), len(values)]
        medians = [float(np.median(values[start:end])) for start, end in pairwise(edges)]
        return tuple(
            Step(self.subject, self.points[edge - 1], self.points[edge], before, after)
            for edge, (before, after) in zip(edges[1:-1], pairwise(medians), strict=True)
        )


def change_points(values: Sequence[float]) -> list[int]:
    """Return the indices at which a lasting change of a series begins.

    They minimise the squared distances from the means of the segments plus `PENALTY` per change (Killick et
    al. 2012), in variances of the noise, which is assumed to be independent and normal. It is estimated from
    differences between successive runs, and at least `LEAST_NOISE`. A value further from the running median
    of five than twice the noise is drawn to that distance, so that a single run is no step.
    """
    if len(values) < 2 * SHORTEST:
        return []
    import ruptures
    from scipy.ndimage import median_filter

    series = np.asarray(values, float) / (abs(float(np.median(values))) or 1.0)
    steps = np.diff(series)
    deviation = 1.4826 * float(np.median(np.abs(steps - np.median(steps))))  # normal noise has this sd
    series = series / max(deviation / math.sqrt(2), LEAST_NOISE)
    typical = median_filter(series, 5, mode="mirror")
    series = np.clip(series, typical - 2, typical + 2)
    search = ruptures.KernelCPD(kernel="linear", min_size=SHORTEST).fit(series[:, None])
    return [int(end) for end in search.predict(pen=PENALTY)[:-1]]


def read_trend(run_dirs: Iterable[Path]) -> list[TrendLine]:
    """Read the lines of several runs from their directories.

    Raises:
        UsageError: one is not a run directory.
    """
    runs = ((str(path), read_run(path, whole=False)) for path in run_dirs)
    return trend_lines([(past_run(results, path), list(observations(results))) for path, results in runs])


def past_run(results: Results, source: str) -> PastRun:
    """Return the data of a run that a trend shows."""
    run = results.run
    return PastRun(run.id, results.suite, run.started, run.git_revision, run.git_branch, source)


def observations(results: Results) -> Iterator[Observation]:
    """Yield the headline accuracy and the speeds of every complete trial, if valid and defined."""
    for trial in results.trials:
        if trial.status != "complete":
            continue
        for observation in _observe(results, trial):
            if observation.figure.value is not None:
                yield observation


def trend_lines(runs: Iterable[tuple[PastRun, Sequence[Observation]]]) -> list[TrendLine]:
    """Join observations of the same figure under the same conditions into lines.

    The points of a line are in order of time, the lines in order of their first point.
    """
    groups: dict[tuple[str, ...], list[tuple[PastRun, Observation]]] = defaultdict(list)
    for run, observed in sorted(runs, key=lambda item: item[0].started):
        for seen in observed:
            trial = (seen.task, seen.benchmark, seen.variant)
            groups[*trial, seen.figure_kind, seen.name, seen.setting, seen.conditions].append((run, seen))
    return [
        TrendLine(group[0][1], tuple(TrendPoint(run, seen.figure) for run, seen in group))
        for group in groups.values()
    ]


def to_text(observed: Iterable[Observation]) -> str:
    """Encode observations as JSON that is short enough for MLflow's tags."""
    return json.dumps([list(asdict(observation).values()) for observation in observed], ensure_ascii=False)


def from_text(text: str) -> list[Observation]:
    """Decode the observations of `to_text`."""
    return [Observation(*[*values[:-1], Figure(**values[-1])]) for values in json.loads(text)]


def _observe(results: Results, trial: TrialRecord) -> Iterator[Observation]:
    """Yield the headline accuracy of a trial, then the headline figure of each valid speed scenario."""
    data, observation = trial.dataset, partial(Observation, trial.task, trial.benchmark, trial.variant)
    for name, figure in list(trial.metrics.items())[:1]:
        conditions = content_id([data.fingerprint, data.split, data.size, figure.signature])
        setting = f"{data.name} {data.split}, {data.size} samples"
        yield observation("accuracy", name, conditions, setting, figure)
    for name, record in trial.speed.items():
        scenario = SCENARIOS.get(name)
        measured = scenario.headline(record)
        if not record.valid or measured is None:
            continue
        environment = results.environments.get(record.environment)
        hardware = hardware_name(results, record.environment)
        host = environment.host if environment else None
        conditions = content_id([host, hardware, record.profile, record.batch_size, record.threads])
        title = f"{name} {scenario.headline_name}"
        yield observation("speed", title, conditions, f"{hardware}, {record.profile}", measured)
