"""Speed before and after: the relative difference in time per sample, with its interval, from raw timings."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from harness.compare import speed_verdict
from harness.compare.accuracy import RunPair
from harness.compare.outcome import Change, Verdict
from harness.environment import Environment
from harness.rundir.results import ScenarioRecord
from harness.rundir.speed import read_timings
from harness.scenarios.scenario import SCENARIOS, Scenario
from harness.scenarios.settings import GATING
from harness.statistics.welch import welch
from harness.task import Figure

Environments = Mapping[str, Environment]


def speed_changes(pair: RunPair, base: Environments, head: Environments) -> Iterable[Change]:
    """Yield the change of each scenario's headline figure, given the environments of both runs by key."""
    before, after = pair.base.record.speed, pair.head.record.speed
    for name in dict.fromkeys([*after, *before]):
        scenario = SCENARIOS.get(name)
        old, new = before.get(name), after.get(name)
        profile = (new or before[name]).profile
        difference: Figure | None = None
        verdict: Verdict = "incomparable"
        reason = _incomparable(old, new, base, head)
        if not reason:
            difference, verdict, reason = _judge(pair, name, profile)
        yield Change(
            figure_kind="speed",
            name=f"{name} {scenario.headline_name}",
            base=scenario.headline(old) if old else None,
            head=scenario.headline(new) if new else None,
            difference=difference,
            verdict=verdict,
            reason=reason,
            decides=profile in GATING,
        )


def _judge(pair: RunPair, scenario: str, profile: str) -> tuple[Figure | None, Verdict, str]:
    """Return slowdown, verdict and reason of a scenario that both runs measured under the same conditions."""
    before, after = (read_timings(side.directory.path, scenario) for side in (pair.base, pair.head))
    if before is None or after is None:
        return None, "incomparable", "the raw measurements are not in the run directory"
    old, new = before.settings.device, after.settings.device
    if old != new:
        return None, "incomparable", f"device differs: {old} → {new}"
    if before.samples != after.samples:
        return None, "incomparable", "different samples were timed"
    difference = slowdown(before, after)
    processes = min(len(before.processes), len(after.processes))
    return difference, *speed_verdict.decide(profile, processes, difference)


def _incomparable(
    old: ScenarioRecord | None, new: ScenarioRecord | None, base: Environments, head: Environments
) -> str:
    """Return why two measurements cannot be compared, or an empty string if they can."""
    if old is None or new is None:
        return f"not measured in the {'baseline' if old is None else 'run'}"
    for where, scenario in (("baseline", old), ("run", new)):
        if not scenario.valid:
            return f"the {where}'s measurement is not valid: {'; '.join(scenario.reasons)}"
    for field in ("profile", "batch_size", "threads"):
        if getattr(old, field) != getattr(new, field):
            return f"{field.replace('_', ' ')} differs: {getattr(old, field)} → {getattr(new, field)}"
    before, after = base.get(old.environment), head.get(new.environment)
    if before is None or after is None:
        return "" if old.environment == new.environment else "the hardware of one run is not described"
    return _hardware_difference(before, after)


def _hardware_difference(base: Environment, head: Environment) -> str:
    """Return the first difference in hardware between two environments, or an empty string."""
    before, after = ({"host": machine.host, **machine.hardware.model_dump()} for machine in (base, head))
    fields = (field for field in before if before[field] != after[field])
    return next((f"hardware differs: {field} {before[field]} → {after[field]}" for field in fields), "")


def slowdown(base: Scenario, head: Scenario) -> Figure:
    """Compute the additional time per sample as a fraction of the baseline's; see `time_difference`.

    The interval is over processes if both runs have several. Otherwise it is over windows (see
    `Scenario.seconds_by_window`) and covers only the variation within a process.
    """
    if min(len(base.processes), len(head.processes)) > 1:
        return time_difference(base.seconds_by_process(), head.seconds_by_process(), "processes")
    return time_difference(base.seconds_by_window(), head.seconds_by_window(), "windows")


def time_difference(base: Sequence[float], head: Sequence[float], unit: str) -> Figure:
    """Compute the difference in time per sample as a fraction of the baseline's; below 0 is faster.

    The interval is Welch's t interval of the difference between the mean logarithms.

    Args:
        base, head: Seconds per sample of each process or window; at least one per side.
        unit: What each value is measured over, `processes` or `windows`; part of the signature.
    """
    before, after = np.log(base), np.log(head)
    low, high = (None if bound is None else float(np.expm1(bound)) for bound in welch(before, after))
    value = float(np.expm1(after.mean() - before.mean()))
    signature = f"seconds per sample|ln ratio|Welch t over {unit}"
    return Figure(value, low, high, len(before) + len(after), "of the time per sample", signature)
