"""The driver of a run: train missing checkpoints, predict, score, measure, and write results.json.

The driver is the only writer of the run directory. Work whose result is on disk is not repeated, so an
interrupted run is resumed by the same command.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime
from functools import cache, partial
from typing import TypeAlias

from harness import environment
from harness.compare.outcome import INCONCLUSIVE, REGRESSION
from harness.decisions.claims import PARTIAL_RUN
from harness.driver.claims import decide_claims
from harness.driver.gate import open_baseline, run_gate
from harness.driver.mend import mend
from harness.driver.pairs import score_pairs
from harness.driver.prediction import predict
from harness.driver.preflight import preflight, require_trials
from harness.driver.probes import measure_probes
from harness.driver.progress import RunProgress
from harness.driver.record import recorded_trials, write_run_record
from harness.driver.scoring import scoring
from harness.driver.settings import RunSettings
from harness.driver.side_by_side import show_disagreements
from harness.driver.slices import score_slices
from harness.driver.timing import measure
from harness.errors import InfrastructureError, UsageError
from harness.executors.executor import Executor
from harness.files import read_record
from harness.recipe import CheckpointRef
from harness.rundir.collect import collect
from harness.rundir.records import RunFile
from harness.rundir.results import Results, ScenarioRecord, to_json
from harness.rundir.store import RunDirectory
from harness.scenarios.settings import PROFILES
from harness.stages.child import start_fork_server
from harness.suite.loading import LoadedSuite
from harness.suite.plan import plan

ExecutorFactory: TypeAlias = Callable[[], AbstractContextManager[Executor]]


def run(
    loaded: LoadedSuite, settings: RunSettings, make_executor: ExecutorFactory, progress: RunProgress
) -> Results:
    """Run a suite in its run directory and return the directory's results.

    Raises:
        UsageError: The suite, a checkpoint or the run directory is wrong; nothing was written in this case.
        InfrastructureError: The cluster cannot be reached, or training failed.
    """
    start_fork_server()  # takes seconds, during which the suite is planned
    planned = plan(loaded, settings.only, settings.limit)
    require_trials(planned)
    preflight(planned.trials, progress.note)
    directory = RunDirectory(settings.out)
    with open_baseline(loaded, planned.trials, settings) as baseline, directory.open(loaded.suite.name):
        for skipped in planned.skipped:
            progress.note(f"skipped {skipped.benchmark}: {skipped.reason}")
        with ExitStack() as stack:

            @cache
            def executor() -> Executor:  # starts when it is first needed, not for a run complete on disk
                started = stack.enter_context(make_executor())
                started.check(planned.trials)
                return started

            if planned.missing_checkpoints:
                train_missing(planned.missing_checkpoints, executor(), progress)
                planned = plan(loaded, settings.only, settings.limit)
                preflight(planned.trials, progress.note)
            mend(directory, planned.trials, settings.only, progress.note)
            write_run_record(directory, loaded, planned, settings, executor)
            with _noticing_removal(directory):
                with scoring(directory, planned.trials, progress.note) as finish:
                    predict(directory, planned.trials, settings.shard_size, executor, progress, finish)
                recorded = recorded_trials(directory)
                score_pairs(directory, recorded)
                score_slices(directory, recorded)
                show_disagreements(directory, recorded)
                measure_probes(directory, loaded.suite.claims, planned.trials, progress)
                local = None if settings.on_cluster else environment.describe()
                for number, trial in enumerate(planned.trials):
                    earlier = planned.trials[:number]
                    measure(directory, trial, earlier, loaded.suite.speed, executor, progress, local)
                incomplete = not set(planned.unselected) <= {trial.name for trial in recorded}
                decide_claims(directory, loaded.suite.claims, recorded, incomplete)
        with _noticing_removal(directory):  # after the workers have ended, which would disturb the gate
            run_gate(directory, loaded, planned.trials, baseline, settings, progress.note)
            return _finish(directory)


@contextmanager
def _noticing_removal(directory: RunDirectory) -> Iterator[None]:
    """Name the cause of an error that follows from the removal of the run directory."""
    try:
        yield
    except Exception as error:
        if directory.run_file.exists():
            raise
        message = f"--out {directory.path}: was removed while this run was writing to it; run again"
        raise InfrastructureError(message) from error


def train_missing(missing: Sequence[CheckpointRef], executor: Executor, progress: RunProgress) -> None:
    """Train missing checkpoints one after another."""
    for reference in missing:
        progress.status(f"training {reference.name} → {reference.weights}")
        executor.train(reference, partial(progress.training, reference.name))


def _finish(directory: RunDirectory) -> Results:
    """Record the time at which the run first finished, and write results.json."""
    record = read_record(directory.run_file, RunFile)
    assert record is not None
    if record.run.finished is None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        finished = record.run.model_copy(update={"finished": now})
        directory.write_record(directory.run_file, record.model_copy(update={"run": finished}))
    results = collect(directory.path)
    directory.digests.write(directory.path / "results.json", to_json(results).encode())
    for digests in [directory.digests, *(directory.trial(trial.id).digests for trial in results.trials)]:
        digests.settle()
    return results


def exit_code(results: Results, strict: bool = False) -> int:
    """Return the exit code of a run.

    0: there are trials, every one is complete, and every speed measurement that gates is valid.
    1: a trial is slower than the baseline that was timed in turns with it, or a required claim is refuted.
    2: some input is invalid, so that another attempt would fail as well.
    3: a trial is incomplete for another reason, a speed measurement failed, or gates and is not valid, or a
       required claim could not be decided.
    4: if strict, a comparison with the baseline is inconclusive or incomparable.
    """
    against = [record for trial in results.trials for record in trial.turns.values() if record.decides]
    verdicts = {record.verdict for record in against}
    refuted = any(claim.required and claim.verdict == "refuted" for claim in results.claims)
    if refuted or "regression" in verdicts:
        return REGRESSION
    if any(failure.invalid_input for trial in results.trials for failure in trial.failures):
        return UsageError.exit_code
    complete = bool(results.trials) and all(trial.status == "complete" for trial in results.trials)
    valid = all(
        scenario.valid or _may_be_invalid(scenario)
        for trial in results.trials
        for scenario in trial.speed.values()
    )
    undecided = any(
        claim.required and claim.verdict == "not decided" and claim.reason != PARTIAL_RUN
        for claim in results.claims
    )
    if undecided or not complete or not valid or any(record.failed for record in against):
        return InfrastructureError.exit_code
    return INCONCLUSIVE if strict and verdicts & {"inconclusive", "incomparable"} else 0


def _may_be_invalid(scenario: ScenarioRecord) -> bool:
    """Return whether a timing never gates, and none of its processes failed."""
    profile = PROFILES[scenario.profile]
    return not profile.gates and scenario.queries > 0 and scenario.processes >= profile.processes
