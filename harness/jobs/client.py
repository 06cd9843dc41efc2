"""A client of Ray's Jobs API for `harness submit`, `status`, `logs` and `stop`.

This is the only module of `harness.jobs` that imports Ray.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.environment import JOB
from harness.errors import HarnessError, InfrastructureError, UsageError
from harness.jobs.dashboard import find_dashboard
from harness.jobs.job import (
    ENDED_STATUSES,
    SUITE_KEY,
    JobRecord,
    JobSpec,
    attempt_id,
    attempts,
    job_record,
)
from harness.registry import unknown

FOLLOW_TIMEOUT_SECONDS = 120.0  # without an answer until following is given up; a head restarts in less time
RETRY_SECONDS = 2.0  # between attempts to connect again
STOP_GRACE_SECONDS = 60  # for a stopped job to end by itself; Ray's default is 3


class JobsClient:
    """The jobs of one cluster.

    Args:
        client: Ray's `JobSubmissionClient`, which carries no types that mypy checks.
        address: Address of the cluster's dashboard, for messages.
    """

    def __init__(self, client: Any, address: str) -> None:
        self._client = client
        self.address = address

    def submit(
        self, spec: JobSpec, package: Path, variables: Mapping[str, str], again: bool
    ) -> tuple[JobRecord, bool]:
        """Start a job, or find the same one; return it, and whether it was started now.

        If the job is running, or has succeeded and `again` is false, it is returned. If it failed or was
        stopped, its next attempt is submitted, which resumes from the files in its --out.

        Args:
            package: The zip file that becomes the job's working directory.
            variables: Environment variables of the job; they may include more than those in its identity.
        """
        with self._translate_errors("submitting"):
            previous = attempts(spec.id, self._list_records())
            last = previous[max(previous)] if previous else None
            if last and (last.status not in ENDED_STATUSES or (last.status == "SUCCEEDED" and not again)):
                return last, False
            job_id = attempt_id(spec.id, max(previous, default=0) + 1)
            job_variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_GRACE_SECONDS), JOB: job_id}
            try:
                self._client.submit_job(
                    entrypoint=spec.entrypoint,
                    submission_id=job_id,
                    runtime_env={"working_dir": str(package), "env_vars": {**variables, **job_variables}},
                    metadata={SUITE_KEY: spec.suite},
                )
            except RuntimeError:
                jobs = {job.id: job for job in self._list_records()}
                if job_id not in jobs:
                    raise
                return jobs[job_id], False  # another process has submitted it meanwhile
        return self.job(job_id), True

    def jobs(self) -> list[JobRecord]:
        """Return the jobs of the harness, newest first."""
        with self._translate_errors("listing jobs"):
            own = [job for job in self._list_records() if job.suite is not None]
        return sorted(own, key=lambda job: job.started or "", reverse=True)

    def job(self, job_id: str) -> JobRecord:
        """Return one job, or raise a UsageError if the cluster has none with this id."""
        with self._translate_errors(f"job {job_id}"):
            jobs = {job.id: job for job in self._list_records()}
        if job_id not in jobs:
            raise UsageError(unknown("job", job_id, jobs))
        return jobs[job_id]

    def logs(self, job_id: str) -> str:
        """Return everything that the job has printed."""
        with self._translate_errors(f"logs of {job_id}"):
            return str(self._client.get_job_logs(self.job(job_id).id))

    def stop(self, job_id: str) -> bool:
        """Ask a job to end. Return False if it had already ended."""
        job = self.job(job_id)
        if job.suite is None:
            raise UsageError(f"job {job_id} was not submitted by the harness; end it with `ray job stop`")
        with self._translate_errors(f"stopping {job_id}"):
            return bool(self._client.stop_job(job.id))

    def follow(self, job_id: str, write: Callable[[str], object]) -> JobRecord:
        """Write the job's output until the job ends, reconnecting if a connection breaks.

        Raises:
            UsageError: The cluster has no job with this id.
            InfrastructureError: The dashboard no longer answers; the job may keep running.
        """
        tail = _LogTail(write)
        self.job(job_id)
        failing_since: float | None = None
        while True:
            written_before = tail.written
            try:
                asyncio.run(tail.follow(self._client, job_id))
                job = self.job(job_id)
            except Exception as error:  # raised by aiohttp, or by the harness
                now = time.monotonic()
                if failing_since is None or tail.written > written_before:
                    failing_since = now
                if isinstance(error, UsageError) or now - failing_since > FOLLOW_TIMEOUT_SECONDS:
                    reason = f"{error}; `harness logs {job_id} --follow` continues"
                    raise InfrastructureError(f"following {job_id}: {reason}") from error
            else:
                failing_since = None
                if job.status in ENDED_STATUSES:
                    return job
            time.sleep(RETRY_SECONDS)

    def _list_records(self) -> list[JobRecord]:
        return [job_record(job) for job in self._client.list_jobs() if job.submission_id]

    @contextmanager
    def _translate_errors(self, doing: str) -> Iterator[None]:
        """Turn any error of the client into an InfrastructureError with a one-line message."""
        try:
            yield
        except HarnessError:
            raise
        except Exception as error:
            raise InfrastructureError(f"{doing} at {self.address}: {_one_line(error)}") from error


class _LogTail:
    """Writes a job's output once, although each new connection sends it from the beginning."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self.written = 0  # characters

    async def follow(self, client: Any, job_id: str) -> None:
        received = 0
        async for text in client.tail_job_logs(job_id):
            unwritten = text[max(0, self.written - received) :]
            received += len(text)
            if unwritten:
                self._write(unwritten)
                self.written = received


def connect(address: str) -> JobsClient:
    """Return a client for the cluster whose dashboard is at `http://HOST:8265`."""
    address, headers = find_dashboard(address)
    # Ray's client prefers this variable and RAY_ADDRESS to the address that it is given.
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    from ray.job_submission import JobSubmissionClient

    try:
        client = JobSubmissionClient(address, headers=headers)
    except Exception as error:  # raised by requests, or because Ray's versions differ
        raise InfrastructureError(f"--address {address}: {_one_line(error)}") from error
    return JobsClient(client, address)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]
