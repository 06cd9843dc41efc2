"""Preparation of a job from a suite and the options of a run: package, command and variables."""

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from harness import environment
from harness.errors import UnavailableError, UsageError
from harness.jobs.job import JobSpec
from harness.jobs.package import Package, pack
from harness.rundir.store import run_folder
from harness.suite.loading import LoadedSuite
from harness.suite.plan import plan

TRACKING_URI = "MLFLOW_TRACKING_URI"


@dataclass(frozen=True)
class RunOptions:
    """Options of `harness run` on the cluster."""

    out: str | None
    overrides: tuple[str, ...]
    only: str | None
    limit: int | None
    workers: int | None
    shard_size: int
    profile: str | None
    sync: bool


@dataclass(frozen=True)
class Submission:
    """Everything that is sent to a cluster."""

    spec: JobSpec
    package: Package
    variables: dict[str, str]
    out: str


def prepare(loaded: LoadedSuite, options: RunOptions, variables: Sequence[str]) -> Submission:
    """Prepare a job, checking everything that can be checked on this machine.

    A variable is NAME=VALUE, or NAME for one that is set here.
    """
    with suppress(UnavailableError):  # the cluster may have data that this machine lacks
        plan(loaded, options.only, options.limit)
    out = options.out or f"~/runs/{loaded.suite.name}"
    if not out.startswith("~"):  # a user of the cluster may not exist here
        run_folder(out)
    if not out.startswith(("/", "~")):
        raise UsageError(f"--out {out}: expected an absolute path on the cluster")
    package = pack(loaded)
    environment_variables = dict(_parse_variable(variable) for variable in variables)
    tracking = os.environ.get(TRACKING_URI, "")
    if urlsplit(tracking).scheme in {"http", "https"} and "@" not in tracking:
        # Without a password, since the dashboard shows a job's variables.
        environment_variables.setdefault(TRACKING_URI, tracking)
    arguments = _arguments(package.suite, out, options)
    spec = JobSpec(loaded.suite.name, arguments, package.digest, environment_variables)
    return Submission(spec, package, {**_provenance(), **environment_variables}, out)


def _arguments(suite: str, out: str, options: RunOptions) -> list[str]:
    arguments = [suite, "--out", out, "--address", "auto", "--shard-size", str(options.shard_size)]
    for override in options.overrides:
        arguments += ["--set", override]
    optional = {
        "--only": options.only,
        "--limit": options.limit,
        "--workers": options.workers,
        "--profile": options.profile,
    }
    for option, value in optional.items():
        if value is not None:
            arguments += [option, str(value)]
    return arguments if options.sync else [*arguments, "--no-sync"]


def _parse_variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise UsageError(f"--env {text}: expected NAME or NAME=VALUE")
    if not equals:
        if name not in os.environ:
            raise UsageError(f"--env {name}: not set here; pass {name}=VALUE")
        value = os.environ[name]
    return name, value


def _provenance() -> dict[str, str]:
    """Return variables with the revision of the code here, which the job's results record."""
    revision, dirty = environment.git_state()
    revisions = {
        environment.SENT_REVISION: revision and f"{revision}{'+dirty' if dirty else ''}",
        environment.SENT_BRANCH: environment.git_branch(Path.cwd()),
    }
    return {name: value for name, value in revisions.items() if value}
