"""Changes in the cost of a model: exact counts, which need no interval."""

from collections.abc import Iterator
from dataclasses import replace
from typing import get_args

from harness.compare.accuracy import RunPair
from harness.compare.outcome import Change
from harness.decisions.policy import Cost, GatePolicy
from harness.task import Figure

_UNITS: dict[Cost, str] = {"parameters": "parameters", "flops": "FLOPs per sample"}


def cost_changes(pair: RunPair, gate: GatePolicy) -> Iterator[Change]:
    """Yield the change of each cost that a rule of the gate limits."""
    for name in get_args(Cost):
        rule = gate.rule("cost", name)
        if rule is None or rule.max_growth is None:
            continue
        base, head = (getattr(side.record.cost, name, None) for side in (pair.base, pair.head))
        before, after = (_count(value, _UNITS[name]) for value in (base, head))
        limit = f"max_growth {rule.max_growth:g}"
        change = Change("cost", name, before, after, decides=rule.tier == "blocking", limit=limit)
        if base is None or head is None:
            where = "baseline" if base is None else "run"
            yield replace(change, reason=f"not counted in the {where}")
        else:
            worse = head > base * (1 + rule.max_growth)
            reason = f"{'more than' if worse else 'within'} {limit}"
            yield replace(change, verdict="regression" if worse else "pass", reason=reason)


def _count(value: float | None, unit: str) -> Figure | None:
    if value is None:
        return None
    return Figure(float(value), float(value), float(value), 1, unit, "exact count")
