"""Speed before and after: the relative difference in time per sample, with its interval, from raw timings."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from harness.compare.accuracy import RunPair
from harness.compare.outcome import Change
from harness.compare.speed_verdict import Judgement, judge
from harness.decisions.policy import MAX_SLOWDOWN, GatePolicy
from harness.environment import Environment
from harness.rundir.results import ScenarioRecord
from harness.rundir.speed import read_timings
from harness.scenarios.scenario import SCENARIOS
from harness.scenarios.settings import GATING
from harness.statistics.ranks import shift
from harness.task import Figure

Environments = Mapping[str, Environment]
STATISTIC = "10th percentile of repeated times per sample|ln ratio"


def speed_changes(
    pair: RunPair, base: Environments, head: Environments, gate: GatePolicy
) -> Iterable[Change]:
    """Yield the change of each scenario's headline figure.

    Args:
        base, head: Environments of both runs by key.
        gate: The rules about this trial.
    """
    before, after = pair.base.record.speed, pair.head.record.speed
    for name in dict.fromkeys([*after, *before]):
        scenario = SCENARIOS.get(name)
        old, new = before.get(name), after.get(name)
        profile = (new or before[name]).profile
        reason = incomparable(old, new, base, head)
        rule = gate.rule("speed", name)
        limit = (rule and rule.max_slowdown) or MAX_SLOWDOWN
        judgement = Judgement("incomparable", reason) if reason else _judge(pair, name, profile, limit)
        yield Change(
            figure_kind="speed",
            name=f"{name} {scenario.headline_name}",
            base=scenario.headline(old) if old else None,
            head=scenario.headline(new) if new else None,
            difference=judgement.slowdown,
            verdict=judgement.verdict,
            reason=judgement.reason,
            decides=profile in GATING and (rule is None or rule.tier == "blocking"),
            limit=f"max_slowdown {limit:g}",
            detectable=judgement.detectable,
        )


def _judge(pair: RunPair, scenario: str, profile: str, limit: float) -> Judgement:
    """Judge a scenario that both runs measured under the same conditions."""
    before, after = (read_timings(side.directory.path, scenario) for side in (pair.base, pair.head))
    if before is None or after is None:
        return Judgement("incomparable", "the raw measurements are not in the run directory")
    if before.samples != after.samples:
        return Judgement("incomparable", "different samples were timed")
    if reason := _difference(("device", *before.own_settings), before.settings, after.settings):
        return Judgement("incomparable", reason)
    difference = slowdown(before.seconds_by_process(), after.seconds_by_process())
    if profile not in GATING:
        return Judgement("not decided", f"{profile} never gates", difference)
    return judge(difference, limit)


def incomparable(
    old: ScenarioRecord | None, new: ScenarioRecord | None, base: Environments, head: Environments
) -> str:
    """Return why two measurements cannot be compared, or an empty string if they can."""
    if old is None or new is None:
        return f"not measured in the {'baseline' if old is None else 'run'}"
    for where, scenario in (("baseline", old), ("run", new)):
        if not scenario.valid:
            return f"the {where}'s measurement is not valid: {'; '.join(scenario.reasons)}"
    if difference := _difference(("profile", "batch_size", "threads"), old, new):
        return difference
    before, after = base.get(old.environment), head.get(new.environment)
    if before is None or after is None:
        return "" if old.environment == new.environment else "the hardware of one run is not described"
    if before.host != after.host:
        return f"host differs: {before.host} → {after.host}"
    return _difference(type(before.hardware).model_fields, before.hardware, after.hardware)


def _difference(names: Iterable[str], before: object, after: object) -> str:
    """Return the first of these attributes that differs, with both values, or an empty string."""
    for name in names:
        if (old := getattr(before, name)) != (new := getattr(after, name)):
            return f"{name.replace('_', ' ')} differs: {old} → {new}"
    return ""


def slowdown(base: Sequence[float], head: Sequence[float]) -> Figure:
    """Compute the additional time per sample as a fraction of the baseline's; below 0 is faster.

    The unit is the process. Runs made apart have independent processes, so estimate and interval are those of
    a shift of logarithms: Hodges-Lehmann and Mann-Whitney. Four processes per run are enough for an interval.

    Args:
        base, head: Seconds per sample of each process; at least one per side.
    """
    change, n = shift(np.log(base), np.log(head)).mapped(np.expm1), len(base) + len(head)
    signature = f"{STATISTIC}|Mann-Whitney over processes"
    return Figure(change.value, change.low, change.high, n, "of the time per sample", signature)
