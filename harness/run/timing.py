"""Measure a trial's speed and keep every raw latency in its directory; what is there is not done again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from harness import environment
from harness.errors import InfrastructureError
from harness.executors.executor import Executor
from harness.files import read_json, write_json
from harness.rundir.store import RunDirectory
from harness.stages.measure import SpeedSettings
from harness.suite.profiles import PROFILES
from harness.suite.schema import SpeedEntry
from harness.trial import Trial

SPEED_ATTEMPTS = 3  # an invalid measurement is repeated twice; `smoke`, which never gates, is not


def measure(
    directory: RunDirectory,
    trial: Trial,
    speed: SpeedEntry,
    executor: Callable[[], Executor],
    note: Callable[[str], None],
    machine: Mapping[str, Any] | None,
) -> None:
    """Time what is not timed yet, in as many fresh processes as the profile asks for.

    Every process is kept at once, so that the next run of the suite goes on after the last one. Until the
    last, a scenario's file has an `error` that says what is missing; a measurement that is repeated because
    it is not valid stays under `rejected`.

    Args:
        machine: the environment that times, whose measurements alone are not repeated; None for a cluster,
            which has several.
    """
    if directory.trial(trial.id).todo(trial.spec.size):
        return
    settings = SpeedSettings(speed.profile, speed.threads, speed.samples, speed.exclusive)
    timing = _Timing(directory, trial, settings, machine)
    if not timing.todo():
        return
    running = executor()
    try:
        while todo := timing.todo():
            note(f"timing {trial.name}: {', '.join(todo)} ({timing.progress(todo[0])})")
            timing.add(running.measure(trial, todo, settings))
    except InfrastructureError as error:
        note(str(error))
        timing.fail(str(error))


class _Timing:
    """The scenario files of one trial: what is there, what is missing, what was measured now."""

    def __init__(
        self,
        directory: RunDirectory,
        trial: Trial,
        settings: SpeedSettings,
        machine: Mapping[str, Any] | None,
    ) -> None:
        self._directory = directory
        self._folder = directory.trial(trial.id).path / "speed"
        self._trial = trial
        self._settings = settings
        self._profile = PROFILES[settings.profile]
        self._setting: dict[str, Any] | None = None
        """Machine and effective settings of the processes of this run; they may not differ."""
        self._documents = {name: self._kept(name, machine) for name in trial.scenarios}

    def todo(self) -> list[str]:
        """Scenarios that lack processes."""
        return [name for name in self._trial.scenarios if self._lacks(name)]

    def progress(self, name: str) -> str:
        return f"process {len(self._documents[name]['processes']) + 1}/{self._profile.processes}"

    def add(self, measured: Mapping[str, Any]) -> None:
        """Keep what one process measured.

        Raises:
            InfrastructureError: it ran on another machine, or with other settings, than the ones before.
        """
        described = measured["environment"]
        setting = {"settings": measured["settings"], **environment.speed_setting(described)}
        if self._setting is None:
            common = {key: measured[key] for key in ("phases", "cost", "flags")}
            write_json(self._folder / "common.json", common)
            self._setting = setting
        changed = [key for key, value in setting.items() if value != self._setting[key]]
        if changed:
            raise InfrastructureError(
                f"timing {self._trial.name}: the processes differ in {', '.join(changed)}: they ran on "
                "different machines, whose times are not to be mixed"
            )
        timed_on = environment.key(described)
        write_json(self._directory.path / "environments" / f"{timed_on}.json", described)
        for name, scenario in measured["scenarios"].items():
            document = self._documents[name]
            if document["processes"] and self._setting_of(document) != setting:
                document = self._documents[name] = self._empty(name)  # of an earlier run, elsewhere
            document |= {
                "environment": timed_on,
                "settings": measured["settings"],
                "samples": measured["samples"],
                "units": measured["units"],
            }
            number = len(document["processes"]) + 1
            tried = 1 + sum(rejected["process"] == number for rejected in document["rejected"])
            if scenario["reasons"] and self._profile.gates and tried < SPEED_ATTEMPTS:
                document["rejected"].append({"process": number, **scenario})
            else:
                document["processes"].append(scenario)
            self._write(name, "interrupted")

    def fail(self, error: str) -> None:
        """Say in the files of the scenarios that lack processes why they do."""
        for name in self.todo():
            if not self._documents[name]["processes"]:
                here = environment.describe()
                timed_on = environment.key(here)
                write_json(self._directory.path / "environments" / f"{timed_on}.json", here)
                asked = asdict(self._settings) | {"effective_threads": self._settings.threads or 0}
                self._documents[name] |= {"environment": timed_on, "settings": asked, "samples": []}
            self._write(name, error)

    def _write(self, name: str, error: str) -> None:
        done, wanted = len(self._documents[name]["processes"]), self._profile.processes
        after = f" (after {done} of {wanted} processes)" if done else ""
        incomplete = {"error": f"{error}{after}"} if self._lacks(name) else {}
        write_json(self._folder / f"{name}.json", self._documents[name] | incomplete)

    def _lacks(self, name: str) -> bool:
        return len(self._documents[name]["processes"]) < self._profile.processes

    def _kept(self, name: str, machine: Mapping[str, Any] | None) -> dict[str, Any]:
        """Processes with these settings on this machine, those only that are valid where validity matters."""
        raw = read_json(self._folder / f"{name}.json")
        if not raw or any(raw["settings"].get(key) != value for key, value in asdict(self._settings).items()):
            return self._empty(name)
        timed_on = self._setting_of(raw)
        if machine is not None and timed_on != {
            "settings": raw["settings"],
            **environment.speed_setting(machine),
        }:
            return self._empty(name)
        raw.pop("error", None)
        processes = raw["processes"]
        valid = [p for p in processes if not p["reasons"] or not self._profile.gates]
        # Attempts are counted anew: whatever was in the way of the last run may be gone.
        earlier = [{**rejected, "process": 0} for rejected in raw.get("rejected", [])]
        earlier += [{"process": 0, **process} for process in processes if process not in valid]
        return raw | {"processes": valid, "rejected": earlier}

    def _empty(self, name: str) -> dict[str, Any]:
        batch_size = self._trial.spec.batch_size if name == "offline" else 1
        return {"scenario": name, "batch_size": batch_size, "processes": [], "rejected": []}

    def _setting_of(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Machine and effective settings of the processes that a file holds."""
        path = self._directory.path / "environments" / f"{document['environment']}.json"
        return {"settings": document["settings"], **environment.speed_setting(read_json(path) or {})}
