"""Two versions of the code timed in turns on this machine, pair after pair, until each verdict is known.

The processes of a pair are alive together and take short turns, so what slows the machine slows both. Every
pair has fresh interpreters, because one may be slower for life than another (layout in memory, hashes).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
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
class Contest:
    """The comparison of one scenario of one trial, with the pairs timed so far."""

    trial: Trial
    scenario: str
    limit: float
    """See `judge_pairs`."""
    resolution: float = 0.0
    """See `judge_pairs`."""
    decides: bool = True
    judgement: Judgement | None = None
    failed: bool = False
    seconds: float = 0.0
    parts: int = 0  # 0 before the first pair
    window: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Returned by `turns.begin`."""
    timings: tuple[list[ProcessTiming], list[ProcessTiming]] = field(default_factory=lambda: ([], []))

    @property
    def pairs(self) -> int:
        """Number of pairs timed so far."""
        return len(self.timings[1])

    def fail(self, error: HarnessError) -> None:
        """Record that a version could not be timed."""
        self.judgement, self.failed = Judgement("incomparable", str(error)), True

    def judge(self, comparisons: int, *, last: bool = False) -> None:
        """Judge the comparison; see `judge_pairs`."""
        if last and not self.pairs:
            self.judgement = Judgement("inconclusive", "the time ended before its first pair")
            return
        base, head = (np.log(self._seconds(side)) for side in (0, 1))
        self.judgement = judge_pairs(list(head - base), self.limit, comparisons, self.resolution, last=last)

    def raw(self, processes: Sequence[object], environment: str = "") -> Scenario:
        """Return processes of one version in the form of speed/SCENARIO.json."""
        cls = SCENARIOS.get(self.scenario)
        return cls(
            scenario=self.scenario,
            batch_size=cls.query_size(self.trial.spec.batch_size),
            processes=tuple(processes),
            rejected=(),
            environment=environment,
            settings=EffectiveSettings(**self.facts["settings"]),
            samples=self.facts["conditions"]["samples"],
        )

    def record(self, baseline: str, comparisons: int) -> TurnsRecord:
        """Return the verdict and what it follows from."""
        assert self.judgement is not None
        return TurnsRecord(
            baseline=baseline,
            **vars(self.judgement),
            base=self._figure(0),
            head=self._figure(1),
            pairs=self.pairs,
            seconds=round(self.seconds, 3),
            comparisons=comparisons,
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
    contests: Sequence[Contest],
    limit: int | None,
    budget: float,
    note: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Time pair after pair of all contests until each is judged or the budget is spent.

    The contests take turns as well, so that a passing disturbance hurts few pairs of each.

    Args:
        versions: The baseline and the present version.
        limit: Maximum number of samples per benchmark.
        budget: Seconds after which no further pair is started.
    """
    start = clock()
    while undecided := [contest for contest in contests if contest.judgement is None]:
        pairs = max(contest.pairs for contest in undecided)
        if pairs and clock() - start >= budget:
            for contest in undecided:
                contest.judge(len(contests), last=True)
            return
        note(f"timing in turns: pair {pairs + 1} of at most {max(LOOKS)}, comparisons: {len(undecided)}")
        names = sorted({contest.trial.name for contest in undecided})
        first, second = (Child("spawn", version.folders) for version in versions)
        with first, second, ThreadPoolExecutor() as pool:
            try:
                opening = [
                    pool.submit(open_version, version, child, names, limit)
                    for version, child in zip(versions, (first, second), strict=True)
                ]
                known = set.intersection(*(future.result() for future in opening))
            except HarnessError as error:
                for contest in undecided:
                    contest.fail(error)
                return
            for contest in undecided:
                if contest.trial.name not in known:
                    contest.judgement = Judgement("incomparable", "the baseline's suite has no such trial")
                    continue
                before = clock()
                _add_pair(contest, (first, second), len(contests))
                contest.seconds += clock() - before
                if contest.failed:
                    break  # the error may have hurt the interpreters; the others get fresh ones


def open_version(version: Version, child: Child, names: Sequence[str], limit: int | None) -> set[str]:
    """Plan the suite of a version in its process, and return which of the trials it has.

    Raises:
        HarnessError: The suite cannot be planned, or the code is not that of the version.
    """
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
    return set(opened["trials"])


def _add_pair(contest: Contest, children: Sequence[Child], comparisons: int) -> None:
    """Time a pair and judge the contest."""
    try:
        different = _time_pair(contest, children)
    except HarnessError as error:
        contest.fail(error)
    except ValidationError as error:
        contest.fail(UsageError(f"timings have another form in the baseline: {error.errors()[0]['msg']}"))
    else:
        if different:
            contest.judgement = Judgement("incomparable", different)
        else:
            contest.judge(comparisons)


def _time_pair(contest: Contest, children: Sequence[Child]) -> str:
    """Time a fresh process of each version in turns; return what differs between them, or an empty text."""

    def call(side: int, function: Callable[..., Any], *arguments: object) -> Any:
        return children[side].call(function, *arguments, LOAD_SECONDS, seconds=2 * LOAD_SECONDS)

    work = contest.trial.name, contest.scenario
    if not contest.parts:
        whole = call(0, turns.begin, *work, 0, 1, 0)
        contest.window = whole["window"]
        contest.parts = max(
            1, min(PARTS, whole["queries"], round(whole["pass_seconds"] / turns.TURN.seconds))
        )
    part = contest.pairs % contest.parts
    base, head = (call(side, turns.begin, *work, part, contest.parts, contest.window) for side in (0, 1))
    for name, value in head["conditions"].items():
        if (before := base["conditions"].get(name)) != value:
            return f"different {name}" if name == "samples" else f"{name} differs: {before} → {value}"
    contest.facts = head
    for side in ORDERS[contest.pairs % 2]:
        call(side, turns.turn)
    pair = [contest.raw([call(side, turns.finish)]).processes for side in (0, 1)]
    for side in (0, 1):
        contest.timings[side].extend(pair[side])
    return ""
