"""Decide the claims of a suite from what its trials measured: write claims.json."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log

import numpy as np
from numpy.typing import NDArray

from harness.analysis.slices import select
from harness.decisions.claims import (
    PARTIAL_RUN,
    ClaimEntry,
    ClaimVerdict,
    Quantity,
    Statement,
    parse_claim,
)
from harness.decisions.margin import BoundTest, bound_test, decide
from harness.driver.slices import sample_columns
from harness.errors import UsageError
from harness.files import read_record
from harness.identity import same_weights
from harness.metrics.metric import METRICS
from harness.rundir.records import ClaimsFile, ProbesFile
from harness.rundir.results import ClaimRecord
from harness.rundir.speed import CommonFile, common_path, read_timings
from harness.rundir.store import RunDirectory
from harness.scenarios.scenario import SCENARIOS, SINGLE_STREAM, Scenario
from harness.scenarios.settings import GATING
from harness.stages.score import restore
from harness.statistics.jackknife import JackknifedFigure, mean_of
from harness.statistics.paired import difference, mean, mean_estimate
from harness.statistics.ranks import shift
from harness.suite.claims import COSTS, probes_of, trials_of
from harness.task import Figure
from harness.trial import Trial


class UndecidableError(Exception):
    """A claim that cannot be decided; the message says why."""


@dataclass(frozen=True)
class Evidence:
    """Effect and test of a claim, with the number of trainings behind them."""

    effect: Figure
    """subject − factor · object, or the subject alone; for speeds and exact numbers, subject / object."""
    test: BoundTest | bool
    """The test; or, for exact numbers, True if the claim holds."""
    seeds: tuple[int, ...]
    """Number of trainings on each side."""


def decide_claims(
    directory: RunDirectory, claims: Mapping[str, ClaimEntry], trials: Sequence[Trial], partial: bool
) -> None:
    """Write claims.json.

    All claims that need a test are one family, whose error rates are those of `harness.decisions.margin`.

    Args:
        trials: All trials of the run directory.
        partial: Some trials of the suite were never run here. The family is not complete, so no claim is
            decided.
    """
    path = directory.path / "claims.json"
    if not claims and not path.exists():
        return
    reasons = dict.fromkeys(claims, PARTIAL_RUN) if partial else {}
    evidence: dict[str, Evidence] = {}
    for name, entry in ({} if partial else claims).items():
        try:
            evidence[name] = measure_claim(directory, trials, entry)
        except UndecidableError as error:
            reasons[name] = str(error)
    tests = {name: proof.test for name, proof in evidence.items() if isinstance(proof.test, BoundTest)}
    verdicts: dict[str, ClaimVerdict] = {
        name: "supported" if proof.test is True else "refuted" for name, proof in evidence.items()
    }
    for name, decision in zip(tests, decide(list(tests.values())), strict=True):
        verdicts[name] = decision
        if decision == "inconclusive" and decide([tests[name]]) != ["inconclusive"]:
            reasons[name] = f"decided alone, but not among {len(tests)} claims (Holm 1979)"
    records = [
        ClaimRecord(
            name=name,
            **dict(entry),
            verdict=verdicts.get(name, "not decided"),
            effect=evidence[name].effect if name in evidence else None,
            seeds=evidence[name].seeds if name in evidence else (),
            family=len(tests) if name in tests else 0,
            reason=reasons.get(name),
        )
        for name, entry in claims.items()
    ]
    directory.write_record(path, ClaimsFile(tuple(records)))


def measure_claim(directory: RunDirectory, trials: Sequence[Trial], entry: ClaimEntry) -> Evidence:
    """Return the evidence for and against a claim.

    Raises:
        UndecidableError: A variant is not part of this run or incomplete, or a figure or timing is missing.
    """
    statement = parse_claim(entry.claim)
    sides = [trials_of(trials, entry.benchmark, quantity) for quantity in statement.quantities]
    for quantity, chosen in zip(statement.quantities, sides, strict=True):
        if not chosen:
            raise UndecidableError(f"{quantity.adapter} is not part of this run")
    for trial in (trial for side in sides for trial in side):
        if not directory.trial(trial.id).is_scored(trial.spec.size, trial.metrics):
            raise UndecidableError(f"{trial.variant} is incomplete")
    if statement.subject.name in COSTS:
        name = statement.subject.name
        return _exact(statement, [_cost(directory, side[0], name) for side in sides], sides, name)
    if statement.subject.name in probes_of(sides[0][0]):
        return _probes(directory, statement, sides)
    if statement.subject.name in SCENARIOS.entries():
        return _speeds(directory, statement, sides)
    return _figures(directory, statement, sides, entry.where)


def _figures(
    directory: RunDirectory, statement: Statement, sides: Sequence[Sequence[Trial]], where: str | None
) -> Evidence:
    """Compare metrics on the same samples."""
    members = _members(directory, sides[0][0], where) if where else None
    figures = [
        [_figure(directory, trial, quantity, members) for trial in side]
        for quantity, side in zip(statement.quantities, sides, strict=True)
    ]
    return _paired(statement, sides, figures)


def _paired(
    statement: Statement, sides: Sequence[Sequence[Trial]], figures: Sequence[Sequence[JackknifedFigure]]
) -> Evidence:
    """Compare figures of the same samples; trainings with several seeds count as such."""
    if statement.object and statement.object.adapter == statement.subject.adapter:
        own = [head.minus(base.scaled(statement.factor)) for head, base in zip(*figures, strict=True)]
        effect, estimate = mean(own), mean_estimate(own)
    elif statement.object:
        base = [figure.scaled(statement.factor) for figure in figures[1]]
        weights = [[trial.spec.checkpoint for trial in side] for side in reversed(sides)]
        paired = difference(base, figures[0], same_weights(*weights))
        effect, estimate = paired.difference, paired.estimate
    else:
        effect, estimate = mean(figures[0]), mean_estimate(figures[0])
    if estimate is None:
        raise UndecidableError(f"{statement.subject.name} has no interval on these {effect.n} samples")
    test = bound_test(estimate, statement.margin, "higher" if statement.sign == ">" else "lower")
    return Evidence(effect, test, tuple(map(len, sides)))


def _figure(
    directory: RunDirectory, trial: Trial, quantity: Quantity, members: NDArray[np.intp] | None
) -> JackknifedFigure:
    for name in trial.metrics:
        if quantity.name in METRICS.get(name).names:
            stored = restore(name, directory.trial(trial.id).read_statistics(name))
            return stored.figures(members)[quantity.name]
    raise UndecidableError(f"{trial.variant} has no figure '{quantity.name}'")


def _members(directory: RunDirectory, trial: Trial, condition: str) -> NDArray[np.intp]:
    """Return the positions of the samples that satisfy a condition."""
    try:
        members = select(sample_columns(directory, {trial.variant: trial}), condition)
    except UsageError as error:
        raise UndecidableError(str(error)) from error
    if len(members) < 2:
        raise UndecidableError(f"samples that satisfy the condition: {len(members)}; at least two are needed")
    return members


def _speeds(directory: RunDirectory, statement: Statement, sides: Sequence[Sequence[Trial]]) -> Evidence:
    """Compare speeds by ranks over processes: samples per second, or seconds of single-stream."""
    from scipy.stats import mannwhitneyu  # takes 1.5 s to import and is rarely needed

    name = statement.subject.name
    timings = [[_timings(directory, trial, name) for trial in side] for side in sides]
    first, *others = [timing for side in timings for timing in side]
    for other in others:
        for field in ("environment", "settings", "samples"):
            if getattr(first, field) != getattr(other, field):
                raise UndecidableError(f"the {field} of the timings differ")
    power = 1.0 if name == SINGLE_STREAM else -1.0
    logs = [
        np.array([power * log(s) for timing in side for s in timing.seconds_by_process()]) for side in timings
    ]
    ratio = shift(logs[1], logs[0])
    value, low, high = (None if x is None else float(np.exp(x)) for x in (ratio.value, ratio.low, ratio.high))
    n = sum(map(len, logs))
    signature = f"{name}|ratio|Mann-Whitney over processes"
    moved = logs[1] + log(statement.factor)
    above, below = (
        float(mannwhitneyu(logs[0], moved, alternative=side, method="exact").pvalue)
        for side in ("greater", "less")
    )
    test = BoundTest(above, below) if statement.sign == ">" else BoundTest(below, above)
    return Evidence(Figure(value, low, high, n, "times", signature), test, tuple(map(len, sides)))


def _timings(directory: RunDirectory, trial: Trial, scenario: str) -> Scenario:
    """Return the timings of a trial if they may decide a claim."""
    timings = read_timings(directory.trial(trial.id).path, scenario)
    if timings is None or timings.error or not timings.processes:
        raise UndecidableError(f"{trial.variant} has no complete timing of {scenario}")
    if any(process.reasons for process in timings.processes):
        raise UndecidableError(f"the timing of {trial.variant} in {scenario} is not valid")
    if timings.settings.profile not in GATING:
        raise UndecidableError(f"the profile {timings.settings.profile} never decides")
    return timings


def _cost(directory: RunDirectory, trial: Trial, name: str) -> float:
    common = read_record(common_path(directory.trial(trial.id).path), CommonFile)
    count = getattr(common.cost, name) if common else None
    if not count:
        raise UndecidableError(f"{name} of {trial.variant} are not counted")
    return float(count)


def _probes(directory: RunDirectory, statement: Statement, sides: Sequence[Sequence[Trial]]) -> Evidence:
    """Compare what the models' probes measure: by sample, or exactly if it needs no samples."""
    values = [
        [_probe(directory, trial, quantity.name) for trial in side]
        for quantity, side in zip(statement.quantities, sides, strict=True)
    ]
    name = statement.subject.name
    unit = probes_of(sides[0][0])[name]
    exact = [[value for value in side if isinstance(value, float)] for side in values]
    by_sample = [[mean_of(value, unit, name) for value in side if isinstance(value, list)] for side in values]
    if all(exact) and not any(by_sample):
        return _exact(statement, [float(np.mean(side)) for side in exact], sides, unit)
    if any(exact):
        raise UndecidableError(f"{name} is measured by sample on one side only")
    return _paired(statement, sides, by_sample)


def _probe(directory: RunDirectory, trial: Trial, name: str) -> float | list[float]:
    stored = read_record(directory.trial(trial.id).path / "probes.json", ProbesFile)
    if stored is None or name not in stored.values:
        raise UndecidableError(f"{trial.variant} was not probed")
    return stored.values[name]


def _exact(
    statement: Statement, counts: Sequence[float], sides: Sequence[Sequence[Trial]], unit: str
) -> Evidence:
    """Compare numbers without doubt: counts, or probes that need no samples."""
    name = statement.subject.name
    if statement.object and not counts[1]:
        raise UndecidableError(f"{name} of {statement.object.adapter} is 0, so there is no ratio")
    bound = statement.margin + (statement.factor * counts[1] if statement.object else 0.0)
    holds = counts[0] > bound if statement.sign == ">" else counts[0] < bound
    value = counts[0] / counts[1] if statement.object else counts[0]
    effect = Figure(value, value, value, 1, "times" if statement.object else unit, f"{name}|exact")
    return Evidence(effect, holds, tuple(map(len, sides)))
