"""A suite as a Ray job: its id, its command, and what its end means as an exit code of ours. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from harness.errors import InfrastructureError, UsageError
from harness.identity import content_id

INTERRUPTED = 130  # as a shell reports SIGINT
RUN_CODES = {UsageError.exit_code, InfrastructureError.exit_code, INTERRUPTED}  # `harness run` that fails
OURS = "harness-suite"  # metadata key of the jobs that this module made
ENDED = {"SUCCEEDED", "FAILED", "STOPPED"}


@dataclass(frozen=True)
class JobSpec:
    """What `harness submit` asks a cluster to do."""

    suite: str
    """Its name."""
    arguments: Sequence[str]
    """Of `harness run` on the cluster."""
    package: str
    """Digest of what travels."""
    environment: Mapping[str, str]
    """Variables that the user sets for the job."""

    @property
    def id(self) -> str:
        """Equal for equal suite, code, weights, options, --out and variables; `SUITE-HASH`."""
        parts = {
            "arguments": list(self.arguments),
            "package": self.package,
            "environment": dict(self.environment),
        }
        return f"{self.suite}-{content_id(parts)[:12]}"

    @property
    def entrypoint(self) -> str:
        return shlex.join(["python", "-m", "harness", "run", *self.arguments])


@dataclass(frozen=True)
class JobRecord:
    """A job as the cluster knows it."""

    id: str
    suite: str | None
    """None: not a job of the harness."""
    status: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED: Ray's words."""
    exit_code: int | None
    """Ours, once it has ended."""
    message: str
    started: str | None
    ended: str | None
    """UTC, ISO 8601."""
    command: str


def record(info: Any) -> JobRecord:
    """From Ray's `JobDetails`."""
    return JobRecord(
        id=info.submission_id,
        suite=(info.metadata or {}).get(OURS),
        status=str(info.status),
        exit_code=exit_code(str(info.status), info.driver_exit_code),
        message=" ".join((info.message or "").split())[:400],
        started=_time(info.start_time),
        ended=_time(info.end_time),
        command=info.entrypoint,
    )


def exit_code(status: str, of_driver: int | None) -> int | None:
    """What `harness run` ended with where it could say so; None while it may still run.

    A stopped job is interrupted: submitting it again resumes it. A driver that was killed, or never
    started, is an infrastructure failure. So is one that ends with 1, as Python and Ray do where a library
    or the head is missing: `harness run` judges nothing, and never means a regression.
    """
    if status not in ENDED:
        return None
    if status == "STOPPED":
        return INTERRUPTED
    if status == "SUCCEEDED":
        return 0
    return of_driver if of_driver in RUN_CODES else InfrastructureError.exit_code


def attempts(job_id: str, jobs: Iterable[JobRecord]) -> dict[int, JobRecord]:
    """Attempt number → job: `ID`, then `ID-2`, `ID-3`; Ray takes no id twice, not even a deleted one."""
    found = {}
    for job in jobs:
        match = re.fullmatch(rf"{re.escape(job_id)}(?:-(\d+))?", job.id)
        if match:
            found[int(match[1] or 1)] = job
    return found


def attempt_id(job_id: str, attempt: int) -> str:
    return job_id if attempt == 1 else f"{job_id}-{attempt}"


def _time(milliseconds: int | None) -> str | None:
    if not milliseconds:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")
