"""From a suite and the options of a run to a job: what travels, its command and its variables."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from harness import environment
from harness.errors import UnavailableError, UsageError
from harness.jobs.job import JobSpec
from harness.jobs.package import Package, pack
from harness.rundir.store import run_folder
from harness.suite.plan import plan
from harness.suite.schema import LoadedSuite

TRACKING = "MLFLOW_TRACKING_URI"


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
    """All that a cluster is given."""

    spec: JobSpec
    package: Package
    variables: dict[str, str]
    out: str


def prepare(loaded: LoadedSuite, options: RunOptions, variables: Sequence[str]) -> Submission:
    """Check here whatever can be checked before anything is sent.

    Raises:
        UsageError: the suite, --out or a variable is wrong.
    """
    with suppress(UnavailableError):  # the cluster may have the data that this machine lacks
        plan(loaded, options.only, options.limit)
    out = options.out or f"~/runs/{loaded.suite.name}"
    run_folder(out)
    if not out.startswith(("/", "~")):
        raise UsageError(f"--out {out}: expected an absolute path on the cluster")
    package = pack(loaded)
    wanted = dict(_variable(given) for given in variables)
    tracking = os.environ.get(TRACKING, "")
    if urlsplit(tracking).scheme in {"http", "https"} and "@" not in tracking:
        wanted.setdefault(TRACKING, tracking)  # anyone who sees the dashboard sees a job's variables
    spec = JobSpec(loaded.suite.name, _arguments(package.suite, out, options), package.digest, wanted)
    return Submission(spec, package, {**_provenance(), **wanted}, out)


def _arguments(suite: str, out: str, options: RunOptions) -> list[str]:
    arguments = [suite, "--out", out, "--address", "auto", "--shard-size", str(options.shard_size)]
    for override in options.overrides:
        arguments += ["--set", override]
    chosen = {
        "--only": options.only,
        "--limit": options.limit,
        "--workers": options.workers,
        "--profile": options.profile,
    }
    for option, value in chosen.items():
        if value is not None:
            arguments += [option, str(value)]
    return arguments if options.sync else [*arguments, "--no-sync"]


def _variable(given: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise UsageError(f"--env {given}: expected NAME or NAME=VALUE")
    if not equals:
        if name not in os.environ:
            raise UsageError(f"--env {name}: not set here; give it as {name}=VALUE")
        value = os.environ[name]
    return name, value


def _provenance() -> dict[str, str]:
    """What the code was before it left its checkout; the job's results name it."""
    spec = find_spec("harness")
    folder = Path(spec.origin or "").parent if spec else Path()
    revision, dirty = environment.git_state(folder)
    found = {
        environment.SENT_REVISION: revision and f"{revision}{'+dirty' if dirty else ''}",
        environment.SENT_BRANCH: environment.git_branch(Path.cwd()),
    }
    return {name: value for name, value in found.items() if value}
