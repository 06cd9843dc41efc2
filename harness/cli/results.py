"""Commands that take finished runs: `report`, `sync`, `verify`, `ui`."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import AsJson
from harness.errors import InfrastructureError, UsageError, printable

results_app = typer.Typer()

TrackingUri = Annotated[str | None, typer.Option(metavar="URI", help="Default: $MLFLOW_TRACKING_URI.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]


@results_app.command()
def report(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...", help="Run directories, or mlflow:SUITE for every run logged under a suite."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Default: RUN/report. Given several runs, write only their trend.html."
        ),
    ] = None,
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Write the report of each run, and the trend over several."""
    from harness.cli.terminal import console, show
    from harness.compare.trend import read_trend
    from harness.rundir.results import read_results
    from reports.verdict import to_summary
    from reports.write import write_reports, write_trend

    logged = [run for run in runs if run.startswith("mlflow:")]
    if logged and len(runs) > 1:
        raise UsageError(f"{logged[0]}: name one suite in MLflow, or run directories, not both")
    given = [] if logged else _without_store([Path(run) for run in runs])
    several, paths = len(given) > 1, _finished(given)
    trend = None
    if logged:
        from harness.tracking.past_runs import logged_trend

        suite = logged[0].removeprefix("mlflow:")
        trend = write_trend(logged_trend(suite, tracking_uri), out or Path("runs") / suite / "report")
    elif several:
        trend = write_trend(read_trend(paths), out or paths[-1] / "report")
    pages = {run: write_reports(run, out) for run in ([] if several and out else paths)}
    if as_json:
        reports = [
            {"run": str(run), "report": str(page), **to_summary(read_results(run))}
            for run, page in pages.items()
        ]
        show({"reports": reports, "trend": trend and str(trend)})
    else:
        for written in filter(None, [*pages.values(), trend]):
            console.print(f"report: {written}")


def _without_store(paths: list[Path]) -> list[Path]:
    """Drop MLflow's store, which `runs/*` matches, unless nothing else is left."""
    return [
        path for path in paths if path.name != "mlartifacts" and not path.name.startswith("mlflow.db")
    ] or paths


def _finished(runs: list[Path]) -> list[Path]:
    """Drop unfinished runs, with a message, if there are several paths.

    Keep other paths that are not runs; reading them later is an error.
    """
    from harness.cli.terminal import console

    if len(runs) < 2:
        return runs
    unfinished = [run for run in runs if (run / "run.json").is_file() and not (run / "results.json").exists()]
    for run in unfinished:
        console.print(f"skipped: {run} has no results yet; `harness run` finishes it")
    if len(unfinished) == len(runs):
        raise UsageError("none of these runs has results yet")
    return [run for run in runs if run not in unfinished]


@results_app.command()
def sync(
    run: RunPath,
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Log a run to MLflow. Repeating it changes nothing."""
    from dataclasses import asdict

    from harness.cli.terminal import console, show
    from harness.tracking import sync as sync_run

    outcome = sync_run(run, tracking_uri)
    if as_json:
        show(asdict(outcome))
    else:
        console.print(f"MLflow: {outcome.describe()}")


@results_app.command()
def verify(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.", resolve_path=True)],
    as_json: AsJson = False,
) -> None:
    """Check the digests of runs, and compute their figures again from the raw evidence."""
    from harness.cli.terminal import show
    from harness.driver.verify import verify as verify_run

    verifications = [verify_run(run) for run in runs]
    if as_json:
        show([verification.model_dump(mode="json") for verification in verifications])
    for verification in [] if as_json else verifications:
        lines = [*verification.damaged, *verification.different]
        lines += [f"not recomputed: {reason}" for reason in verification.not_recomputed]
        state = "as it was written" if verification.ok else f"{len(lines)} findings"
        lines += [f"{folder} is not counted: run.json does not list it" for folder in verification.unlisted]
        lines.append(f"{state}; {verification.figures} accuracy figures recomputed")
        sys.stdout.writelines(f"{printable(verification.run)}: {printable(line)}\n" for line in lines)
    if not all(verification.ok for verification in verifications):
        raise typer.Exit(InfrastructureError.exit_code)


@results_app.command()
def ui(
    root: Annotated[Path, typer.Option(help="Folder that contains the runs.")] = Path("runs"),
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
) -> None:
    """Serve MLflow's UI on the runs."""
    import signal
    import subprocess
    import time

    from harness.cli.terminal import console
    from harness.tracking import served_views, ui_command

    def end(number: int, _: object) -> None:
        raise typer.Exit(128 + number)

    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # 0.5 GB instead of 2.9
    command = ui_command(root, port)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    server = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        while server.poll() is None and (views := served_views(port)) is None:
            time.sleep(0.2)  # until the server answers
        if server.poll() is None:
            console.print(f"MLflow: http://127.0.0.1:{port} (Ctrl-C ends it)")
            console.print("\n".join(f"  {suite}: {view}" for suite, view in (views or {}).items()))
        raise InfrastructureError(f"MLflow's server ended with exit code {server.wait()}")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)  # the server starts processes that would outlive it
        server.wait()
