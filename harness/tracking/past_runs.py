"""Past runs in MLflow: baselines, by id or as the latest of a branch, and the trend of a suite."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cache import cache_folder
from harness.compare.trend import Observation, PastRun, TrendLine, from_text, trend_lines
from harness.errors import InfrastructureError, UsageError
from harness.files import write_text
from harness.rundir.results import Results, read_results
from harness.tracking import tracking_store as store
from harness.tracking.artifacts import ARCHIVE, DIGEST_TAG, content_digest, run_files
from harness.tracking.entries import TREND

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

SCHEME = "mlflow:"
_LATEST = "latest@"
_PAGE = 50  # runs per request; usually the latest qualifies, or one behind a few regressions
RECENT = 10  # runs of a branch whose lasting changes a comparison mentions
PAGE = 250  # runs of a trend per request; 1,000 took a minute on a busy machine


def fetch_baseline(reference: str, run_dir: Path, tracking_uri: str | None = None) -> Path:
    """Download the run directory that `reference` names, for a comparison with `run_dir`.

    `mlflow:RUN_ID` is the id of an MLflow run or of a harness run. The id of a child means its parent.

    `mlflow:latest@BRANCH` is the newest complete run of the same suite on that branch that is not itself a
    regression and is not the run being compared.

    Raises:
        UsageError: there is no such run, or it was logged without its run directory.
        InfrastructureError: the store cannot be reached, or the download is damaged.
    """
    results = read_results(run_dir)
    uri = store.chosen_uri(tracking_uri, run_dir)
    name = reference.removeprefix(SCHEME)
    with store.mlflow_errors(uri, store.PATIENT):
        client, experiment = store.find_experiment(uri, results.suite)
        if name.startswith(_LATEST):
            branch = name.removeprefix(_LATEST)
            run = _latest(client, experiment, branch, results)
            lacking = f"no other complete run on branch '{branch}'"
        else:
            run = _by_id(client, experiment, name)
            lacking = "no run with this id; expected mlflow:RUN_ID or mlflow:latest@BRANCH"
        if run is None:
            where = f"(in {store.public(uri)})"
            raise UsageError(f"--baseline {reference}: suite '{results.suite}' has {lacking} {where}")
        if DIGEST_TAG not in run.data.tags:
            raise UsageError(f"--baseline {reference}: not fully synced; `harness sync` completes it")
        return _downloaded(client, run, store.artifact_folder(uri, run))


def _latest(client: MlflowClient, experiment: str, branch: str, results: Results) -> Run | None:
    branch, run_id = store.quoted(branch), store.quoted(results.run.id)
    query = (
        f"attributes.status = 'FINISHED' and tags.`harness.kind` = 'run' "
        f"and tags.`git.branch` = {branch} and tags.`harness.run_id` != {run_id}"
    )
    for page in store.pages(client, experiment, query, _PAGE, ["attributes.start_time DESC"]):
        for run in page:
            if DIGEST_TAG in run.data.tags and run.data.tags.get("verdict") != "regression":
                return run
    return None


def _by_id(client: MlflowClient, experiment: str, run_id: str) -> Run | None:
    def first(condition: str, value: str) -> Run | None:
        return next(chain(*store.pages(client, experiment, f"{condition} = {store.quoted(value)}")), None)

    run = first("tags.`harness.kind` = 'run' and tags.`harness.run_id`", run_id)
    run = run or first("attributes.run_id", run_id)
    parent = run and run.data.tags.get("mlflow.parentRunId")
    return first("attributes.run_id", parent) if parent else run


def _downloaded(client: MlflowClient, run: Run, beside: Path | None) -> Path:
    """Return the run directory in the cache, downloaded unless the cache has the same content."""
    folder = cache_folder().with_name("runs")
    target = folder / f"{run.info.run_id}-{run.data.tags[DIGEST_TAG][:12]}"
    seal = target.with_suffix(".sha256")
    if target.is_dir():
        if seal.is_file() and seal.read_text() == content_digest(target, run_files(target)):
            return target
        shutil.rmtree(target)  # changed since the download, which is repeated
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        run_id, unpacked = run.info.run_id, Path(temporary, "run")
        archive = beside / ARCHIVE if beside else client.download_artifacts(run_id, ARCHIVE, temporary)
        try:
            with zipfile.ZipFile(archive) as content:
                content.extractall(unpacked)  # stays inside: zipfile drops absolute and upward names
        except zipfile.BadZipFile as error:
            raise InfrastructureError(f"{ARCHIVE} of MLflow run {run_id}: damaged ({error})") from error
        if not target.is_dir():
            write_text(seal, content_digest(unpacked, run_files(unpacked)))
            shutil.move(unpacked, target)
    return target


def recent_steps(suite: str, branch: str, tracking_uri: str | None = None) -> list[str]:
    """Describe the lasting changes among the last `RECENT` runs of a branch."""
    lines = logged_trend(suite, tracking_uri, f" and tags.`git.branch` = {store.quoted(branch)}")
    runs = {point.run.started for line in lines for point in line.points}
    since = min(sorted(runs)[-RECENT:], default="")
    steps = (step for line in lines for step in line.steps if step.first.run.started >= since)
    return [f"on {branch}, {step.describe()}" for step in steps]


def logged_trend(suite: str, tracking_uri: str | None = None, condition: str = "") -> list[TrendLine]:
    """Return the lines of all fully synced runs of a suite, with one request per PAGE runs.

    Args:
        condition: further condition in MLflow's query language, starting with " and".

    Raises:
        UsageError: no run of the suite was logged there.
        InfrastructureError: the store cannot be reached.
    """
    uri = store.chosen_uri(tracking_uri, Path("runs") / suite)
    with store.mlflow_errors(uri, store.PATIENT):
        client, experiment = store.find_experiment(uri, suite)
        logged = store.pages(client, experiment, f"tags.`harness.kind` = 'run'{condition}", PAGE)
        return trend_lines(_past(run, suite) for run in chain(*logged) if DIGEST_TAG in run.data.tags)


def _past(run: Run, suite: str) -> tuple[PastRun, list[Observation]]:
    tags = run.data.tags
    text = "".join(tags[name] for name in sorted(tags) if name.startswith(TREND))
    started = datetime.fromtimestamp(run.info.start_time / 1000, UTC).isoformat(timespec="seconds")
    branch, revision = (
        None if tags[name] == "none" else tags[name] for name in ("git.branch", "mlflow.source.git.commit")
    )
    past_run = PastRun(tags["harness.run_id"], suite, started, revision, branch, run.info.run_id)
    return past_run, from_text(text or "[]")  # empty if another version of the harness logged the run
