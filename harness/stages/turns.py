"""Timing of a trial in turns with another version of the code: functions for the processes of one version.

Each version has an interpreter of its own, which plans its own suite with its own code. For each trial, it
forks a process that loads the model and is timed. Versions exchange plain data only.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.adapter import ADAPTERS
from harness.scenarios.scenario import SCENARIOS, Conditions, ProcessTiming
from harness.scenarios.settings import EffectiveSettings, Profile
from harness.stages.child import Child
from harness.stages.measure import Stand, load_bench, prepare
from harness.suite.loading import load_suite
from harness.suite.plan import plan
from harness.suite.schema import SpeedEntry
from harness.trial import Trial

PROTOCOL = 1  # changes with the arguments or results of the functions that another version calls
TURN = Profile(0.2, 1, 1, passes=1, warmup_seconds=0.2, warmup_patience=0.2, warmup_cap=0.2)

_trials: dict[str, tuple[Trial, SpeedEntry]] = {}
_process: Child | None = None  # of the trial that is being timed
_model: tuple[str, Stand, Conditions] | None = None  # in that process: its scenario, and when it was warm
_timing: ProcessTiming | None = None  # the turns so far


def open_suite(
    suite: str, overrides: Sequence[str], names: Sequence[str], limit: int | None
) -> dict[str, Any]:
    """Plan the benchmarks of some trials, named BENCHMARK/VARIANT, in the interpreter of a version.

    Returns:
        The protocol, the names of those `trials` that the suite has, and the source `files` of their adapters
        and of the harness.
    """
    loaded = load_suite(Path(suite), overrides)
    wanted = {name.partition("/")[0] for name in names}
    entries = {name: entry for name, entry in loaded.suite.benchmarks.items() if name in wanted}
    loaded.suite = loaded.suite.model_copy(update={"benchmarks": entries})
    trials = {trial.name: trial for trial in plan(loaded, limit=limit).trials} if entries else {}
    _trials.update({name: (trials[name], loaded.suite.speed) for name in names if name in trials})
    adapters = {trial.spec.adapter for trial, _ in _trials.values()}
    modules = {name: ADAPTERS.entries()[name].module for name in adapters} | {"harness": "harness"}
    files = {name: sys.modules[module].__file__ for name, module in modules.items()}
    return {"protocol": PROTOCOL, "trials": [*_trials], "files": files}


def begin(trial: str, scenario: str, part: int, parts: int, window: int, seconds: float) -> dict[str, Any]:
    """Fork a process that loads and warms up the model of a trial, in place of the one before.

    Args:
        part, parts: The part of a pass to time.
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


def turn(seconds: float) -> None:
    """Time the process for one turn; `seconds` is the deadline."""
    assert _process is not None
    _process.call(_turn, seconds=seconds)


def finish(seconds: float) -> dict[str, Any]:
    """Return the raw timings of all turns of the process; `seconds` is the deadline."""
    assert _process is not None
    return _process.call(_finish, seconds=seconds)


def _begin(
    trial: Trial, speed: SpeedEntry, scenario: str, part: int, parts: int, window: int
) -> dict[str, Any]:
    global _model
    settings = speed.settings(trial.spec.threads)
    bench = load_bench(trial, trial.load_checkpoint(), trial.open_planned_dataset(), settings)
    stand = prepare(scenario, bench, trial.spec.batch_size, TURN, slice(part, None, parts), window)
    _model = scenario, stand, stand.conditions()
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
        "queries": len(stand.work.queries),
        "pass_seconds": stand.pass_seconds,
        "window": stand.work.window_queries,
    }


def _turn() -> None:
    global _timing
    assert _model is not None
    scenario, stand, conditions = _model
    timing = SCENARIOS.get(scenario).run(stand.work, TURN, lambda: conditions)
    _timing = _timing.joined(timing) if _timing else timing


def _finish() -> dict[str, Any]:
    assert _model is not None and _timing is not None
    return _timing.model_copy(update=dict(_model[1].conditions())).model_dump(mode="json")
