"""What a plan will take: what is on disk already, the resources of the rest, and its time as far as known."""

from __future__ import annotations

from typing import Any

from harness.files import read_json
from harness.rundir.store import RunDirectory, TrialDirectory
from harness.suite.plan import Plan
from harness.suite.profiles import PROFILES, Profile
from harness.suite.schema import SpeedEntry
from harness.trial import Trial


def estimate(planned: Plan, directory: RunDirectory, speed: SpeedEntry) -> dict[str, Any]:
    """The plan as data.

    Seconds of predicting follow from the trial's own measured throughput and are None before there is one;
    seconds of timing are the least that the profile asks for; training is given in steps.
    """
    return {
        "trials": [
            _trial(trial, directory.trial(trial.id), PROFILES[speed.profile]) for trial in planned.trials
        ],
        "train": [
            {
                "checkpoint": reference.name,
                "steps": reference.recipe.steps if reference.recipe else None,
                "weights": str(reference.weights),
            }
            for reference in planned.missing
        ],
        "timing_needs": "one GPU and its share of CPUs, or on a CPU every one of a node,"
        if speed.exclusive == "gpu"
        else "every CPU and GPU of a node",
        "skipped": [skipped.model_dump() for skipped in planned.skipped],
    }


def _trial(trial: Trial, place: TrialDirectory, profile: Profile) -> dict[str, Any]:
    todo = sum(stop - start for start, stop in place.todo(trial.spec.size))
    timed = [name for name in trial.scenarios if (read_json(_speed(place, name)) or {}).get("processes")]
    a_scenario = (profile.warmup_seconds + profile.seconds) * profile.processes
    cpu, gpu = f"{trial.resources.cpu:g} CPU", f"{trial.resources.gpu:g} GPU"
    worker = {"cpu": cpu, "cuda": f"{cpu}, {gpu}", "auto": f"{cpu}, {gpu} if there is one"}[trial.spec.device]
    return {
        "id": trial.id,
        "id_is_final": not trial.missing,
        "trial": trial.name,
        "task": trial.spec.task,
        "adapter": trial.spec.adapter,
        "samples": trial.spec.size,
        "done": trial.spec.size - todo,
        "checkpoint": trial.checkpoint.name if trial.checkpoint else None,
        "train": trial.missing,
        "scenarios": list(trial.scenarios),
        "timed": timed,
        "resources": {"predict": worker},
        "seconds": {
            "predict": _seconds_of_predicting(todo, place),
            "time": a_scenario * (len(trial.scenarios) - len(timed)),
        },
    }


def _speed(place: TrialDirectory, scenario: str) -> Any:
    return place.path / "speed" / f"{scenario}.json"


def _seconds_of_predicting(todo: int, place: TrialDirectory) -> float | None:
    """With one worker, at the throughput that was measured for this trial."""
    if todo == 0:
        return 0.0
    raw = read_json(_speed(place, "offline")) or {"processes": []}
    windows = [window for process in raw["processes"] for window in process["windows"]]
    samples, seconds = sum(n for n, _ in windows), sum(s for _, s in windows)
    return todo * seconds / samples if samples else None
