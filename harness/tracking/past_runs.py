"""The trend of a suite from MLflow. The number of requests is one per PAGE runs, for any number of trials."""

from __future__ import annotations

from datetime import UTC, datetime
from os import environ
from pathlib import Path
from typing import TYPE_CHECKING

from harness.compare.trend import Observation, PastRun, TrendLine, from_text, trend_lines
from harness.tracking.artifacts import DIGEST_TAG
from harness.tracking.entries import TREND
from harness.tracking.tracking_store import (
    PATIENT,
    default_tracking_uri,
    find_experiment,
    mlflow_errors,
    pages,
)

if TYPE_CHECKING:
    from mlflow.entities import Run


PAGE = 250  # runs per request; 1,000 took a minute on a busy machine


def logged_trend(suite: str, tracking_uri: str | None = None) -> list[TrendLine]:
    """Return the lines of all fully synced runs of a suite.

    Args:
        tracking_uri: default: $MLFLOW_TRACKING_URI, else the SQLite file of runs/.

    Raises:
        UsageError: no run of the suite was logged there.
        InfrastructureError: the store cannot be reached.
    """
    uri = tracking_uri or environ.get("MLFLOW_TRACKING_URI") or default_tracking_uri(Path("runs") / suite)
    with mlflow_errors(uri, PATIENT):
        client, experiment = find_experiment(uri, suite)
        logged = pages(client, experiment, "tags.`harness.kind` = 'run'", PAGE)
        complete = (run for page in logged for run in page if DIGEST_TAG in run.data.tags)
        return trend_lines(_past(run, suite) for run in complete)


def _past(run: Run, suite: str) -> tuple[PastRun, list[Observation]]:
    tags = run.data.tags
    text = "".join(tags[name] for name in sorted(tags) if name.startswith(TREND))
    started = datetime.fromtimestamp(run.info.start_time / 1000, UTC).isoformat(timespec="seconds")
    branch, revision = (
        None if tags[name] == "none" else tags[name] for name in ("git.branch", "mlflow.source.git.commit")
    )
    past_run = PastRun(tags["harness.run_id"], suite, started, revision, branch, run.info.run_id)
    return past_run, from_text(text)
