"""The command line: reads arguments, calls one function a command, prints, sets the exit code."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from harness.cli.catalogue import catalogue_app
from harness.cli.jobs import jobs_app
from harness.cli.options import AsJson, Limit, Only, Override, Profile, ShardSize, SuiteName, Sync, Workers
from harness.cli.results import results_app
from harness.cli.score import score_app
from harness.errors import HarnessError, UsageError, describe


class _Group(TyperGroup):
    """Turns the errors that users cause into one message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except HarnessError as error:
            sys.stderr.write(f"error: {error}\n")
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            sys.stderr.write("interrupted; the same command resumes\n")
            raise typer.Exit(130) from None
        except Exception as error:
            # Exit code 1 means a regression: a defect of ours must not look like one.
            if hasattr(error, "exit_code") or os.environ.get("HARNESS_DEBUG"):
                raise
            message = f"{type(error).__name__}: {error}"
            sys.stderr.write(f"internal error: {message} (HARNESS_DEBUG=1 shows where)\n")
            raise typer.Exit(HarnessError.exit_code) from None


app = typer.Typer(cls=_Group, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(results_app)
app.add_typer(jobs_app)
app.add_typer(score_app, name="score")
app.add_typer(catalogue_app)


class ExecutorName(StrEnum):
    inline = "inline"
    ray = "ray"


ExecutorOption = Annotated[ExecutorName, typer.Option(help="Where stages run.")]
AddressOption = Annotated[str | None, typer.Option(metavar="ADDR", help="A Ray cluster; local if not given.")]


@app.command()
def validate(
    suites: Annotated[list[str] | None, typer.Argument(metavar="SUITE...")] = None,
    schema: Annotated[bool, typer.Option(help="Print the JSON Schema of suite files.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check suites as a run does before it starts: schema, names, options, data, recipes, checkpoints."""
    from harness.cli.terminal import show

    if schema:
        from harness.suite.schema import json_schema

        show(json_schema())
        return
    if not suites:
        raise UsageError("name at least one suite, or pass --schema")
    from harness.run.driver import preflight
    from harness.suite.plan import plan
    from harness.suite.schema import find_suite, load_suite

    documents = []
    for name in suites:
        planned = plan(load_suite(find_suite(name)))
        preflight(planned.trials)
        skipped = [each.model_dump() for each in planned.skipped]
        document = {"suite": name, "valid": True, "trials": len(planned.trials), "skipped": skipped}
        documents.append(document)
        if not as_json:
            sys.stdout.write(f"{name}: valid, {len(planned.trials)} trials\n")
            sys.stdout.writelines(f"  skipped {each['benchmark']}: {each['reason']}\n" for each in skipped)
    if as_json:
        show(documents)


@app.command("plan")
def plan_command(
    suite: SuiteName,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Default: runs/SUITE.")] = None,
    overrides: Override = [],  # noqa: B006
    only: Only = None,
    limit: Limit = None,
    as_json: AsJson = False,
) -> None:
    """What would run, what is on disk, what must be trained, resources and cost; runs nothing."""
    from harness.cli.terminal import show, show_plan
    from harness.run.estimate import estimate
    from harness.rundir.store import RunDirectory
    from harness.suite.plan import plan
    from harness.suite.schema import find_suite, load_suite

    loaded = load_suite(find_suite(suite), overrides)
    planned = plan(loaded, only, limit)
    directory = RunDirectory(out or Path("runs") / loaded.suite.name)
    document = estimate(planned, directory, loaded.suite.speed)
    show(document) if as_json else show_plan(document)


@app.command()
def train(
    suite: SuiteName,
    overrides: Override = [],  # noqa: B006
    only: Only = None,
    executor: ExecutorOption = ExecutorName.ray,
    address: AddressOption = None,
    workers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="N workers of the cluster share each batch.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train the checkpoints that a suite needs and that are missing."""
    from harness.cli.terminal import console, show
    from harness.run.driver import check_any, preflight, train_missing
    from harness.run.progress import RunProgress
    from harness.suite.plan import plan
    from harness.suite.schema import find_suite, load_suite

    planned = plan(load_suite(find_suite(suite), overrides), only)
    check_any(planned)
    preflight([trial for trial in planned.trials if trial.missing])
    with RunProgress(console) as progress:
        if planned.missing:
            with _executor(executor, address, workers)() as running:
                train_missing(planned.missing, running, progress, workers)
        else:
            progress.note("every checkpoint is there; nothing to train")
    if as_json:
        show([{"checkpoint": ref.name, "weights": str(ref.weights)} for ref in planned.missing])


@app.command("run")
def run_command(
    suite: SuiteName,
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="Run directory. Default: runs/SUITE.")
    ] = None,
    overrides: Override = [],  # noqa: B006
    only: Only = None,
    limit: Limit = None,
    executor: ExecutorOption = ExecutorName.ray,
    address: AddressOption = None,
    workers: Workers = None,
    shard_size: ShardSize = 64,
    profile: Profile = None,
    sync_results: Sync = True,
    as_json: AsJson = False,
) -> None:
    """Run a suite, or finish an interrupted run of it: the same command resumes."""
    from harness.cli.terminal import console, show_results
    from harness.environment import command_line
    from harness.run.driver import RunSettings, exit_code, run
    from harness.run.progress import RunProgress
    from harness.rundir.results import to_json
    from harness.rundir.store import run_folder
    from harness.suite.schema import find_suite, load_suite
    from reports.write import write_reports

    if profile:
        overrides = [*overrides, f"speed.profile={profile}"]
    loaded = load_suite(find_suite(suite), overrides)
    directory = run_folder(out or f"runs/{loaded.suite.name}")
    settings = RunSettings(directory, command_line(), only, limit, shard_size, on_cluster=address is not None)
    with RunProgress(console) as progress:
        results = run(loaded, settings, _executor(executor, address, workers), progress)
    page = write_reports(directory)
    if sync_results:
        _sync_or_say(directory, executor)
    if as_json:
        sys.stdout.write(to_json(results))
    else:
        show_results(results)
    console.print(f"report: {page}", markup=False)
    raise typer.Exit(exit_code(results))


def _sync_or_say(directory: Path, executor: ExecutorName) -> None:
    """A tracking server that is down loses nothing: the run directory is the record."""
    from importlib.util import find_spec

    from harness.cli.terminal import console

    if executor is ExecutorName.inline and find_spec("mlflow") is None:
        console.print("MLflow is not installed: not logged; `harness sync` completes it elsewhere")
        return
    try:
        from harness.tracking import sync

        outcome = sync(directory)
    except Exception as error:  # a defect, too, must not take the run's exit code
        if os.environ.get("HARNESS_DEBUG"):
            raise
        reason = str(error) if isinstance(error, HarnessError) else f"internal error: {describe(error)}"
        console.print(
            f"not logged to MLflow: {reason}; `harness sync {directory}` completes it", markup=False
        )
    else:
        console.print(f"MLflow: {outcome.describe()} (open it with `harness ui`)", markup=False)


def _executor(name: ExecutorName, address: str | None, workers: int | None) -> Any:
    """How to make the executor; Ray is imported only when it is made."""
    if name is ExecutorName.inline:
        if address or (workers or 1) > 1:
            raise UsageError("--executor inline is one process here: it takes no --address and no --workers")
        from harness.executors.inline import InlineExecutor

        return InlineExecutor

    def make() -> Any:
        from harness.executors.ray.executor import RayExecutor

        return RayExecutor(address, workers)

    return make


def main() -> None:
    """Entry point."""
    app()
