"""Write a run directory to MLflow, as often as wanted."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from itertools import count
from os import environ
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from harness.errors import InfrastructureError, UsageError
from harness.results import Results, read_results
from harness.tracking.entries import Entry, columns, run_entry, trial_entry
from harness.tracking.tracking_store import (
    default_tracking_uri,
    mlflow_environment,
    one_at_a_time,
    open_experiment,
    public,
)

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

_BATCH = 100  # parameters or tags a request, MLflow's limit; 1,000 metrics are allowed
VIEW = "harness"  # name of the stored choice of columns
Change = Literal["created", "updated", "unchanged"]


@dataclass(frozen=True)
class SyncOutcome:
    """What a sync found and did; the parent counts among the runs."""

    tracking_uri: str  # without credentials
    experiment: str
    experiment_id: str
    run_id: str  # of the parent
    created: int
    updated: int
    unchanged: int

    def describe(self) -> str:
        """One line."""
        return (
            f"experiment '{self.experiment}' in {self.tracking_uri}: runs created {self.created}, "
            f"updated {self.updated}, unchanged {self.unchanged}"
        )


def sync(run_dir: Path, tracking_uri: str | None = None) -> SyncOutcome:
    """Make MLflow show a run directory; again changes nothing, and an interrupted sync is completed.

    Runs are found by the tags `harness.run_id` and `harness.trial_id` and made where missing. A metric
    point is written only if its value is new. One that changed (a resumed run, a corrected metric) gets a
    later timestamp, so that MLflow shows it as the latest and keeps the older in the history. MLflow
    cannot take a metric back: one that became undefined keeps its last point there. Parameters stay as
    first written: what they say is hashed by the trial's id.

    Args:
        run_dir: holds results.json.
        tracking_uri: default: $MLFLOW_TRACKING_URI, else `default_tracking_uri`.

    Raises:
        UsageError: no valid results.json.
        InfrastructureError: the store cannot be reached or refuses; found out within seconds, unless the
            user set MLflow's retry variables.
    """
    if not run_dir.is_dir():
        raise UsageError(f"{run_dir}: not a run directory")
    results = read_results(run_dir)
    uri = tracking_uri or environ.get("MLFLOW_TRACKING_URI") or default_tracking_uri(run_dir)
    with mlflow_environment(), one_at_a_time(run_dir):
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            return _sync(run_dir, results, uri)
        except (MlflowException, SQLAlchemyError, OSError) as error:
            reason = " ".join(str(error).split())
            raise InfrastructureError(f"MLflow at {public(uri)}: {public(reason)[:300]}") from error


def _sync(run_dir: Path, results: Results, uri: str) -> SyncOutcome:
    client, experiment = open_experiment(uri, results.suite)
    known = _known_runs(client, experiment, results.run.id)
    start = _milliseconds(results.run.started)
    end = _milliseconds(results.run.finished or results.run.started)

    def write(entry: Entry) -> str:
        run = _find(known, entry)
        changes.append("updated" if run else "created")
        if run is None:
            tags = {**entry.tags, **entry.identity}
            run = client.create_run(experiment, start_time=start, tags=tags, run_name=entry.name)
        if not _fill(client, run, entry, end) and changes[-1] == "updated":
            changes[-1] = "unchanged"
        return str(run.info.run_id)

    changes: list[Change] = []
    parent = write(run_entry(results))
    for trial in results.trials:
        write(trial_entry(results, trial, parent))
    _log_artifacts(client, parent, run_dir, results)
    _choose_columns(client, experiment, results)
    tally = [changes.count(change) for change in ("created", "updated", "unchanged")]
    return SyncOutcome(public(uri), results.suite, experiment, parent, *tally)


def _known_runs(client: MlflowClient, experiment: str, run_id: str) -> list[Run]:
    """Parent and children of a harness run, in as few requests as pages."""
    quote = '"' if "'" in run_id else "'"
    query = f"tags.`harness.run_id` = {quote}{run_id}{quote}"
    page = client.search_runs([experiment], query, max_results=1000)
    runs = list(page)
    while page.token:
        page = client.search_runs([experiment], query, max_results=1000, page_token=page.token)
        runs += page
    return runs


def _find(known: Sequence[Run], entry: Entry) -> Run | None:
    wanted = entry.identity.items()
    return next((run for run in known if wanted <= run.data.tags.items()), None)


def _fill(client: MlflowClient, run: Run, entry: Entry, end: int) -> bool:
    """Write what the run lacks; False if that is nothing."""
    from mlflow.entities import Metric, Param, RunTag

    run_id, data = run.info.run_id, run.data
    metrics = [
        Metric(name, value, _timestamp(client, run, name, end), 0)
        for name, value in entry.metrics.items()
        if data.metrics.get(name) != value
    ]
    params = [Param(name, value) for name, value in entry.params.items() if name not in data.params]
    tags = [RunTag(name, value) for name, value in entry.tags.items() if data.tags.get(name) != value]
    for first in count(step=_BATCH):
        part = [items[first : first + _BATCH] for items in (metrics, params, tags)]
        if not any(part):
            break
        client.log_batch(run_id, *part)
    # The status comes last: a run that is not yet in its final state was not written whole.
    wrong = run.info.status != entry.status or run.info.end_time != end
    if wrong and entry.status != "RUNNING":
        client.set_terminated(run_id, entry.status, end)
    return bool(metrics or params or tags or (wrong and entry.status != "RUNNING"))


def _timestamp(client: MlflowClient, run: Run, name: str, end: int) -> int:
    """The run's end, or just after the last point where that is no earlier."""
    if name not in run.data.metrics:
        return end
    last = max(point.timestamp for point in client.get_metric_history(run.info.run_id, name))
    return max(end, last + 1)


def _log_artifacts(client: MlflowClient, parent: str, run_dir: Path, results: Results) -> None:
    """Report, charts and results.json; a tag set afterwards says of which results they are."""
    from reports import write_reports
    from reports.charts import save
    from reports.frontier import comparisons

    file = run_dir / "results.json"
    digest = sha256(file.read_bytes()).hexdigest()
    if client.get_run(parent).data.tags.get("harness.artifacts") == digest:
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_reports(run_dir, folder / "report")
        for number, comparison in enumerate(comparisons(results), start=1):
            save(comparison, folder / "charts" / f"{number}-{comparison.task}.png")
        client.log_artifacts(parent, str(folder))
        client.log_artifact(parent, str(file))
    client.set_tag(parent, "harness.artifacts", digest)


def _choose_columns(client: MlflowClient, experiment: str, results: Results) -> None:
    """Store a view of the experiment's table that shows metrics, which MLflow's plain link hides.

    It opens with `#/experiments/ID/runs?workflowType=machine_learning&viewStateShareKey=harness`. The tag
    is not documented (it works in MLflow 3.17); where MLflow ignores it nothing is lost.
    """
    tag = f"mlflow.sharedViewState.{VIEW}"
    stored = client.get_experiment(experiment).tags.get(tag)
    known = json.loads(stored)["selectedColumns"] if stored else []
    if missing := [column for column in columns(results) if column not in known]:
        client.set_experiment_tag(experiment, tag, json.dumps({"selectedColumns": known + missing}))


def _milliseconds(iso: str) -> int:
    return round(datetime.fromisoformat(iso).timestamp() * 1000)
