"""A baseline that MLflow keeps: found by its id or as the latest of a branch, and downloaded once."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from os import environ
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cache import cache_folder
from harness.errors import InfrastructureError, UsageError
from harness.rundir.results import Results, read_results
from harness.tracking.artifacts import ARCHIVE, DIGEST_TAG
from harness.tracking.tracking_store import (
    PATIENT,
    default_tracking_uri,
    find_experiment,
    mlflow_errors,
    pages,
    public,
    quoted,
)

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

SCHEME = "mlflow:"
_LATEST = "latest@"
_PAGE = 50  # the latest run is mostly the first one; enough to step over regressions in one request


def fetch_baseline(reference: str, run_dir: Path, tracking_uri: str | None = None) -> Path:
    """The run directory that `reference` names, for a comparison with `run_dir`.

    `mlflow:RUN_ID` is an MLflow run (a trial's stands for its parent), or the harness's own run id.
    `mlflow:latest@BRANCH` is the last one started of the same suite that is complete, was evaluated on
    that branch and was not found to be a regression itself; never the run that is compared.

    Raises:
        UsageError: no such run, or it was logged without its run directory.
        InfrastructureError: the store cannot be reached, or the download is damaged.
    """
    results = read_results(run_dir)
    uri = tracking_uri or environ.get("MLFLOW_TRACKING_URI") or default_tracking_uri(run_dir)
    wanted = reference.removeprefix(SCHEME)
    with mlflow_errors(uri, PATIENT):
        client, experiment = find_experiment(uri, results.suite)
        if wanted.startswith(_LATEST):
            branch = wanted.removeprefix(_LATEST)
            found = _latest(client, experiment, branch, results)
            lacking = f"no complete run of suite '{results.suite}' on branch '{branch}' but this one"
        else:
            found = _by_id(client, experiment, wanted)
            lacking = (
                f"suite '{results.suite}' has no such run; expected mlflow:RUN_ID or mlflow:latest@BRANCH"
            )
        if found is None:
            raise UsageError(f"--baseline {reference}: {lacking} (in {public(uri)})")
        if DIGEST_TAG not in found.data.tags:
            raise UsageError(f"--baseline {reference}: not synced to its end; `harness sync` completes it")
        return _downloaded(client, found)


def _latest(client: MlflowClient, experiment: str, branch: str, results: Results) -> Run | None:
    query = (
        f"attributes.status = 'FINISHED' and tags.`harness.kind` = 'run' "
        f"and tags.`git.branch` = {quoted(branch)} and tags.`harness.run_id` != {quoted(results.run.id)}"
    )
    for page in pages(client, experiment, query, _PAGE, ["attributes.start_time DESC"]):
        for run in page:
            if DIGEST_TAG in run.data.tags and run.data.tags.get("verdict") != "regression":
                return run
    return None


def _by_id(client: MlflowClient, experiment: str, wanted: str) -> Run | None:
    query = f"tags.`harness.kind` = 'run' and tags.`harness.run_id` = {quoted(wanted)}"
    found = [run for page in pages(client, experiment, query) for run in page]
    if not found:
        found = _runs(client, experiment, wanted)
    if found and (parent := found[0].data.tags.get("mlflow.parentRunId")):
        found = _runs(client, experiment, parent)
    return found[0] if found else None


def _runs(client: MlflowClient, experiment: str, run_id: str) -> list[Run]:
    query = f"attributes.run_id = {quoted(run_id)}"
    return [run for page in pages(client, experiment, query) for run in page]


def _downloaded(client: MlflowClient, run: Run) -> Path:
    """The run's archive as a directory in the cache; the same content is downloaded once."""
    folder = cache_folder().with_name("runs")
    target = folder / f"{run.info.run_id}-{run.data.tags[DIGEST_TAG][:12]}"
    if target.is_dir():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        archive = client.download_artifacts(run.info.run_id, ARCHIVE, temporary)
        unpacked = Path(temporary, "run")
        try:
            with zipfile.ZipFile(archive) as content:
                content.extractall(unpacked)  # never outside: zipfile drops absolute and upward names
        except zipfile.BadZipFile as error:
            raise InfrastructureError(
                f"{ARCHIVE} of MLflow run {run.info.run_id}: damaged ({error})"
            ) from error
        if not target.is_dir():
            shutil.move(unpacked, target)
    return target
