"""Timing of a trial in turns with another version of the code: functions for the processes of one version.

Each version has an interpreter of its own, which plans its own suite with its own code. For each trial, it
forks a process that loads the model and is timed. Versions exchange plain data only.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.adapter import ADAPTERS
from harness.decisions.policy import GatePolicy
from harness.scenarios.loop import Workload
from harness.scenarios.scenario import SCENARIOS, Conditions, ProcessTiming, Scenario
from harness.scenarios.settings import EffectiveSettings, Profile
from harness.stages.child import Child
from harness.stages.measure import load_bench, prepare
from harness.suite.loading import load_suite
from harness.suite.plan import plan
from harness.suite.schema import SpeedEntry
from harness.trial import Trial

PROTOCOL = 3  # changes with the arguments or results of the functions that another version calls
TURN = Profile(0.2, 1, 1, 1, warmup_seconds=0.2, warmup_queries=2, warmup_patience=0.2, warmup_cap=0.2)


@dataclass
class _Model:
    """A warm model, and its timing so far."""

    scenario: type[Scenario]
    work: Workload
    conditions: Callable[[], Conditions]
    timing: ProcessTiming | None = None


_trials: dict[str, tuple[Trial, SpeedEntry]] = {}
_process: Child | None = None  # of the trial that is being timed
_model: _Model | None = None  # in that process


def open_suite(
    suite: str, overrides: Sequence[str], names: Sequence[str], limit: int | None
) -> dict[str, Any]:
    """Plan the benchmarks of some trials, named BENCHMARK/VARIANT, in the interpreter of a version.

    Returns:
        The protocol; the ids of those `trials` that the suite has, by name; the weights that are `untrained`;
        and the source `files` of the adapters and of the harness.
    """
    loaded = load_suite(Path(suite), overrides)
    wanted = {name.partition("/")[0] for name in names}
    entries = {name: entry for name, entry in loaded.suite.benchmarks.items() if name in wanted}
    loaded.suite = loaded.suite.model_copy(update={"benchmarks": entries, "claims": {}, "gate": GatePolicy()})
    trials = {trial.name: trial for trial in plan(loaded, limit=limit).trials} if entries else {}
    _trials.update({name: (trials[name], loaded.suite.speed) for name in names if name in trials})
    adapters = {trial.spec.adapter for trial, _ in _trials.values()}
    modules = {name: ADAPTERS.entries()[name].module for name in adapters} | {"harness": "harness"}
    files = {name: sys.modules[module].__file__ for name, module in modules.items()}
    planned = [trial for trial, _ in _trials.values()]
    untrained = [trial.checkpoint for trial in planned if trial.checkpoint and trial.checkpoint.missing]
    return {
        "protocol": PROTOCOL,
        "trials": {trial.name: trial.id for trial in planned},
        "untrained": [str(checkpoint.weights) for checkpoint in untrained],
        "files": files,
    }


def begin(trial: str, scenario: str, part: int, parts: int, window: int, seconds: float) -> dict[str, Any]:
    """Fork a process that loads and warms up the model of a trial, in place of the one before.

    Args:
        window: Queries per window, or 0 to choose their number from the time of a pass.
        seconds: Deadline.

    Returns:
        The `conditions`, which must be those of the other version; the `settings`; and of the part, the
        `queries`, the `pass_seconds` and the queries per `window`.
    """
    global _process
    if _process is not None:
        _process.close()
    _process = Child("fork")
    return _process.call(_begin, *_trials[trial], scenario, part, parts, window, seconds=seconds)


def forward(function: Callable[[], Any], seconds: float) -> Any:
    """Call `take_turn` or `finish` in the forked process; `seconds` is the deadline."""
    assert _process is not None
    return _process.call(function, seconds=seconds)


def _begin(
    trial: Trial, speed: SpeedEntry, scenario: str, part: int, parts: int, window: int
) -> dict[str, Any]:
    global _model
    settings = speed.settings(trial.spec.threads)
    bench = load_bench(trial, settings)
    work, conditions = prepare(
        scenario, bench, trial.spec.batch_size, TURN, slice(part, None, parts), window, tenants=2
    )
    _model = _Model(SCENARIOS.get(scenario), work, conditions)
    _, pass_seconds = conditions().warm_up.curve[-1]
    device = bench.adapter.runtime.device
    effective = EffectiveSettings(**dict(settings), effective_threads=bench.threads, device=device)
    return {
        "conditions": {
            "data set": trial.spec.dataset,
            "batch size": trial.spec.batch_size,
            "device": device,
            "threads": bench.threads,
            "samples": [sample.id for sample in bench.samples],
        },
        "settings": effective.model_dump(mode="json"),
        "queries": len(work.queries),
        "pass_seconds": pass_seconds,
        "window": work.window_queries,
    }


def take_turn() -> None:
    """Time the model of this process for one turn."""
    assert _model is not None
    timing = _model.scenario.run(_model.work, TURN, _model.conditions)
    _model.timing = _model.timing.joined(timing) if _model.timing else timing


def finish() -> dict[str, Any]:
    """Return the raw timings of all turns of this process."""
    assert _model is not None and _model.timing is not None
    return _model.timing.model_dump(mode="json")
