"""Speed files of a trial directory, and the part of results.json that is computed from them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from harness.files import StrictModel, read_record
from harness.rundir.results import Cost, RunRecord, ScenarioRecord, TurnsRecord
from harness.scenarios.figures import duration, energy
from harness.scenarios.scenario import SCENARIOS, Scenario, ScenarioFigures
from harness.task import Figure


class CommonFile(StrictModel):
    """Content of speed/common.json: measurements that do not depend on the scenario."""

    phases: dict[str, list[float]]  # phase → seconds per sample, one value per process
    cost: Cost
    flags: dict[str, bool | str]  # settings of torch that affect speed, and digests of artefacts

    def joined(self, later: CommonFile) -> CommonFile:
        """Return this file with the phases of a later process appended."""
        phases = {phase: [*seconds, *later.phases[phase]] for phase, seconds in self.phases.items()}
        return self.model_copy(update={"phases": phases})


def common_path(trial_dir: Path) -> Path:
    """Return the path of common.json."""
    return trial_dir / "speed" / "common.json"


def timings_path(trial_dir: Path, scenario: str) -> Path:
    """Return the path of a scenario's raw timings."""
    return trial_dir / "speed" / f"{scenario}.json"


def turns_path(trial_dir: Path, name: str) -> Path:
    """Return the path of a comparison in turns, or of the raw times of one version in it."""
    return trial_dir / "turns" / f"{name}.json"


def turns(trial_dir: Path, names: Iterable[str]) -> dict[str, TurnsRecord]:
    """Return the comparisons in turns of those scenarios that have one."""
    records = {name: read_record(turns_path(trial_dir, name), TurnsRecord) for name in names}
    return {name: record for name, record in records.items() if record is not None}


def read_timings(trial_dir: Path, scenario: str) -> Scenario | None:
    """Return the raw timings of a scenario, or None if there are none."""
    return read_record(timings_path(trial_dir, scenario), SCENARIOS.get(scenario))


def scenarios(
    trial_dir: Path, names: Iterable[str], run: RunRecord, batch_size: int
) -> dict[str, ScenarioRecord]:
    """Return the figures of the planned scenarios. One without raw timings counts as failed."""
    timings = {name: read_timings(trial_dir, name) for name in names}
    return {
        name: _missing(name, run, batch_size) if raw is None else _record(raw)
        for name, raw in timings.items()
    }


def _missing(scenario: str, run: RunRecord, batch_size: int) -> ScenarioRecord:
    return ScenarioRecord(
        queries=0,
        seconds=0.0,
        environment=run.environment,
        profile=run.profile,
        batch_size=SCENARIOS.get(scenario).query_size(batch_size),
        threads=0,
        processes=0,
        valid=False,
        reasons=[f"not timed yet: speed/{scenario}.json is missing"],
    )


def _record(raw: Scenario) -> ScenarioRecord:
    reasons = sorted({reason for process in raw.processes for reason in process.reasons})
    if raw.error is not None:
        reasons.append(raw.error)
    figures = raw.summarise() if raw.processes else ScenarioFigures(queries=0, seconds=0.0)
    shared = [f"timed once, for {raw.timed_for}: the work is the same"] if raw.timed_for else []
    notes = [*shared, *raw.disturbed_medians(), *figures.notes]
    return ScenarioRecord(
        **dict(figures) | {"notes": notes},
        environment=raw.environment,
        profile=raw.settings.profile,
        batch_size=raw.batch_size,
        threads=raw.settings.effective_threads,
        processes=len(raw.processes),
        valid=not reasons,
        reasons=reasons,
        timed_on=[process.timed_on for process in raw.processes],
        energy=energy([process.timed_on.joules_per_sample for process in raw.processes]),
    )


def phases(trial_dir: Path) -> dict[str, Figure]:
    """Return the duration of each phase per sample, or nothing if the trial was not timed."""
    common = read_record(common_path(trial_dir), CommonFile)
    measured = common.phases if common else {}
    return {phase: duration(seconds, phase) for phase, seconds in measured.items()}


def cost(
    trial_dir: Path, checkpoint_bytes: int | None, artefact_bytes: int | None, parameters: int | None
) -> Cost:
    """Return a model's cost; unless it was measured, only the `parameters` of its predictions are known."""
    common = read_record(common_path(trial_dir), CommonFile)
    measured = common.cost if common else Cost(parameters=parameters)
    return measured.model_copy(
        update={"checkpoint_bytes": checkpoint_bytes, "artefact_bytes": artefact_bytes}
    )
