"""Which trials may be compared, and which of them are worth choosing: accuracy against throughput."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Literal, NamedTuple

from harness.environment import hardware_name
from harness.rundir.results import Results, Scenario, TrialRecord, is_defined
from harness.task import Figure, TaskName

Standing = Literal["frontier", "dominated", "unranked"]
CAVEAT = "by point values: where intervals overlap, another run may rank otherwise"


class Place(NamedTuple):
    """Both coordinates; more is better."""

    throughput: float
    accuracy: float


@dataclass(frozen=True)
class Point:
    """A trial with a place in the plane."""

    index: int
    """Of the trial in `results.trials`; its id may stand in several benchmarks."""
    trial: TrialRecord
    accuracy: Figure  # higher is better
    throughput: Figure  # samples/s, offline
    scenario: Scenario
    standing: Standing
    dominated_by: str = ""
    """The most accurate variant that is at least as good in both and better in one."""

    @property
    def place(self) -> Place:
        assert self.throughput.value is not None and self.accuracy.value is not None
        return Place(self.throughput.value, self.accuracy.value)


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

    def ranked(self) -> dict[str, Place]:
        """The places of the variants that are ranked."""
        return {point.trial.variant: point.place for point in self.points if point.standing != "unranked"}


@dataclass(frozen=True)
class FrontierChange:
    """What became of a frontier since a baseline, among the variants that are ranked in both runs.

    By point values, whatever their intervals.
    """

    benchmark: str
    metric: str
    hardware: str
    frontier: tuple[str, ...] = ()
    """The variants on it now."""
    joined: tuple[str, ...] = ()
    """Those that were dominated before."""
    left: tuple[str, ...] = ()
    """Those that were on it and are dominated now."""
    unranked_before: tuple[str, ...] = ()
    """Those on it now that the baseline lacks, or has without a valid timing: they did not join."""
    unranked_now: tuple[str, ...] = ()
    """Those on it before that the run lacks, or has without a valid timing: they did not leave."""
    untold: str = ""
    """Why nothing can be said; empty where it can."""

    @property
    def changed(self) -> bool:
        return bool(self.joined or self.left)

    def describe(self) -> str:
        """`unchanged`, `changed: joined a; left b; not ranked in the run: c`, or why that cannot be told."""
        if self.untold:
            return f"cannot be told: {self.untold}"
        found = {
            "joined": self.joined,
            "left": self.left,
            "not ranked in the baseline:": self.unranked_before,
            "not ranked in the run:": self.unranked_now,
        }
        parts = "; ".join(f"{what} {', '.join(names)}" for what, names in found.items() if names)
        verdict, then = ("changed", ": ") if self.changed else ("unchanged", "; ")
        return f"{verdict}{then}{parts}" if parts else verdict


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
    groups: dict[tuple[str, ...], list[tuple[int, TrialRecord]]] = defaultdict(list)
    for index, trial in enumerate(results.trials):
        first, speed = headline(trial), trial.speed.get("offline")
        if first is None or speed is None or why_not_charted(trial):
            continue
        name, figure = first
        hardware = machine(results, speed.environment)
        data = trial.dataset
        key = (trial.benchmark, data.fingerprint, data.split, name, figure.signature, hardware)
        groups[trial.task, *key].append((index, trial))
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
        was, now = old.ranked(), new.ranked()
        if not (was and now):
            where = "run" if was else "baseline" if now else "run and in the baseline"
            untold = f"nothing is ranked in the {where}, for lack of a complete trial with a valid timing"
            found.append(FrontierChange(*about, tuple(new.frontier()), untold=untold))
            continue
        # A variant that is ranked in one run only would take others off the frontier, or let them on.
        earlier = _undominated({name: place for name, place in was.items() if name in now})
        later = _undominated({name: place for name, place in now.items() if name in was})
        moved = (_without(later, earlier), _without(earlier, later))
        apart = (_without(new.frontier(), was), _without(old.frontier(), now))
        found.append(FrontierChange(*about, tuple(new.frontier()), *moved, *apart))
    return tuple(found)


def standings(results: Results) -> dict[int, Standing]:
    """Index in `results.trials` → standing, of the trials that have a place in a chart."""
    return {point.index: point.standing for comparison in comparisons(results) for point in comparison.points}


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


def _undominated(places: Mapping[str, Place]) -> list[str]:
    return list(compress(places, pareto(list(places.values()))))


def _without(names: Iterable[str], others: Container[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name not in others)


def _comparison(trials: list[tuple[int, TrialRecord]], signature: tuple[str, ...]) -> Comparison:
    shown = [_unranked(index, trial) for index, trial in trials]
    # A partial trial saw other samples and an invalid timing another machine state: shown, never ranked.
    ranked = [point for point in shown if point.trial.status == "complete" and point.scenario.valid]
    kept = pareto([point.place for point in ranked])
    best = sorted(compress(ranked, kept), key=lambda point: point.place.accuracy, reverse=True)
    judged = {
        point.index: replace(point, standing="frontier")
        if on_frontier
        else replace(point, standing="dominated", dominated_by=_first_above(point.place, best))
        for point, on_frontier in zip(ranked, kept, strict=True)
    }
    points = tuple(judged.get(point.index, point) for point in shown)
    _, trial = trials[0]
    name, figure = next(iter(trial.metrics.items()))
    dataset = f"{trial.dataset.name} {trial.dataset.split}, {trial.dataset.size} samples"
    return Comparison(
        trial.task, trial.benchmark, dataset, name, figure.unit, signature[-1], points, signature
    )


def _unranked(index: int, trial: TrialRecord) -> Point:
    first, speed = headline(trial), throughput(trial)
    assert first is not None and speed is not None
    return Point(index, trial, first[1], speed, trial.speed["offline"], "unranked")


def _first_above(place: Place, best: Sequence[Point]) -> str:
    """The first that dominates it: of a dominated place one on the frontier always does."""
    return next(
        point.trial.variant
        for point in best
        if point.place.throughput >= place.throughput and point.place.accuracy >= place.accuracy
    )
