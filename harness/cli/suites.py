"""Commands that take a suite: `validate`, `plan`, `train`, `run`."""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from harness.cli import options
from harness.driver.settings import SHARD_SIZE, TURN_SECONDS
from harness.errors import HarnessError, UsageError, describe
from harness.executors.choice import executor_factory

suites_app = typer.Typer()


ExecutorName = Literal["inline", "ray"]
ExecutorOption = Annotated[ExecutorName, typer.Option(help="Where stages run.")]
AddressOption = Annotated[
    str | None, typer.Option(metavar="ADDR", help="Address of a Ray cluster. Default: start a local one.")
]


@suites_app.command()
def validate(
    suites: Annotated[
        list[str] | None,
        typer.Argument(metavar="SUITE...", help="Paths of suites, or names of shipped ones."),
    ] = None,
    schema: Annotated[bool, typer.Option(help="Print the JSON Schema of suite files.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Check suites: schema, names, options, data, recipes, checkpoints."""
    from harness.cli.terminal import show

    if schema:
        from harness.suite.schema import json_schema

        show(json_schema())
        return
    if not suites:
        raise UsageError("name at least one suite, or pass --schema")
    from harness.driver.preflight import preflight
    from harness.suite.loading import find_suite, load_suite
    from harness.suite.plan import plan

    documents = []
    for name in suites:
        planned = plan(load_suite(find_suite(name)))
        preflight(planned.trials)
        skipped = [benchmark.model_dump() for benchmark in planned.skipped]
        document = {"suite": name, "valid": True, "trials": len(planned.trials), "skipped": skipped}
        documents.append(document)
        if not as_json:
            sys.stdout.write(f"{name}: valid, {len(planned.trials)} trials\n")
            sys.stdout.writelines(f"  skipped {entry['benchmark']}: {entry['reason']}\n" for entry in skipped)
    if as_json:
        show(documents)


@suites_app.command("plan")
def plan_command(
    suite: options.SuiteName,
    out: options.RunFolder = None,
    overrides: options.Override = [],  # noqa: B006
    only: options.Only = None,
    limit: options.Limit = None,
    as_json: options.AsJson = False,
) -> None:
    """Show what a run would do, its resources and cost."""
    from harness.cli.terminal import show, show_plan
    from harness.driver.estimate import estimate
    from harness.rundir.store import RunDirectory, run_folder
    from harness.suite.loading import find_suite, load_suite
    from harness.suite.plan import plan

    loaded = load_suite(find_suite(suite), overrides)
    planned = plan(loaded, only, limit)
    directory = RunDirectory(run_folder(out or f"runs/{loaded.suite.name}"))
    estimated = estimate(planned, directory, loaded.suite.speed)
    show(estimated.model_dump(mode="json")) if as_json else show_plan(estimated)


@suites_app.command()
def train(
    suite: options.SuiteName,
    overrides: options.Override = [],  # noqa: B006
    only: options.Only = None,
    executor: ExecutorOption = "ray",
    address: AddressOption = None,
    as_json: options.AsJson = False,
) -> None:
    """Train the missing checkpoints of a suite."""
    from harness.cli.terminal import console, show
    from harness.driver.preflight import preflight, require_trials
    from harness.driver.progress import RunProgress
    from harness.driver.run import train_missing
    from harness.suite.loading import find_suite, load_suite
    from harness.suite.plan import plan

    planned = plan(load_suite(find_suite(suite), overrides), only)
    require_trials(planned)
    preflight([trial for trial in planned.trials if trial.needs_training])
    with RunProgress(console) as progress:
        if planned.missing_checkpoints:
            with executor_factory(executor, address)() as running:
                train_missing(planned.missing_checkpoints, running, progress)
        else:
            progress.note("no checkpoint is missing; nothing to train")
    if as_json:
        show([{"checkpoint": ref.name, "weights": str(ref.weights)} for ref in planned.missing_checkpoints])


@suites_app.command("run")
def run_command(
    suite: options.SuiteName,
    out: options.RunFolder = None,
    overrides: options.Override = [],  # noqa: B006
    only: options.Only = None,
    limit: options.Limit = None,
    executor: ExecutorOption = "ray",
    address: AddressOption = None,
    workers: options.Workers = None,
    shard_size: options.ShardSize = SHARD_SIZE,
    profile: options.Profile = None,
    baseline_checkout: options.BaselineCheckout = None,
    baseline_run: options.BaselineRun = None,
    turn_seconds: options.TurnSeconds = TURN_SECONDS,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with code 4 if inconclusive.")] = False,
    sync_results: options.Sync = True,
    as_json: options.AsJson = False,
) -> None:
    """Run a suite, or resume an interrupted run of it."""
    from harness.cli.terminal import console, show_claims, show_results, show_turns
    from harness.driver.progress import RunProgress
    from harness.driver.run import exit_code, run
    from harness.driver.settings import RunSettings
    from harness.environment import command_line
    from harness.rundir.results import to_json
    from harness.rundir.store import run_folder
    from harness.suite.loading import find_suite, load_suite
    from reports.write import write_reports

    if profile:
        overrides = [*overrides, f"speed.profile={profile}"]
    loaded = load_suite(find_suite(suite), overrides)
    directory = run_folder(out or f"runs/{loaded.suite.name}")
    settings = RunSettings(
        directory,
        command_line(),
        only,
        limit,
        shard_size,
        tuple(overrides),
        baseline_checkout,
        baseline_run,
        turn_seconds,
        on_cluster=address is not None,
    )
    with RunProgress(console) as progress:
        results = run(loaded, settings, executor_factory(executor, address, workers), progress)
    page = write_reports(directory)
    if sync_results:
        _sync_or_report(directory, executor, page.parent)
    if as_json:
        sys.stdout.write(to_json(results))
    else:
        show_results(results)
        show_claims(results)
        show_turns((f"{trial.benchmark}/{trial.variant}", trial.turns) for trial in results.trials)
    console.print(f"report: {page}")
    raise typer.Exit(exit_code(results, strict))


@suites_app.command()
def calibrate(
    suite: options.SuiteName = "quickstart",
    overrides: options.Override = [],  # noqa: B006
    only: options.Only = None,
    limit: options.Limit = None,
    repeats: Annotated[int, typer.Option(min=1, metavar="N", help="Comparisons of each scenario.")] = 5,
    turn_seconds: options.TurnSeconds = TURN_SECONDS,
    as_json: options.AsJson = False,
) -> None:
    """Time a suite in turns with itself, to know what this machine can tell apart."""
    from harness.cli.terminal import console, show
    from harness.driver.gate import calibrate, calibration_path
    from harness.driver.preflight import preflight, require_trials
    from harness.driver.settings import RunSettings
    from harness.suite.loading import find_suite, load_suite
    from harness.suite.plan import plan

    loaded = load_suite(find_suite(suite), overrides)
    planned = plan(loaded, only, limit)
    require_trials(planned)
    preflight(planned.trials)
    settings = RunSettings(Path(), "", limit=limit, overrides=tuple(overrides), turn_seconds=turn_seconds)
    calibration = calibrate(loaded, planned.trials, settings, repeats, console.print)
    if as_json:
        show(calibration.model_dump(mode="json"))
    else:
        for scenario in calibration.differences:
            size = calibration.half_width(scenario)
            sys.stdout.write(f"{scenario}: 95% of the differences found are within ±{size:.2%}\n")
    console.print(f"stored in {calibration_path()}")


def _sync_or_report(directory: Path, executor: ExecutorName, report: Path) -> None:
    """Log the run with its report to MLflow. A failure is reported and does not change the exit code."""
    from importlib.util import find_spec

    from harness.cli.terminal import console

    if executor == "inline" and find_spec("mlflow") is None:
        console.print("MLflow is not installed; run `harness sync` where it is installed")
        return
    try:
        from harness.tracking import sync

        outcome = sync(directory, report=report)
    except Exception as error:  # an internal error must not change the run's exit code either
        if os.environ.get("HARNESS_DEBUG"):
            raise
        reason = str(error) if isinstance(error, HarnessError) else f"internal error: {describe(error)}"
        console.print(f"not logged to MLflow: {reason}; `harness sync {directory}` logs it later")
    else:
        console.print(f"MLflow: {outcome.describe()}")
