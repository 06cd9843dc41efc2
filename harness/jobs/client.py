"""Ray's Jobs API as `harness submit`, `status`, `logs` and `stop` need it; the only module of it that
imports ray."""

from __future__ import annotations

import asyncio
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from harness.environment import JOB
from harness.errors import HarnessError, InfrastructureError, UsageError
from harness.jobs.job import ENDED, OURS, JobRecord, JobSpec, attempt_id, attempts, record
from harness.registry import unknown

ANSWER = 10.0  # s that a dashboard may take to say its version
PATIENCE = 120.0  # s without an answer before following is given up; a head restarts in less
RETRY = 2.0  # s between tries meanwhile
STOPPING = 60  # s that a stopped job has for a last copy of its run, not the 3 that Ray gives it
VISIBLE = "[!-~]*"  # ASCII without spaces: what an address or a header may hold
TOKEN_SOURCES = "RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"


@dataclass(frozen=True)
class Submitted:
    """What became of a submission."""

    job: JobRecord
    new: bool
    """False: a job of the same id runs already, or has succeeded; nothing was started."""


class Cluster:
    """The jobs of one cluster, over HTTP.

    Args:
        client: a `ray.job_submission.JobSubmissionClient`, see `connect`.
    """

    def __init__(self, client: Any, address: str) -> None:
        self._client = client
        self.address = address

    def submit(self, spec: JobSpec, package: Path, variables: dict[str, str], again: bool) -> Submitted:
        """Start the job, or find the one that is the same.

        One that runs is joined, and one that succeeded stands (`again` repeats it). One that failed or was
        stopped is submitted as its next attempt, which takes up what is on disk at its --out.

        Args:
            package: the zip that becomes the job's working directory.
            variables: of the job's processes; these may hold what is not part of the job's identity.
        """
        with self._translated("submitting"):
            known = attempts(spec.id, map(record, self._client.list_jobs()))
            last = known[max(known)] if known else None
            if last and (last.status not in ENDED or (last.status == "SUCCEEDED" and not again)):
                return Submitted(last, new=False)
            job_id = attempt_id(spec.id, max(known, default=0) + 1)
            ours = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOPPING), JOB: job_id}
            try:
                self._client.submit_job(
                    entrypoint=spec.entrypoint,
                    submission_id=job_id,
                    runtime_env={"working_dir": str(package), "env_vars": variables | ours},
                    metadata={OURS: spec.suite},
                )
            except RuntimeError:
                taken = {info.submission_id: info for info in self._client.list_jobs()}
                if job_id not in taken:
                    raise
                return Submitted(record(taken[job_id]), new=False)  # somebody was faster
        return Submitted(self.job(job_id), new=True)

    def jobs(self) -> list[JobRecord]:
        """Those of the harness, newest first."""
        with self._translated("listing jobs"):
            found = [info for info in self._client.list_jobs() if OURS in (info.metadata or {})]
        return [record(info) for info in sorted(found, key=lambda info: -(info.start_time or 0))]

    def job(self, job_id: str) -> JobRecord:
        """One job.

        Raises:
            UsageError: the cluster has none of that id.
        """
        with self._translated(f"job {job_id}"):
            known = {info.submission_id: info for info in self._client.list_jobs() if info.submission_id}
        if job_id not in known:
            raise UsageError(unknown("job", job_id, known))
        return record(known[job_id])

    def logs(self, job_id: str) -> str:
        """Everything that the job has printed."""
        with self._translated(f"logs of {job_id}"):
            text: str = self._client.get_job_logs(self.job(job_id).id)
        return text

    def stop(self, job_id: str) -> bool:
        """Ask a job to end; False where it had ended.

        Raises:
            UsageError: the cluster has none of that id, or it is not the harness's.
        """
        job = self.job(job_id)
        if job.suite is None:
            raise UsageError(f"job {job_id} was not submitted by the harness; end it with `ray job stop`")
        with self._translated(f"stopping {job_id}"):
            stopped: bool = self._client.stop_job(job.id)
        return stopped

    def follow(self, job_id: str, write: Callable[[str], object]) -> JobRecord:
        """Pass on what the job prints until it ends; a connection that breaks is made again.

        Raises:
            InfrastructureError: the dashboard no longer answers; the job may go on.
        """
        tail = _Tail(write)
        self.job(job_id)
        silent: float | None = None  # since when connections only break
        while True:
            before = tail.shown
            try:
                asyncio.run(tail.follow(self._client, job_id))
                job = self.job(job_id)
            except Exception as error:  # of aiohttp, or one of ours
                now = time.monotonic()
                if silent is None or tail.shown > before:
                    silent = now
                if isinstance(error, UsageError) or now - silent > PATIENCE:
                    reason = f"{error}; `harness logs {job_id} --follow` goes on from here"
                    raise InfrastructureError(f"following {job_id}: {reason}") from error
            else:
                silent = None
                if job.status in ENDED:
                    return job
            time.sleep(RETRY)

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        """Whatever the client raises, in one line."""
        try:
            yield
        except HarnessError:
            raise
        except Exception as error:
            line = " ".join(str(error).split())[:400]
            raise InfrastructureError(f"{doing} at {self.address}: {line}") from error


class _Tail:
    """Counts what was shown, because each new connection tells everything from the beginning."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self.shown = 0

    async def follow(self, client: Any, job_id: str) -> None:
        told = 0
        async for text in client.tail_job_logs(job_id):
            fresh = text[max(0, self.shown - told) :]
            told += len(text)
            if fresh:
                self._write(fresh)
                self.shown = told


def connect(address: str) -> Cluster:
    """The cluster whose dashboard is at `http://HOST:8265`.

    Raises:
        UsageError: not such an address.
        InfrastructureError: nothing answers there, or it refuses the token.
    """
    if not _is_dashboard(address):
        shown = re.sub(".*@", "…@", address)  # a password
        raise UsageError(f"--address {shown}: expected the cluster's dashboard, such as http://head:8265")
    address = address.rstrip("/")
    source, token = _token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    _probe(address, headers, source)
    # The client prefers this variable and RAY_ADDRESS to the address that it is given.
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    from ray.job_submission import JobSubmissionClient

    try:
        return Cluster(JobSubmissionClient(address, headers=headers), address)
    except Exception as error:  # of requests, or a version that does not fit
        raise InfrastructureError(f"--address {address}: {' '.join(str(error).split())[:400]}") from error


def _is_dashboard(address: str) -> bool:
    """Whether it can be the address of one."""
    try:
        parts = urlsplit(address)
        port = parts.port  # which is looked at only now
    except ValueError:
        return False
    good = parts.scheme in {"http", "https"} and parts.hostname and port != 0 and "@" not in parts.netloc
    return bool(good) and re.fullmatch(VISIBLE, address) is not None


def _probe(address: str, headers: dict[str, str], source: str) -> None:
    """Ask for the version: Ray's own client takes 20 s to say something vague."""
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f"{address}/api/version", headers=headers), timeout=ANSWER
        ):
            return
    except urllib.error.HTTPError as error:
        if error.code == 401:
            reason = f"the cluster asks for a token and there is none: set {TOKEN_SOURCES}"
        elif error.code == 403:
            reason = f"the cluster refuses the token from {source}" if source else "access is forbidden"
        else:
            reason = f"no Ray dashboard: HTTP {error.code}"
        raise InfrastructureError(f"--address {address}: {reason}") from error
    except OSError as error:
        reason = str(getattr(error, "reason", error))
        raise InfrastructureError(
            f"--address {address}: no Ray dashboard answers there ({reason})"
        ) from error
    except (HTTPException, ValueError) as error:  # Ray's own port, 6379, say; a name that none can have
        expected = "expected the cluster's dashboard, such as http://head:8265"
        raise UsageError(f"--address {address}: nothing there speaks HTTP; {expected}") from error


def _token() -> tuple[str, str]:
    """(where it is from, the token), in the order in which Ray itself looks; empty where there is none.

    Raises:
        UsageError: it cannot be read, or cannot be one. The token itself is never told.
    """
    default = Path.home() / ".ray" / "auth_token"
    if token := os.environ.get("RAY_AUTH_TOKEN", ""):
        source = "RAY_AUTH_TOKEN"
    elif named := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        source, token = f"RAY_AUTH_TOKEN_PATH ({named})", _read(Path(named))
    elif default.exists():
        source, token = "~/.ray/auth_token", _read(default)
    else:
        return "", ""
    token = token.strip()
    if not re.fullmatch(VISIBLE, token):
        raise UsageError(f"{source}: expected a token: one line of ASCII letters, digits and signs")
    return source, token


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise UsageError(f"token file {path}: cannot be read: {reason}") from None
