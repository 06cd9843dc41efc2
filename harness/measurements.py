"""Measure a trial's speed and keep every raw latency in its directory; what is there is not done again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from harness import environment
from harness.errors import InfrastructureError
from harness.executors.executor import Executor
from harness.plan import Trial
from harness.stages.measure import SpeedSettings
from harness.stages.timing import PROFILES
from harness.store import RunDirectory, TrialDirectory, read_json, write_json
from harness.suite import SpeedEntry

SPEED_ATTEMPTS = 3  # an invalid measurement is repeated twice; `smoke`, which never gates, is not


def measure(
    directory: RunDirectory,
    trial: Trial,
    speed: SpeedEntry,
    executor: Callable[[], Executor],
    note: Callable[[str], None],
    machine: str | None,
) -> None:
    """Time what is not timed yet, in as many fresh processes as the profile asks for.

    A measurement that fails is recorded as such; the next run of the suite tries it again.

    Args:
        machine: key of the environment that times, whose measurements alone are not repeated; None for
            a cluster, which has several.
    """
    place = directory.trial(trial.id)
    settings = SpeedSettings(speed.profile, speed.threads, speed.samples)
    todo = [name for name in trial.scenarios if not _measured(place, name, settings, machine)]
    if not todo or place.todo(trial.spec.size):
        return
    profile = PROFILES[speed.profile]
    processes: list[dict[str, Any]] = []
    common: dict[str, Any]
    running = executor()
    try:
        for number in range(1, profile.processes + 1):
            note(f"timing {trial.name}: {', '.join(todo)} (process {number}/{profile.processes})")
            for _ in range(SPEED_ATTEMPTS if profile.gates else 1):
                measured = running.measure(trial, todo, settings)
                if not any(scenario["reasons"] for scenario in measured["scenarios"].values()):
                    break
            processes.append(measured)
    except InfrastructureError as error:
        note(str(error))
        processes = []
        described = environment.describe()
        asked = asdict(settings) | {"effective_threads": speed.threads or 0}
        common = {"settings": asked, "samples": [], "error": str(error)}
    else:
        first = processes[0]
        described = first["environment"]
        common = {"settings": first["settings"], "samples": first["samples"]}
        kept = {key: first[key] for key in ("phases", "cost", "flags")}
        write_json(place.path / "speed" / "common.json", kept)
    timed_on = environment.key(described)
    write_json(directory.path / "environments" / f"{timed_on}.json", described)
    for name in todo:
        document = {
            "scenario": name,
            "environment": timed_on,
            "batch_size": trial.spec.batch_size if name == "offline" else 1,
            **common,
            "processes": [measured["scenarios"][name] for measured in processes],
        }
        write_json(place.path / "speed" / f"{name}.json", document)


def _measured(place: TrialDirectory, name: str, settings: SpeedSettings, machine: str | None) -> bool:
    """Measured with these settings, on this machine, and validly where validity matters."""
    raw = read_json(place.path / "speed" / f"{name}.json")
    if not raw or not raw["processes"] or raw["environment"] != (machine or raw["environment"]):
        return False
    if any(raw["settings"].get(key) != value for key, value in asdict(settings).items()):
        return False
    valid = not any(process["reasons"] for process in raw["processes"])
    return valid or not PROFILES[settings.profile].gates
