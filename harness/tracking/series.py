"""Raw measurements as curves by step, which show in MLflow how a process warmed up or was disturbed."""

from __future__ import annotations

from pathlib import Path

from harness.files import read_json

MOST = 1000  # points per curve: what one request holds, and more than its chart has pixels
Curve = list[tuple[int, float]]
"""(step, value)."""


def series(trial_dir: Path) -> dict[str, Curve]:
    """`series/latency_ms` by query and `series/ips` by window, of a trial's processes one after the other.

    Longer curves are thinned: every k-th point is kept, under its own step.
    """
    found = {}
    latencies = _of_processes(trial_dir, "single-stream", "latencies_ns")
    if latencies:
        found["series/latency_ms"] = _thinned([ns / 1e6 for ns in latencies])
    windows = _of_processes(trial_dir, "offline", "windows")
    if windows:
        found["series/ips"] = _thinned([samples / seconds for samples, seconds in windows])
    return found


def _of_processes(trial_dir: Path, scenario: str, key: str) -> list:
    raw = read_json(trial_dir / "speed" / f"{scenario}.json") or {"processes": []}
    return [each for process in raw["processes"] for each in process.get(key, [])]


def _thinned(values: list[float]) -> Curve:
    stride = -(-len(values) // MOST)
    return list(enumerate(values))[::stride]
