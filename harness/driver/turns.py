"""Two versions of the code timed in turns on this machine, pair after pair, until each verdict is known.

The processes of a pair are alive together and take short turns, so what slows the machine slows both. Every
pair has fresh interpreters, because one may be slower for life than another (layout in memory, hashes).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from pydantic import ValidationError

from harness.compare.sequential import LOOKS, judge_pairs
from harness.compare.speed_verdict import Judgement
from harness.driver.baseline import Version
from harness.errors import HarnessError, InfrastructureError, UsageError
from harness.rundir.results import TurnsRecord
from harness.scenarios.scenario import LOW, OFFLINE, SCENARIOS, SINGLE_STREAM, ProcessTiming, Scenario
from harness.scenarios.settings import EffectiveSettings
from harness.stages import turns
from harness.stages.child import LOAD_SECONDS, Child
from harness.statistics.ranks import median
from harness.task import Figure
from harness.trial import Trial

SIDES = ("baseline", "present")
ORDERS = ((0, 1, 1, 0) * 3, (1, 0, 0, 1) * 3)
"""Sides of the turns of a pair; they alternate."""
PARTS = 8  # of a pass, at most: the eight pairs of the first look time every sample
IN_TURNS = (OFFLINE, SINGLE_STREAM)


@dataclass
class SpeedComparison:
    """The comparison of one scenario of one trial, with the pairs timed so far."""

    trial: Trial
    scenario: str
    limit: float  # of the slowdown; see `judge_pairs`
    resolution: float = 0.0  # see `judge_pairs`
    decides: bool = True
    family: int = 1  # number of comparisons that decide and are judged together
    judgement: Judgement | None = None
    failed: bool = False
    seconds: float = 0.0
    parts: int = 0  # 0 before the first pair
    window: int = 0
    ids: Sequence[str | None] = ()  # of the trial in either version
    started: Mapping[int, dict[str, Any]] = field(default_factory=dict)
    """Result of `turns.begin` in either version."""
    timings: tuple[list[ProcessTiming], list[ProcessTiming]] = field(default_factory=lambda: ([], []))

    @property
    def pairs(self) -> int:
        """Number of pairs timed so far."""
        return len(self.timings[1])

    def fail(self, error: HarnessError) -> None:
        """Record that a version could not be timed."""
        self.judgement, self.failed = Judgement("incomparable", str(error)), True

    def judge(self, *, last: bool = False) -> None:
        """Judge the comparison; see `judge_pairs`."""
        if last and not self.pairs:
            self.judgement = Judgement("inconclusive", "the time ended before its first pair")
            return
        base, head = (np.log(self._seconds(side)) for side in (0, 1))
        self.judgement = judge_pairs(list(head - base), self.limit, self.family, self.resolution, last=last)

    def raw(self, side: int, processes: Sequence[object], environment: str = "") -> Scenario:
        """Return processes of one version in the form of speed/SCENARIO.json."""
        cls = SCENARIOS.get(self.scenario)
        return cls(
            scenario=self.scenario,
            batch_size=cls.query_size(self.trial.spec.batch_size),
            processes=tuple(processes),
            environment=environment,
            settings=EffectiveSettings(**self.started[side]["settings"]),
            samples=self.started[side]["conditions"]["samples"],
        )

    def record(self, baseline: str) -> TurnsRecord:
        """Return the verdict and what it follows from."""
        assert self.judgement is not None
        return TurnsRecord(
            baseline=baseline,
            **vars(self.judgement),
            base=self._figure(0),
            head=self._figure(1),
            pairs=self.pairs,
            seconds=round(self.seconds, 3),
            comparisons=self.family,
            resolution=self.resolution,
            decides=self.decides,
            failed=self.failed,
        )

    def _seconds(self, side: int) -> list[float]:
        return [timing.seconds_per_sample(LOW) for timing in self.timings[side]]

    def _figure(self, side: int) -> Figure | None:
        """Return the seconds per sample of a version, over its processes."""
        if not self.pairs:
            return None
        estimate = median(self._seconds(side))
        signature = "10th percentile of repeated times per sample|median over processes"
        return Figure(estimate.value, estimate.low, estimate.high, self.pairs, "s", signature)


def compare_in_turns(
    versions: Sequence[Version],
    comparisons: Sequence[SpeedComparison],
    limit: int | None,
    budget: float,
    note: Callable[[str], None],
    store: Callable[[SpeedComparison], None] = lambda _: None,
) -> None:
    """Time pair after pair of all comparisons until each is judged or the budget is spent.

    The comparisons take turns as well, so that a passing disturbance hurts few pairs of each.

    Args:
        versions: The baseline and the present version.
        budget: Seconds after which no further pair is started, except the first of all.
        store: Receives each comparison once it is judged.
    """
    end = time.monotonic() + budget

    def is_over() -> bool:
        return time.monotonic() >= end and any(
            comparison.pairs or comparison.failed for comparison in comparisons
        )

    while undecided := [comparison for comparison in comparisons if comparison.judgement is None]:
        pairs = max(comparison.pairs for comparison in undecided)
        note(f"timing in turns: pair {pairs + 1} of at most {max(LOOKS)}, comparisons: {len(undecided)}")
        try:
            _time_round(versions, undecided, limit, is_over)
        except HarnessError as error:
            for comparison in undecided:
                if comparison.judgement is None:
                    comparison.fail(error)
        finally:
            for comparison in undecided:
                if comparison.judgement is None and is_over():
                    comparison.judge(last=True)
                if comparison.judgement is not None:
                    store(comparison)


def _time_round(
    versions: Sequence[Version],
    comparisons: Sequence[SpeedComparison],
    limit: int | None,
    is_over: Callable[[], bool],
) -> None:
    """Time a pair of each comparison, and judge it. The round ends early after a failure."""
    started = time.monotonic()
    names = sorted({comparison.trial.name for comparison in comparisons})
    with ThreadPoolExecutor() as pool, ExitStack() as stack:  # children end first, so that no thread waits
        children = [stack.enter_context(Child("spawn", version.folders)) for version in versions]
        opened = pool.map(partial(open_version, names=names, limit=limit), versions, children)
        ids = [suite["trials"] for suite in opened]
        share = (time.monotonic() - started) / len(comparisons)
        for comparison in comparisons:
            if is_over():
                return
            before = time.monotonic()
            try:
                problem = _time_pair(
                    comparison, children, [known.get(comparison.trial.name) for known in ids]
                )
            except HarnessError as error:
                comparison.fail(error)
                return  # the error may have hurt the interpreters; the others get fresh ones
            finally:
                comparison.seconds += share + time.monotonic() - before
            if problem:
                comparison.judgement = Judgement("incomparable", problem)
            else:
                comparison.judge()


def open_version(version: Version, child: Child, names: Sequence[str], limit: int | None) -> dict[str, Any]:
    """Plan the suite of a version in its process, and return the result of `turns.open_suite`."""
    try:
        arguments = (str(version.suite), list(version.overrides), list(names), limit)
        opened = child.call(turns.open_suite, *arguments, seconds=LOAD_SECONDS)
        if opened["protocol"] != turns.PROTOCOL:
            raise UsageError("its harness exchanges timings in another form")
        if version.folders:
            version.check(opened["files"])
    except HarnessError as error:
        kind = UsageError if isinstance(error, UsageError) else InfrastructureError
        raise kind(f"{version.name[:12]}: {error}") from error
    return opened


def _time_pair(comparison: SpeedComparison, children: Sequence[Child], ids: Sequence[str | None]) -> str:
    """Time a fresh process of each version in turns; return what differs between them, if anything does.

    Args:
        ids: Ids of the trial in the two versions; None in one that lacks it.
    """

    def call(side: int, function: Callable[..., Any], *arguments: object) -> Any:
        return children[side].call(function, *arguments, LOAD_SECONDS, seconds=2 * LOAD_SECONDS)

    if None in ids:
        return f"the suite of the {SIDES[ids.index(None)]} version has no such trial"
    if comparison.pairs and comparison.ids != ids:
        raise InfrastructureError("code, data or suite changed while the versions were timed; run again")
    comparison.ids = ids
    subject = comparison.trial.name, comparison.scenario
    if not comparison.parts:
        whole = call(0, turns.begin, *subject, 0, 1, 0)
        comparison.window = whole["window"]
        wanted = round(whole["pass_seconds"] / turns.TURN.seconds)
        comparison.parts = max(1, min(PARTS, whole["queries"], wanted))
    part, order = comparison.pairs % comparison.parts, ORDERS[comparison.pairs % 2]
    arguments = *subject, part, comparison.parts, comparison.window
    comparison.started = {side: call(side, turns.begin, *arguments) for side in order[:2]}
    base, head = (comparison.started[side]["conditions"] for side in (0, 1))
    for name, value in head.items():
        if (before := base.get(name)) != value:
            return f"different {name}" if name == "samples" else f"{name} differs: {before} → {value}"
    for side in order:
        call(side, turns.forward, turns.take_turn)
    try:
        pair = [comparison.raw(side, [call(side, turns.forward, turns.finish)]).processes for side in (0, 1)]
    except ValidationError as error:
        message = error.errors()[0]["msg"]
        raise UsageError(f"timings have another form in the baseline: {message}") from error
    for timings, processes in zip(comparison.timings, pair, strict=True):
        timings.extend(processes)
    return ""
