"""Pareto frontiers of accuracy against throughput.

A chart groups the trials that may be compared; the trials on its frontier are those worth choosing.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Literal, NamedTuple

from harness.compare.dominance import pareto, probabilities
from harness.rundir.results import Results, ScenarioRecord, TrialRecord, is_defined
from harness.task import Figure, TaskName

Rank = Literal["frontier", "dominated", "unranked"]
FRONTIER_MARK = "◆"
CAVEAT = "by point values; a percentage is the probability of being on it, given the intervals of both axes"
DECIDED = 0.95  # probability from which a variant counts as on the frontier, or as not on it, in a comparison


class Coordinates(NamedTuple):
    """The coordinates of a point; higher is better for both."""

    throughput: float
    accuracy: float  # the negative figure if a lower one is better


@dataclass(frozen=True)
class Point:
    """A trial on a chart."""

    index: int  # index of the trial in `results.trials`; its id may be in several benchmarks
    trial: TrialRecord
    accuracy: Figure
    throughput: Figure  # samples/s, offline
    scenario: ScenarioRecord
    rank: Rank
    probability: float | None = None
    """The probability of being on the frontier; None if it is not ranked or an interval is missing."""
    dominated_by: str = ""
    """The most accurate variant that is at least as good in both coordinates and better in one."""

    @property
    def mark(self) -> str:
        """`◆` on the frontier by point values, and the probability of being on it where it is in doubt."""
        sign = FRONTIER_MARK if self.rank == "frontier" else ""
        doubtful = self.probability is not None and 0.05 <= self.probability <= 0.995
        return f"{sign} {self.probability:.0%}".strip() if doubtful else sign

    @property
    def coordinates(self) -> Coordinates:
        """Throughput and accuracy, by point values."""
        assert self.throughput.value is not None and self.accuracy.value is not None
        sign = -1 if self.accuracy.better == "lower" else 1
        return Coordinates(self.throughput.value, sign * self.accuracy.value)


@dataclass(frozen=True)
class FrontierChart:
    """Trials whose accuracy is the same metric on the same samples, timed on the same hardware."""

    task: TaskName
    benchmark: str
    dataset: str
    metric: str
    unit: str
    hardware: str
    points: tuple[Point, ...]
    signature: tuple[str, ...]  # benchmark, samples, metric and hardware, which are the same for all points
    differences: Mapping[tuple[str, str], Figure]
    """(variant, another) → difference in accuracy on the same samples; equal predictions have no entry."""

    def frontier(self) -> list[str]:
        """Return the variants on the frontier, in the order of the trials."""
        return [point.trial.variant for point in self.points if point.rank == "frontier"]

    def ranked(self) -> dict[str, Point]:
        """Return the ranked points by variant."""
        return {point.trial.variant: point for point in self.points if point.rank != "unranked"}


@dataclass(frozen=True)
class FrontierChange:
    """The changes of a frontier since a baseline. Only variants that are ranked in both runs count.

    A variant has joined or left only if it was on one side with a probability of at least `DECIDED`, and is
    now on the other side with as much.
    """

    benchmark: str
    metric: str
    hardware: str
    frontier: tuple[str, ...] = ()  # the variants on the frontier of the run
    joined: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    unranked_before: tuple[str, ...] = ()  # those on it that the baseline lacks or did not validly time
    unranked_now: tuple[str, ...] = ()  # those on the baseline's that the run lacks or did not validly time
    reason: str = ""  # why the frontiers cannot be compared; empty if they can

    @property
    def changed(self) -> bool:
        """Return whether any variant joined or left."""
        return bool(self.joined or self.left)

    def describe(self) -> str:
        """Return one line, such as `unchanged` or `changed: joined a; left b; not ranked in the run: c`."""
        if self.reason:
            return f"cannot be compared: {self.reason}"
        variants = {
            "joined": self.joined,
            "left": self.left,
            "not ranked in the baseline:": self.unranked_before,
            "not ranked in the run:": self.unranked_now,
        }
        parts = "; ".join(f"{verb} {', '.join(names)}" for verb, names in variants.items() if names)
        verdict, separator = ("changed", ": ") if self.changed else ("unchanged", "; ")
        return f"{verdict}{separator}{parts}" if parts else verdict


def headline(trial: TrialRecord) -> tuple[str, Figure] | None:
    """Return the name and figure of the first metric, or None if nothing was scored."""
    return next(iter(trial.metrics.items()), None)


def throughput(trial: TrialRecord) -> Figure | None:
    """Return the samples/s of the offline scenario, or None if it was not measured."""
    return trial.offline.throughput if trial.offline else None


def why_not_charted(trial: TrialRecord) -> str | None:
    """Return what a trial lacks to be a point on a chart, or None if it is one."""
    first = headline(trial)
    if first is None:
        return f"{trial.status}, no metrics"
    if not is_defined(first[1]):
        return f"{first[0]} undefined"
    if not trial.speed:
        return "not timed"
    speed = throughput(trial)
    if speed is None or speed.value is None or not is_defined(speed) or speed.value <= 0:
        return "no offline throughput"
    return None


def hardware_name(results: Results, environment: str) -> str:
    """Return one line on the hardware behind a key of `environments`, or the key if it has no entry."""
    record = results.environments.get(environment)
    return environment if record is None else record.hardware_name


def frontier_charts(results: Results) -> list[FrontierChart]:
    """Return the charts of a run, in the order of its trials."""
    groups: dict[tuple[str, ...], list[Point]] = defaultdict(list)
    for index, trial in enumerate(results.trials):
        first, scenario, speed = headline(trial), trial.offline, throughput(trial)
        if first is None or scenario is None or speed is None or why_not_charted(trial):
            continue
        name, figure = first
        hardware = hardware_name(results, scenario.environment)
        data = trial.dataset
        key = (trial.benchmark, data.fingerprint, data.split, name, figure.signature, hardware)
        groups[trial.task, *key].append(Point(index, trial, figure, speed, scenario, "unranked"))
    differences: dict[tuple[str, str], dict[tuple[str, str], Figure]] = defaultdict(dict)
    for pair in results.pairs:
        differences[pair.benchmark, pair.metric][pair.first, pair.second] = pair.difference
    return [_chart(points, key[1:], differences[key[1], key[4]]) for key, points in groups.items()]


def frontier_changes(base: Results, head: Results) -> tuple[FrontierChange, ...]:
    """Return one change per chart of `head`, then one per chart that only `base` has."""
    before = {chart.signature: chart for chart in frontier_charts(base)}
    after = {chart.signature: chart for chart in frontier_charts(head)}
    return tuple(
        _frontier_change(before.get(signature), after.get(signature))
        for signature in dict.fromkeys([*after, *before])
    )


def _frontier_change(old: FrontierChart | None, new: FrontierChart | None) -> FrontierChange:
    """Compare a chart of the baseline with its counterpart in the run; one of them may be missing."""
    shown = new or old
    assert shown is not None
    names = (shown.benchmark, shown.metric, shown.hardware)
    if old is None or new is None:
        where = "baseline" if old is None else "run"
        reason = f"the {where} has no chart of the same samples, metric and hardware"
        return FrontierChange(*names, tuple(new.frontier() if new else ()), reason=reason)
    before, after = old.ranked(), new.ranked()
    if not (before and after):
        where = "run" if before else "baseline" if after else "run and in the baseline"
        reason = f"no complete trial has a valid timing in the {where}"
        return FrontierChange(*names, tuple(new.frontier()), reason=reason)
    # Only variants that both runs rank: any other could push these off the frontier in one run only.
    shared = [variant for variant in after if variant in before]
    earlier = _probabilities([before[variant] for variant in shared], old.differences)
    later = _probabilities([after[variant] for variant in shared], new.differences)
    joined, left = (
        tuple(v for v in shared if first.get(v, 1.0) <= 1 - DECIDED and second.get(v, 0.0) >= DECIDED)
        for first, second in ((earlier, later), (later, earlier))
    )
    return FrontierChange(
        *names,
        frontier=tuple(new.frontier()),
        joined=joined,
        left=left,
        unranked_before=tuple(variant for variant in new.frontier() if variant not in before),
        unranked_now=tuple(variant for variant in old.frontier() if variant not in after),
    )


def points(results: Results) -> dict[int, Point]:
    """Return the point of each trial that is on a chart, by its index in `results.trials`."""
    return {point.index: point for chart in frontier_charts(results) for point in chart.points}


def _probabilities(
    points: Sequence[Point], differences: Mapping[tuple[str, str], Figure]
) -> dict[str, float]:
    """Return the probability that each variant is undominated by the others; empty if unknown."""
    position = {point.trial.variant: index for index, point in enumerate(points)}
    known = probabilities(
        [point.accuracy for point in points],
        [point.throughput for point in points],
        [point.scenario.processes for point in points],
        {
            (position[first], position[second]): difference
            for (first, second), difference in differences.items()
            if first in position and second in position
        },
    )
    return dict(zip(position, known, strict=True)) if known else {}


def _chart(
    shown: Sequence[Point], signature: tuple[str, ...], differences: Mapping[tuple[str, str], Figure]
) -> FrontierChart:
    """Rank the points of one signature."""
    # Partial trials, which saw other samples, and trials with an invalid timing are shown but not ranked.
    ranked = [point for point in shown if point.trial.status == "complete" and point.scenario.valid]
    undominated = pareto([point.coordinates for point in ranked])
    frontier = sorted(
        compress(ranked, undominated), key=lambda point: point.coordinates.accuracy, reverse=True
    )
    chances = _probabilities(ranked, differences)
    points = {point.index: point for point in shown}
    for point, on_frontier in zip(ranked, undominated, strict=True):
        x, y = point.coordinates
        better = (
            other.trial.variant
            for other in frontier
            if other.coordinates.throughput >= x and other.coordinates.accuracy >= y
        )
        points[point.index] = replace(
            point,
            rank="frontier" if on_frontier else "dominated",
            probability=chances.get(point.trial.variant),
            dominated_by="" if on_frontier else next(better),
        )
    trial, metric, unit = shown[0].trial, next(iter(shown[0].trial.metrics)), shown[0].accuracy.unit
    dataset = f"{trial.dataset.name} {trial.dataset.split}, {trial.dataset.size} samples"
    names = (trial.task, trial.benchmark, dataset, metric, unit, signature[-1])
    return FrontierChart(*names, tuple(points.values()), signature, differences)
