"""The store of MLflow's data: its default location, access to it, and fast failure without it."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import Request, urlopen

from harness.errors import InfrastructureError, UsageError
from harness.tracking.names import EXPERIMENT, VIEW, cut

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

PORT = 5000  # of `harness ui`, unless the user chooses another
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"  # of an experiment
LOCAL = "127.0.0.1"
PAGE = 1000  # runs per request
IMPATIENT = 5  # s to wait per request while logging; the run is on disk in any case
PATIENT = 60  # s to wait per request of the user
_ENVIRONMENT = {
    # By default, MLflow retries a dead server for 246 s. With these, it gives up after 3 s (measured).
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # standard output may contain JSON
}


def default_tracking_uri(run_dir: Path) -> str:
    """Return the URI of mlflow.db beside the run directory: `runs/mlflow.db` for `runs/SUITE`."""
    return f"sqlite:///{run_dir.resolve().parent / 'mlflow.db'}"


def chosen_uri(uri: str | None, run_dir: Path) -> str:
    """Return the given URI, else $MLFLOW_TRACKING_URI, else `default_tracking_uri`."""
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or default_tracking_uri(run_dir)


def view_link(experiment: str, server: str = "") -> str:
    """Return the address of an experiment's stored view on a server, or within MLflow's pages."""
    query = f"workflowType=machine_learning&viewStateShareKey={VIEW}"
    return f"{server}#/experiments/{experiment}/runs?{query}"


def ui_command(run_root: Path, port: int = PORT) -> list[str]:
    """Return the command that serves MLflow's UI on the store that `sync` writes, on localhost only.

    Raises:
        UsageError: $MLFLOW_TRACKING_URI names a server, nothing was logged under `run_root`, or the port is
            not free.
    """
    uri = chosen_uri(None, run_root / "run")
    if uri.startswith(("http://", "https://")):
        raise UsageError(f"MLFLOW_TRACKING_URI names a server, which has its own UI: open {public(uri)}")
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    if database := sqlite_file(uri):
        if not database.exists():
            raise UsageError(f"{database}: nothing is logged yet; use `harness run` or `harness sync RUN`")
        command += ["--artifacts-destination", str(_artifacts(database))]
    with socket.socket() as probe:
        if probe.connect_ex((LOCAL, port)) == 0:
            raise UsageError(f"--port {port}: another program serves there; choose another port")
    return [*command, "--host", LOCAL, "--port", str(port), "--workers", "1"]


def served_views(port: int) -> dict[str, str] | None:
    """Return the addresses of the stored views by suite, newest first, or None if no server answers."""
    address = f"http://{LOCAL}:{port}/"
    request = Request(f"{address}api/2.0/mlflow/experiments/search", b'{"max_results": 100}')
    request.add_header("Content-Type", "application/json")
    try:
        with urlopen(request, timeout=PATIENT) as answer:
            experiments = json.load(answer).get("experiments", [])
    except OSError:
        return None
    return {
        experiment["name"]: view_link(experiment["experiment_id"], address)
        for experiment in experiments
        if any(tag["key"] == VIEW_TAG for tag in experiment.get("tags", []))
    }


def open_experiment(uri: str, suite: str) -> tuple[MlflowClient, str]:
    """Return a client and the id of the suite's experiment, which is created if missing.

    Raises:
        InfrastructureError: the experiment was deleted in MLflow.
        MlflowException: the store cannot be reached.
    """
    for name in ("mlflow", "alembic"):  # both log every migration step of a new database
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    # Relative to the server's `--artifacts-destination`, so that a copied folder works.
    location = "mlflow-artifacts:/" if sqlite_file(uri) else None
    name = cut(suite, EXPERIMENT)
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return client, client.create_experiment(name, artifact_location=location)
        except MlflowException:  # another client of the same server may have created it first
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    if experiment.lifecycle_stage != "active":
        raise InfrastructureError(
            f"MLflow experiment '{name}' was deleted: restore it, or delete it for good"
        )
    return client, experiment.experiment_id


def find_experiment(uri: str, suite: str) -> tuple[MlflowClient, str]:
    """Return a client and the id of the suite's experiment, without creating anything.

    Raises:
        UsageError: no run of the suite was logged there.
    """
    from mlflow.tracking import MlflowClient

    database = sqlite_file(uri)
    if database is None or database.exists():
        client = MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name(cut(suite, EXPERIMENT))
        if experiment is not None and experiment.lifecycle_stage == "active":
            return client, str(experiment.experiment_id)
    raise UsageError(f"{public(uri)}: no run of suite '{suite}' is logged there")


@contextmanager
def mlflow_errors(uri: str, timeout: int = IMPATIENT) -> Iterator[None]:
    """Turn MLflow's errors into one-line messages, after at most `timeout` seconds per request.

    MLflow's variables are set for a fast and quiet client, unless the user has set them.

    Raises:
        InfrastructureError: the store cannot be reached or rejects a request.
    """
    defaults = {**_ENVIRONMENT, "MLFLOW_HTTP_REQUEST_TIMEOUT": str(timeout)}
    missing = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(missing)
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:  # a database's driver
        reason = " ".join(str(error).split())
        raise InfrastructureError(f"MLflow at {public(uri)}: {public(reason)[:300]}") from error
    finally:
        for name in missing:
            os.environ.pop(name, None)


def pages(
    client: MlflowClient, experiment: str, query: str, size: int = PAGE, order: Sequence[str] = ()
) -> Iterator[list[Run]]:
    """Yield the runs that match, one request per page."""
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
    """Quote a string for MLflow's query language, which has no escapes."""
    return f'"{value}"' if "'" in value else f"'{value}'"


def public(text: str) -> str:
    """Remove user names and passwords of URIs from a text."""
    text = re.sub(r"://[^/\s]+@", "://", text)  # greedy, because a password may contain an @
    return re.sub(r"([?&](?:user|password|passwd)=)[^&\s]*", r"\1…", text)


def sqlite_file(uri: str) -> Path | None:
    """Return the file of a SQLite store, or None for any other store."""
    scheme, _, rest = uri.partition(":///")
    return Path(rest.partition("?")[0]) if scheme.startswith("sqlite") and rest else None


def artifact_folder(uri: str, run: Run) -> Path | None:
    """Return the folder of a run's artifacts beside a SQLite file, or None if MLflow must transfer them."""
    database, is_relative = sqlite_file(uri), run.info.artifact_uri.startswith("mlflow-artifacts:")
    return Path(_artifacts(database), run.info.run_id, "artifacts") if database and is_relative else None


def _artifacts(database: Path) -> Path:
    return database.resolve().parent / "mlartifacts"
