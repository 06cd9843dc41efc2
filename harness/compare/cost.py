"""Changes in the cost of a model: exact counts, peak memory and energy."""

from collections.abc import Iterator
from dataclasses import replace
from typing import get_args

from harness.compare.accuracy import RunPair
from harness.compare.outcome import Change
from harness.compare.speed import Environments, incomparable
from harness.decisions.policy import Cost, GatePolicy
from harness.rundir.results import TrialRecord
from harness.task import Figure

_UNITS: dict[Cost, str] = {"parameters": "parameters", "flops": "FLOPs per sample", "memory": "bytes"}


def cost_changes(pair: RunPair, base: Environments, head: Environments, gate: GatePolicy) -> Iterator[Change]:
    """Yield the change of each cost that a rule of the gate limits, judged by the whole intervals."""
    for name in get_args(Cost):
        rule = gate.rule("cost", name)
        if rule is None or rule.max_growth is None:
            continue
        before, after = (_figure(side.record, name) for side in (pair.base, pair.head))
        limit = f"max_growth {rule.max_growth:g}"
        change = Change("cost", name, before, after, decides=rule.tier == "blocking", limit=limit)
        reason = ""
        if before is None or after is None:
            reason = f"not measured in the {'baseline' if before is None else 'run'}"
        elif name in ("memory", "energy"):
            scenario = next(iter(pair.head.record.speed), "")
            old, new = (side.record.speed.get(scenario) for side in (pair.base, pair.head))
            reason = incomparable(old, new, base, head)
        yield replace(change, reason=reason) if reason else _judge(change, 1 + rule.max_growth)


def _figure(record: TrialRecord, name: Cost) -> Figure | None:
    if name == "energy":
        return record.offline.energy if record.offline else None
    count = record.cost.peak_memory_bytes if name == "memory" else getattr(record.cost, name)
    signature = "peak over the processes" if name == "memory" else "exact count"
    return None if count is None else Figure(count, count, count, 1, _UNITS[name], signature)


def _judge(change: Change, factor: float) -> Change:
    assert change.base and change.head
    if not (change.base.interval and change.head.interval):
        return replace(change, verdict="inconclusive", reason="it has no interval: too few processes")
    (base_low, base_high), (low, high) = change.base.interval, change.head.interval
    if low > base_high * factor:
        return replace(change, verdict="regression", reason=f"more than {change.limit}")
    if high <= base_low * factor:
        return replace(change, verdict="pass", reason=f"within {change.limit}")
    return replace(change, verdict="inconclusive", reason=f"the intervals contain the limit ({change.limit})")
