"""Which trials may be compared, and which of them are worth choosing: accuracy against throughput."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from harness.environment import hardware_name
from harness.results import Results, Scenario, TrialRecord, is_defined
from harness.task import Figure, TaskName

Standing = Literal["frontier", "dominated", "unranked"]


@dataclass(frozen=True)
class Point:
    """A trial with a place in the plane."""

    trial: TrialRecord
    accuracy: Figure  # higher is better
    throughput: Figure  # samples/s, offline
    scenario: Scenario
    standing: Standing


@dataclass(frozen=True)
class Comparison:
    """Trials whose accuracy is the same metric on the same samples, timed on the same hardware."""

    task: TaskName
    benchmark: str
    dataset: str
    metric: str
    unit: str
    hardware: str
    points: tuple[Point, ...]
    signature: tuple[str, ...]
    """What is equal for all points: benchmark, samples, metric and hardware."""

    def frontier(self) -> list[str]:
        """The variants on it, in the order of the trials."""
        return [point.trial.variant for point in self.points if point.standing == "frontier"]


@dataclass(frozen=True)
class FrontierChange:
    """What became of a frontier since a baseline: by point values, whatever their intervals."""

    benchmark: str
    metric: str
    hardware: str
    frontier: tuple[str, ...] = ()
    """The variants on it now."""
    joined: tuple[str, ...] = ()
    """Those of them that were not on it before."""
    left: tuple[str, ...] = ()
    """Those that were: dominated now, or no longer ranked."""
    untold: str = ""
    """Why nothing can be said; empty where it can."""

    @property
    def changed(self) -> bool:
        return bool(self.joined or self.left)

    def describe(self) -> str:
        """`unchanged`, `changed: joined a; left b`, or why that cannot be told."""
        if self.untold:
            return f"cannot be told: {self.untold}"
        if not self.changed:
            return "unchanged"
        moves = (("joined", self.joined), ("left", self.left))
        return "changed: " + "; ".join(f"{verb} {', '.join(names)}" for verb, names in moves if names)


def headline(trial: TrialRecord) -> tuple[str, Figure] | None:
    """Name and figure of the first metric; None if nothing was scored."""
    return next(iter(trial.metrics.items()), None)


def throughput(trial: TrialRecord) -> Figure | None:
    """Samples/s of the offline scenario; None if it was not measured."""
    return trial.speed["offline"].throughput if "offline" in trial.speed else None


def why_not_charted(trial: TrialRecord) -> str | None:
    """What a trial lacks to be a point; None if it is one."""
    first = headline(trial)
    if first is None:
        return f"{trial.status}, no metrics"
    if not is_defined(first[1]):
        return f"{first[0]} undefined"
    speed = throughput(trial)
    if speed is None or speed.value is None or not is_defined(speed) or speed.value <= 0:
        return "no offline throughput"
    return None


def machine(results: Results, environment: str) -> str:
    """One line on the machine behind a key of `environments`; the key where that cannot be said."""
    try:
        return hardware_name(results.environments[environment])
    except (KeyError, TypeError):  # a document made elsewhere may describe its machines otherwise
        return environment


def comparisons(results: Results) -> list[Comparison]:
    """The charts of a run, in the order of its trials."""
    groups: dict[tuple[str, ...], list[TrialRecord]] = defaultdict(list)
    for trial in results.trials:
        first, speed = headline(trial), trial.speed.get("offline")
        if first is None or speed is None or why_not_charted(trial):
            continue
        name, figure = first
        hardware = machine(results, speed.environment)
        data = trial.dataset
        key = (trial.benchmark, data.fingerprint, data.split, name, figure.signature, hardware)
        groups[trial.task, *key].append(trial)
    return [_comparison(trials, key[1:]) for key, trials in groups.items()]


def frontier_changes(base: Results, head: Results) -> tuple[FrontierChange, ...]:
    """One a chart of `head`, then one a chart that only `base` has."""
    before = {chart.signature: chart for chart in comparisons(base)}
    after = {chart.signature: chart for chart in comparisons(head)}
    found = []
    for signature in dict.fromkeys([*after, *before]):
        old, new = before.get(signature), after.get(signature)
        shown = new or before[signature]
        about = (shown.benchmark, shown.metric, shown.hardware)
        if old is None or new is None:
            where = "baseline" if old is None else "run"
            untold = f"the {where} has no such chart (same samples, metric and hardware)"
            found.append(FrontierChange(*about, tuple(new.frontier() if new else ()), untold=untold))
            continue
        was, now = old.frontier(), new.frontier()
        if not (was and now):
            where = "run" if was else "baseline" if now else "run and in the baseline"
            untold = f"nothing is ranked in the {where}, for lack of a complete trial with a valid timing"
            found.append(FrontierChange(*about, tuple(now), untold=untold))
            continue
        joined = tuple(name for name in now if name not in was)
        left = tuple(name for name in was if name not in now)
        found.append(FrontierChange(*about, tuple(now), joined, left))
    return tuple(found)


def standings(results: Results) -> dict[str, Standing]:
    """Trial id → standing, of the trials that have a place in a chart."""
    return {
        point.trial.id: point.standing for comparison in comparisons(results) for point in comparison.points
    }


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Whether each (x, y) is undominated: none is at least as high in both and higher in one."""
    order = sorted(range(len(points)), key=lambda i: points[i], reverse=True)
    kept = [False] * len(points)
    best: tuple[float, float] | None = None  # the highest y so far, with the largest x that reached it
    for i in order:
        x, y = points[i]
        if best is None or y > best[1] or (x, y) == best:
            kept[i] = True
            best = (x, y)
    return kept


def _comparison(trials: list[TrialRecord], signature: tuple[str, ...]) -> Comparison:
    measured = []
    for trial in trials:
        first, speed = headline(trial), throughput(trial)
        assert (
            first is not None and speed is not None and first[1].value is not None and speed.value is not None
        )
        measured.append((trial, first[1], speed, (speed.value, first[1].value)))
    # A partial trial saw other samples and an invalid timing another machine state: shown, never ranked.
    ranked = [i for i, (trial, *_) in enumerate(measured) if _may_be_ranked(trial)]
    undominated = dict(zip(ranked, pareto([measured[i][3] for i in ranked]), strict=True))
    standings: dict[bool | None, Standing] = {True: "frontier", False: "dominated", None: "unranked"}
    points = tuple(
        Point(trial, accuracy, speed, trial.speed["offline"], standings[undominated.get(i)])
        for i, (trial, accuracy, speed, _) in enumerate(measured)
    )
    trial = trials[0]
    name, figure = next(iter(trial.metrics.items()))
    dataset = f"{trial.dataset.name} {trial.dataset.split}, {trial.dataset.size} samples"
    return Comparison(
        trial.task, trial.benchmark, dataset, name, figure.unit, signature[-1], points, signature
    )


def _may_be_ranked(trial: TrialRecord) -> bool:
    return trial.status == "complete" and trial.speed["offline"].valid
