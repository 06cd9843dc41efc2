"""Raw timings with given times, complete in every other respect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.scenarios.loop import Window
from harness.scenarios.offline import Offline, OfflineProcess
from harness.scenarios.scenario import Conditions, TimedOn
from harness.scenarios.settings import EffectiveSettings
from harness.scenarios.single_stream import SingleStream, SingleStreamProcess
from harness.scenarios.warm_up import WarmUp

SETTINGS = EffectiveSettings(
    profile="ci", threads=1, samples=2, exclusive="node", effective_threads=1, device="cpu"
)
SAMPLES = ["a", "b"]


def conditions(batch_size: int = 1, reasons: Sequence[str] = ()) -> Conditions:
    """Return the conditions of a process on an idle machine."""
    timed_on = TimedOn(
        node="bench-1",
        reserved={},
        started="2025-03-01T10:00:00+00:00",
        finished="2025-03-01T10:01:00+00:00",
        foreign_cores=0.0,
    )
    warm_up = WarmUp(iterations=10, seconds=2.0, stable=True)
    return Conditions(batch_size=batch_size, warm_up=warm_up, timed_on=timed_on, reasons=list(reasons))


def offline_timings(processes: Sequence[Sequence[tuple[int, float]]], **changes: Any) -> Offline:
    """Return passes of one window, (samples, seconds), by process; `changes` replaces other keys."""
    timings = [
        OfflineProcess(**dict(conditions(8)), windows=[Window(0, *window) for window in windows])
        for windows in processes
    ]
    return Offline.model_validate(_document("offline", 8, timings) | changes)


def single_stream_timings(processes: Sequence[Sequence[float]], **changes: Any) -> SingleStream:
    """Return latencies in seconds by process, of the samples in turn; `changes` replaces other keys."""
    timings = [
        SingleStreamProcess(
            **dict(conditions()),
            latencies_ns=[round(seconds * 1e9) for seconds in latencies],
            indices=[index % len(SAMPLES) for index in range(len(latencies))],
        )
        for latencies in processes
    ]
    return SingleStream.model_validate(_document("single-stream", 1, timings) | changes)


def _document(scenario: str, batch_size: int, processes: Sequence[object]) -> dict[str, Any]:
    return {
        "scenario": scenario,
        "batch_size": batch_size,
        "processes": processes,
        "environment": "env1",
        "settings": SETTINGS,
        "samples": SAMPLES,
    }
