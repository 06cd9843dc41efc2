"""Speed before and after: the ratio of times a sample, with its interval, from the raw measurements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from harness import environment
from harness.compare import speed_verdict
from harness.compare.accuracy import Pair, Side
from harness.compare.outcome import Change, Verdict
from harness.files import read_json
from harness.rundir.results import Scenario
from harness.statistics.welch import welch
from harness.suite.profiles import GATING
from harness.task import Figure

Environments = Mapping[str, Mapping[str, Any]]
Raw = Mapping[str, Any]
"""A document as in speed/SCENARIO.json; empty where there is none."""
_FIGURES = {"offline": "offline throughput", "single-stream": "single-stream p50"}


def speed_changes(pair: Pair, base: Environments, head: Environments) -> Iterable[Change]:
    """One change a scenario: of the throughput, or of the median latency.

    Args:
        base, head: what the keys of machines stand for in the two runs.
    """
    before, after = pair.base.record.speed, pair.head.record.speed
    for name in dict.fromkeys([*after, *before]):
        old, new = before.get(name), after.get(name)
        raws = [_raw(side, name) for side in (pair.base, pair.head)]
        figures = (_figure(name, old), _figure(name, new))
        profile = (new or before[name]).profile
        difference: Figure | None = None
        verdict: Verdict = "incomparable"
        reason = _incomparable(old, new, base, head) or _other_work(*raws)
        if not reason:
            difference = slowdown(*raws)
            processes = min(len(raw["processes"]) for raw in raws)
            verdict, reason = speed_verdict.decide(profile, processes, difference)
        decides = profile in GATING
        yield Change("speed", _FIGURES[name], *figures, difference, verdict, reason, decides)


def _raw(side: Side, name: str) -> Raw:
    return read_json(side.place.path / "speed" / f"{name}.json") or {}


def _figure(name: str, scenario: Scenario | None) -> Figure | None:
    if scenario is None:
        return None
    return scenario.throughput if name == "offline" else scenario.latency.get("p50")


def _incomparable(old: Scenario | None, new: Scenario | None, base: Environments, head: Environments) -> str:
    """Why two measurements cannot be compared; empty if they can."""
    if old is None or new is None:
        return f"not measured in the {'baseline' if old is None else 'run'}"
    for where, scenario in (("baseline", old), ("run", new)):
        if not scenario.valid:
            return f"the {where}'s measurement is not valid: {'; '.join(scenario.reasons)}"
    for field in ("profile", "batch_size", "threads"):
        if getattr(old, field) != getattr(new, field):
            return f"{field.replace('_', ' ')} differs: {getattr(old, field)} → {getattr(new, field)}"
    machines = base.get(old.environment, {}), head.get(new.environment, {})
    if old.environment != new.environment and not all(machines):
        return "the machine of one run is not described"
    before_all, after_all = ({"host": m.get("host"), **environment.hardware(m)} for m in machines)
    for field, before in before_all.items():
        after = after_all[field]
        if before != after:
            return f"hardware differs: {field} {before} → {after}"
    return ""


def _other_work(base: Raw, head: Raw) -> str:
    """The raw measurements say what exactly was timed."""
    if not (base and head):
        return "the raw measurements are not in the run directory"
    devices = [raw["settings"].get("device") for raw in (base, head)]
    if devices[0] != devices[1]:
        return f"device differs: {devices[0]} → {devices[1]}"
    return "" if base["samples"] == head["samples"] else "other samples were timed"


def slowdown(base: Raw, head: Raw) -> Figure:
    """Extra time a sample as a fraction of the baseline's; below 0 is faster.

    Welch's t interval of the difference of mean logarithms of seconds a sample: over processes where both
    runs have several, else over windows (offline) or passes over the samples (single-stream), which shows
    the spread within a process only.
    """
    several = min(len(raw["processes"]) for raw in (base, head)) > 1
    before, after = (np.log(_by_process(raw) if several else _by_window(raw)) for raw in (base, head))
    low, high = (None if bound is None else float(np.expm1(bound)) for bound in welch(before, after))
    value = float(np.expm1(after.mean() - before.mean()))
    signature = f"seconds a sample|ln ratio|Welch t over {'processes' if several else 'windows'}"
    return Figure(value, low, high, len(before) + len(after), "of the time a sample", signature)


def _by_process(raw: Raw) -> list[float]:
    """Mean seconds a sample of each process, or the median latency."""
    return [
        sum(s for _, s in process["windows"]) / sum(n for n, _ in process["windows"])
        if "windows" in process
        else float(np.median(process["latencies_ns"])) / 1e9
        for process in raw["processes"]
    ]


def _by_window(raw: Raw) -> list[float]:
    """Seconds a sample of each window, or the median latency of each pass over the samples."""
    found = []
    for process in raw["processes"]:
        if "windows" in process:
            found += [s / n for n, s in process["windows"]]
        else:
            passes = np.reshape(process["latencies_ns"], (-1, len(raw["samples"])))
            found += (np.median(passes, axis=1) / 1e9).tolist()
    return found
