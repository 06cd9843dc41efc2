"""Commands that run suites as jobs of a Ray cluster: `submit`, `status`, `logs`, `stop`."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import AsJson, Limit, Only, Override, Profile, ShardSize, SuiteName, Sync, Workers
from harness.driver.settings import SHARD_SIZE

if TYPE_CHECKING:
    from harness.jobs.client import JobsClient
    from harness.jobs.job import JobRecord

jobs_app = typer.Typer()
Address = Annotated[
    str,
    typer.Option(
        metavar="URL",
        envvar="RAY_API_SERVER_ADDRESS",
        help="Address of Ray's dashboard, such as http://head:8265.",
    ),
]
JobId = Annotated[
    str, typer.Argument(metavar="ID", help="Id that `harness submit` and `harness status` print.")
]
Follow = Annotated[bool, typer.Option("--follow", help="Print the job's output until it ends.")]
Out = Annotated[
    str | None, typer.Option(metavar="DIR", help="Absolute path on the cluster. Default: ~/runs/SUITE there.")
]
Variables = Annotated[
    list[str],
    typer.Option(
        "--env",
        metavar="NAME[=VALUE]",
        help="Environment variable of the job. Default value: the one set here.",
    ),
]


@jobs_app.command()
def submit(
    suite: SuiteName,
    address: Address,
    out: Out = None,
    follow: Follow = False,
    environment: Variables = [],  # noqa: B006
    overrides: Override = [],  # noqa: B006
    only: Only = None,
    limit: Limit = None,
    workers: Workers = None,
    shard_size: ShardSize = SHARD_SIZE,
    profile: Profile = None,
    sync_results: Sync = True,
    again: Annotated[
        bool, typer.Option("--again", help="Run again even if the same submission succeeded.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a suite as a job of a Ray cluster, or resume it."""
    from harness.cli.terminal import console, show
    from harness.jobs.client import connect
    from harness.jobs.submission import RunOptions, prepare
    from harness.suite.loading import find_suite, load_suite

    loaded = load_suite(find_suite(suite), overrides)
    options = RunOptions(out, tuple(overrides), only, limit, workers, shard_size, profile, sync_results)
    submission = prepare(loaded, options, environment)
    cluster = connect(address)
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "package.zip"
        submission.package.write(package)
        job, new = cluster.submit(submission.spec, package, submission.variables, again)
    if new:
        console.print(f"submitted as {job.id}; results go to {submission.out}")
    elif job.exit_code is None:
        console.print(f"is already running as {job.id}")
    else:
        console.print(f"has already succeeded as {job.id} (--again repeats it)")
    if follow:
        job = _follow(cluster, job.id)
    if as_json:
        show({**asdict(job), "new": new, "out": submission.out})
    elif not follow:
        sys.stdout.write(f"{job.id}\n")
    raise typer.Exit(job.exit_code or 0 if follow else 0)


@jobs_app.command()
def status(
    address: Address,
    job_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="One job. Default: all jobs of the harness.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the jobs of the harness, newest first."""
    from harness.cli.terminal import show, show_table
    from harness.jobs.client import connect

    cluster = connect(address)
    jobs = [cluster.job(job_id)] if job_id else cluster.jobs()
    if as_json:
        show(asdict(jobs[0]) if job_id else [asdict(job) for job in jobs])
        return
    rows = []
    for job in jobs:
        code = "–" if job.exit_code is None else str(job.exit_code)
        rows.append([job.id, job.status, code, job.started or "–", job.ended or "–"])
    show_table(["job", "status", "exit code", "started", "ended"], rows)
    if job_id and jobs[0].message:
        sys.stdout.write(f"{jobs[0].message}\n")


@jobs_app.command()
def logs(job_id: JobId, address: Address, follow: Follow = False) -> None:
    """Print the output of a job."""
    from harness.jobs.client import connect

    cluster = connect(address)
    if follow:
        raise typer.Exit(_follow(cluster, job_id).exit_code or 0)
    sys.stdout.write(cluster.logs(job_id))


@jobs_app.command()
def stop(job_id: JobId, address: Address, as_json: AsJson = False) -> None:
    """Stop a job. Submitting its suite again resumes it."""
    from harness.cli.terminal import show
    from harness.jobs.client import connect

    stopped = connect(address).stop(job_id)
    if as_json:
        show({"id": job_id, "stopped": stopped})
    else:
        sys.stdout.write(f"{job_id}: {'stopping' if stopped else 'had already ended'}\n")


def _follow(jobs: JobsClient, job_id: str) -> JobRecord:
    """Print the output until the job ends. Ctrl-C leaves the job running."""
    from harness.cli.terminal import console

    try:
        job = jobs.follow(job_id, lambda text: console.print(text, end=""))
    except KeyboardInterrupt:
        console.print(
            f"{job_id} keeps running; `harness logs {job_id} --follow` shows it again, "
            f"`harness stop {job_id}` stops it"
        )
        raise typer.Exit(130) from None
    ending = f"{job.id}: {job.status.lower()}, exit code {job.exit_code}"
    console.print(ending + (f" ({job.message})" if job.exit_code == 3 else ""))
    return job
