"""Where MLflow's data is, how to reach it and how to fail fast when it cannot be reached."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import InfrastructureError, UsageError
from harness.tracking.entries import EXPERIMENT, cut

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

PAGE = 1000  # runs a request
IMPATIENT, PATIENT = (
    5,
    60,
)  # s to wait for an answer: while logging what is on disk anyway; for what was asked
_ENVIRONMENT = {
    # By default a call to a dead server is retried for 246 s; so it gives up after 3 s (measured).
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # standard output may be somebody's JSON
}


def default_tracking_uri(run_dir: Path) -> str:
    """The SQLite file mlflow.db beside the run directory: `runs/mlflow.db` for `runs/SUITE`."""
    return f"sqlite:///{run_dir.resolve().parent / 'mlflow.db'}"


def ui_command(run_root: Path, port: int = 5000) -> list[str]:
    """The command that serves MLflow's UI, on this machine only, on the store that `sync` writes.

    Raises:
        UsageError: $MLFLOW_TRACKING_URI names a server, or nothing was logged under `run_root`.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or default_tracking_uri(run_root / "run")
    if uri.startswith(("http://", "https://")):
        raise UsageError(f"MLFLOW_TRACKING_URI names a server, which has its own UI: open {public(uri)}")
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    if database := _sqlite_file(uri):
        if not database.exists():
            raise UsageError(f"{database}: nothing is logged yet; `harness run` or `harness sync RUN` does")
        command += ["--artifacts-destination", str(_artifacts(database))]
    return [*command, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]


def open_experiment(uri: str, suite: str) -> tuple[MlflowClient, str]:
    """A client and the id of the suite's experiment, which is made where missing.

    Raises:
        InfrastructureError: the experiment was deleted in MLflow.
        MlflowException: the store cannot be reached.
    """
    for name in ("mlflow", "alembic"):  # every migration step of a fresh database is a line of log
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    database = _sqlite_file(uri)
    if database:
        database.parent.mkdir(parents=True, exist_ok=True)
    location = _artifacts(database).as_uri() if database else None
    name = cut(suite, EXPERIMENT)
    # Of processes that migrate a fresh SQLite file at the same time all but one fail (7 of 8, measured).
    with _locked(database.with_name(f"{database.name}.lock")) if database else nullcontext():
        client = MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(name)
        if found is None:
            try:
                return client, client.create_experiment(name, artifact_location=location)
            except MlflowException:  # another client of the same server may have been faster
                found = client.get_experiment_by_name(name)
                if found is None:
                    raise
    if found.lifecycle_stage != "active":
        raise InfrastructureError(
            f"MLflow experiment '{name}' was deleted: restore it, or delete it for good"
        )
    return client, found.experiment_id


def find_experiment(uri: str, suite: str) -> tuple[MlflowClient, str]:
    """A client and the id of the suite's experiment; makes nothing.

    Raises:
        UsageError: nothing of the suite was logged there.
    """
    from mlflow.tracking import MlflowClient

    database = _sqlite_file(uri)
    if database is None or database.exists():
        client = MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(cut(suite, EXPERIMENT))
        if found is not None and found.lifecycle_stage == "active":
            return client, str(found.experiment_id)
    raise UsageError(f"{public(uri)}: no run of suite '{suite}' is logged there")


@contextmanager
def mlflow_errors(uri: str, timeout: int = IMPATIENT) -> Iterator[None]:
    """A quiet client that waits for `timeout` seconds a request, and whose errors become one line.

    Raises:
        InfrastructureError: the store cannot be reached or refuses.
    """
    with mlflow_environment(timeout):
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:  # a database's driver
            reason = " ".join(str(error).split())
            raise InfrastructureError(f"MLflow at {public(uri)}: {public(reason)[:300]}") from error


def pages(
    client: MlflowClient, experiment: str, query: str, size: int = PAGE, order: Sequence[str] = ()
) -> Iterator[list[Run]]:
    """The runs that match, one request a page."""
    token = None
    while True:
        page = client.search_runs(
            [experiment], query, max_results=size, order_by=list(order), page_token=token
        )
        yield list(page)
        token = page.token
        if not token:
            return


def quoted(value: str) -> str:
    """A string in MLflow's query language, which has no escapes."""
    return f'"{value}"' if "'" in value else f"'{value}'"


@contextmanager
def mlflow_environment(timeout: int = IMPATIENT) -> Iterator[None]:
    """MLflow's variables for a fast and quiet client, where the user has not set them."""
    wanted = {**_ENVIRONMENT, "MLFLOW_HTTP_REQUEST_TIMEOUT": str(timeout)}
    missing = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)


@contextmanager
def one_at_a_time(run_dir: Path) -> Iterator[None]:
    """Two processes that sync the same run would both find nothing and both make its runs."""
    descriptor = os.open(run_dir, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems lock no directories
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def public(text: str) -> str:
    """Text without the user name and password of a URI."""
    text = re.sub(r"://[^/\s]+@", "://", text)  # greedy: a password may hold an @
    return re.sub(r"([?&](?:user|password|passwd)=)[^&\s]*", r"\1…", text)


def _sqlite_file(uri: str) -> Path | None:
    scheme, _, rest = uri.partition(":///")
    return Path(rest.partition("?")[0]) if scheme.startswith("sqlite") and rest else None


def _artifacts(database: Path) -> Path:
    return database.resolve().parent / "mlartifacts"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
