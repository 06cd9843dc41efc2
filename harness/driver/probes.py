"""Measure the probes that claims compare, once per trial: write probes.json."""

from collections.abc import Mapping, Sequence

from harness.decisions.claims import ClaimEntry, parse_claim
from harness.driver.derived import read_derived
from harness.driver.progress import RunProgress
from harness.errors import HarnessError, describe
from harness.identity import code_version
from harness.rundir.records import ProbesFile
from harness.rundir.store import RunDirectory
from harness.stages.probe import probe
from harness.suite.claims import probes_of, trials_of
from harness.trial import Trial


def measure_probes(
    directory: RunDirectory,
    claims: Mapping[str, ClaimEntry],
    trials: Sequence[Trial],
    progress: RunProgress,
) -> None:
    """Probe the models of trials that a claim needs; a failure is noted, and its claims are not decided."""
    needed = {
        trial.id: trial
        for entry in claims.values()
        for quantity in parse_claim(entry.claim).quantities
        for trial in trials_of(trials, entry.benchmark, quantity)
        if quantity.name in probes_of(trial)
    }
    key = code_version("harness.stages.probe")
    for trial in needed.values():
        trial_dir = directory.trial(trial.id)
        path = trial_dir.path / "probes.json"
        stored = read_derived(path, ProbesFile)
        if (stored and stored.key == key) or not trial_dir.is_scored(trial.spec.size, trial.metrics):
            continue
        trial_dir.digests.remove(path)  # of other code: no claim may use it if this probe fails
        progress.status(f"probing {trial.name}")
        try:
            trial_dir.write_record(path, ProbesFile(key=key, values=probe(trial)))
        except HarnessError as error:
            progress.note(f"{trial.name}: not probed: {describe(error)}")
