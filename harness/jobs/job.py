"""A suite as a Ray job: its id, its command, and its exit code. Pure."""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from harness.errors import InfrastructureError, UsageError
from harness.identity import content_id

INTERRUPTED_EXIT_CODE = 130  # as a shell reports SIGINT
# With which `harness run` fails. It compares nothing, so 1, a regression, is not among them.
RUN_EXIT_CODES = {UsageError.exit_code, InfrastructureError.exit_code, INTERRUPTED_EXIT_CODE}
SUITE_KEY = "harness-suite"  # the metadata key by which jobs of the harness are recognised
ENDED_STATUSES = {"SUCCEEDED", "FAILED", "STOPPED"}


@dataclass(frozen=True)
class JobSpec:
    """A job that `harness submit` requests."""

    suite: str  # name of the suite
    arguments: Sequence[str]  # arguments of `harness run` on the cluster
    package: str  # digest of the package with code, suite and weights
    environment: Mapping[str, str]  # environment variables that the user sets for the job

    @property
    def id(self) -> str:
        """`SUITE-HASH`, which is equal for equal suites, code, weights, options, --out and variables."""
        parts = {
            "arguments": list(self.arguments),
            "package": self.package,
            "environment": dict(self.environment),
        }
        return f"{self.suite}-{content_id(parts)[:12]}"

    @property
    def entrypoint(self) -> str:
        """The job's shell command."""
        return shlex.join(["python", "-m", "harness", "run", *self.arguments])


@dataclass(frozen=True)
class JobRecord:
    """A job on the cluster."""

    id: str
    suite: str | None  # None for a job that the harness did not submit
    status: str  # PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED
    exit_code: int | None  # the harness's exit code, see `exit_code`; None while the job may still run
    message: str
    started: str | None  # UTC, ISO 8601, as is `ended`
    ended: str | None
    command: str


def job_record(details: Any) -> JobRecord:
    """Return the record of a job that was submitted through the dashboard, from Ray's `JobDetails`."""
    status = str(details.status)
    return JobRecord(
        id=details.submission_id,
        suite=(details.metadata or {}).get(SUITE_KEY),
        status=status,
        exit_code=exit_code(status, details.driver_exit_code),
        message=" ".join((details.message or "").split())[:400],
        started=_iso_time(details.start_time),
        ended=_iso_time(details.end_time),
        command=details.entrypoint,
    )


def exit_code(status: str, driver_exit_code: int | None) -> int | None:
    """Return the harness's exit code for a job that has ended, or None while it may still run.

    - A stopped job is interrupted: submitting it again resumes it.
    - A failed job has the exit code of `harness run` if that code is one of the harness's failures.
    - All other failures are failures of the infrastructure: the driver was killed, never started, or ended
      with 1, as Python and Ray do if a library or the head is missing.
    """
    if status not in ENDED_STATUSES:
        return None
    if status == "STOPPED":
        return INTERRUPTED_EXIT_CODE
    if status == "SUCCEEDED":
        return 0
    return driver_exit_code if driver_exit_code in RUN_EXIT_CODES else InfrastructureError.exit_code


def attempts(job_id: str, jobs: Iterable[JobRecord]) -> dict[int, JobRecord]:
    """Return the attempts of a job by number: `ID`, then `ID-2`, `ID-3`.

    Ray never accepts an id twice, not even after the job was deleted.
    """
    by_number = {}
    for job in jobs:
        match = re.fullmatch(rf"{re.escape(job_id)}(?:-(\d+))?", job.id)
        if match:
            by_number[int(match[1] or 1)] = job
    return by_number


def attempt_id(job_id: str, attempt: int) -> str:
    """Return Ray's submission id for an attempt of a job; the first attempt is 1."""
    return job_id if attempt == 1 else f"{job_id}-{attempt}"


def _iso_time(milliseconds: int | None) -> str | None:
    """Return a time that Ray gives in milliseconds since 1970."""
    if not milliseconds:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")
