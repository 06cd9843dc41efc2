"""Write a run directory to MLflow, as often as wanted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from math import ceil
from os import environ
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.compare.outcome import last_comparison
from harness.errors import UsageError
from harness.identity import content_id
from harness.rundir.results import Results, read_results
from harness.rundir.store import RunDirectory
from harness.tracking import artifacts
from harness.tracking.entries import TREND, WHOLE_RUN, Entry, Input, Trial, columns, run_entry, trial_entry
from harness.tracking.models import Registration, register
from harness.tracking.series import Curve, series
from harness.tracking.tracking_store import (
    default_tracking_uri,
    mlflow_errors,
    one_at_a_time,
    open_experiment,
    pages,
    public,
    quoted,
)

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

_BATCH = 100  # parameters or tags a request, MLflow's limit
_METRICS = 800  # a request: with the others at most 1,000, MLflow's limit
VIEW = "harness"  # name of the stored choice of columns
_SERIES_TAG = "harness.series"
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
    models: tuple[Registration, ...] = ()

    def describe(self) -> str:
        """One line, and one for each checkpoint that was to be registered."""
        runs = (
            f"experiment '{self.experiment}' in {self.tracking_uri}: runs created {self.created}, "
            f"updated {self.updated}, unchanged {self.unchanged}"
        )
        return "\n".join([runs, *(model.describe() for model in self.models)])


def sync(run_dir: Path, tracking_uri: str | None = None, register_models: bool = False) -> SyncOutcome:
    """Make MLflow show a run directory; again changes nothing, and an interrupted sync is completed.

    Runs are found by the tags `harness.run_id` and `harness.trial_id` and made where missing. A metric
    point is written only if its value is new. One that changed (a resumed run, a corrected metric) gets a
    later timestamp, so that MLflow shows it as the latest and keeps the older in the history. MLflow
    cannot take a metric back: one that became undefined keeps its last point there. Parameters stay as
    first written: what they say is hashed by the trial's id. Until all is written the parent lacks the tag
    `artifacts.DIGEST_TAG`, and is neither a baseline nor part of the history.

    Args:
        run_dir: holds results.json.
        tracking_uri: default: $MLFLOW_TRACKING_URI, else `default_tracking_uri`.
        register_models: put the checkpoints into the model registry as well.

    Raises:
        UsageError: no valid results.json.
        InfrastructureError: the store cannot be reached or refuses; found out within seconds, unless the
            user set MLflow's retry variables.
    """
    if not run_dir.is_dir():
        raise UsageError(f"{run_dir}: not a run directory")
    results = read_results(run_dir)
    uri = tracking_uri or environ.get("MLFLOW_TRACKING_URI") or default_tracking_uri(run_dir)
    with mlflow_errors(uri), one_at_a_time(run_dir):
        client, experiment = open_experiment(uri, results.suite)
        outcome, children = _runs(client, experiment, run_dir, results, public(uri))
        if register_models:
            outcome = replace(outcome, models=register(client, results, children))
        return outcome


def _runs(
    client: MlflowClient, experiment: str, run_dir: Path, results: Results, uri: str
) -> tuple[SyncOutcome, dict[tuple[str, str], str]]:
    """Parent and children; the ids of the children by benchmark and trial id."""
    query = f"tags.`harness.run_id` = {quoted(results.run.id)}"
    known = [run for page in pages(client, experiment, query) for run in page]
    start = _milliseconds(results.run.started)
    end = _milliseconds(results.run.finished or results.run.started)
    changes: list[Change] = []

    def write(entry: Entry) -> Run:
        run = _find(known, entry)
        changes.append("updated" if run else "created")
        if run is None:
            tags = {**entry.tags, **entry.identity}
            run = client.create_run(experiment, start_time=start, tags=tags, run_name=entry.name)
        if not _fill(client, run, entry, end) and changes[-1] == "updated":
            changes[-1] = "unchanged"
        return run

    def attach(run: Run, content: str, making: AbstractContextManager[Path]) -> None:
        if run.data.tags.get(artifacts.DIGEST_TAG) != content:
            with making as folder:
                client.log_artifacts(run.info.run_id, str(folder))
            client.set_tag(run.info.run_id, artifacts.DIGEST_TAG, content)

    # The parent's artifacts come last: a run that has them was written whole, and may be a baseline.
    files = [*artifacts.run_files(run_dir), *artifacts.comparison_files(run_dir)]
    content = artifacts.content_digest(run_dir, files)
    compared = last_comparison(run_dir)
    verdicts = _verdicts(compared)
    entry = run_entry(results, verdicts, compared.get("frontier", []))
    before = _find(known, entry)
    if before and before.data.tags.get(artifacts.DIGEST_TAG, content) != content:
        client.delete_tag(before.info.run_id, artifacts.DIGEST_TAG)
    parent = write(entry)
    children = {}
    for trial in results.trials:
        place = RunDirectory(run_dir).trial(trial.id).path
        child = write(trial_entry(results, trial, parent.info.run_id, verdicts, series(place)))
        children[trial.benchmark, trial.id] = str(child.info.run_id)
        digest = artifacts.content_digest(place, artifacts.trial_files(place))
        attach(child, digest, artifacts.trial_artifacts(place))
    attach(parent, content, artifacts.run_artifacts(run_dir, results))
    _choose_columns(client, experiment, results)
    outcome = SyncOutcome(
        uri,
        results.suite,
        experiment,
        parent.info.run_id,
        created=changes.count("created"),
        updated=changes.count("updated"),
        unchanged=changes.count("unchanged"),
    )
    return outcome, children


def _verdicts(found: dict[str, Any]) -> dict[Trial, str]:
    if not found:
        return {}
    by_trial = {(trial["benchmark"], trial["variant"]): trial["verdict"] for trial in found["trials"]}
    return {WHOLE_RUN: found["outcome"], **by_trial}


def _find(known: Sequence[Run], entry: Entry) -> Run | None:
    wanted = entry.identity.items()
    return next((run for run in known if wanted <= run.data.tags.items()), None)


def _fill(client: MlflowClient, run: Run, entry: Entry, end: int) -> bool:
    """Write what the run lacks; False if that is nothing."""
    from mlflow.entities import Metric, Param, RunTag

    run_id, data = run.info.run_id, run.data
    metrics = [
        Metric(name, value, _timestamp(client, run, name, [(0, value)], end), 0)
        for name, value in entry.metrics.items()
        if data.metrics.get(name) != value
    ]
    params = [Param(name, value) for name, value in entry.params.items() if name not in data.params]
    tags = [RunTag(name, value) for name, value in entry.tags.items() if data.tags.get(name) != value]
    curves = content_id(entry.series) if entry.series else ""
    if data.tags.get(_SERIES_TAG, "") != curves:
        for name, curve in entry.series.items():
            when = _timestamp(client, run, name, curve, end)
            metrics += [Metric(name, value, when, step) for step, value in curve]
        tags.append(RunTag(_SERIES_TAG, curves))
    stale = [name for name in data.tags if name.startswith(TREND) and name not in entry.tags]
    for name in stale:  # the pieces of a longer text than there is now
        client.delete_tag(run_id, name)
    for n in range(max(ceil(len(metrics) / _METRICS), ceil(len(params) / _BATCH))):
        client.log_batch(
            run_id,
            metrics[n * _METRICS : (n + 1) * _METRICS],
            params[n * _BATCH : (n + 1) * _BATCH],
        )
    for first in range(0, len(tags), _BATCH):
        client.log_batch(run_id, tags=tags[first : first + _BATCH])
    lacks_data = _log_dataset(client, run, entry.dataset)
    # The status comes last: a run that is not yet in its final state was not written whole.
    running = entry.status == "RUNNING"
    wrong = run.info.status != entry.status or (run.info.end_time != end and not running)
    if wrong and running:
        client.update_run(run_id, entry.status)
    elif wrong:
        client.set_terminated(run_id, entry.status, end)
    return bool(metrics or params or tags or stale or lacks_data or wrong)


def _timestamp(client: MlflowClient, run: Run, name: str, points: Curve, end: int) -> int:
    """The run's end, or just after the last points that MLflow has; theirs if these are among `points`.

    The latter were written before an interruption: MLflow keeps equal points once.
    """
    if name not in run.data.metrics:
        return end
    history = client.get_metric_history(run.info.run_id, name)
    last = max(point.timestamp for point in history)
    latest = {(point.step, point.value) for point in history if point.timestamp == last}
    return last if latest <= set(points) else max(end, last + 1)


def _log_dataset(client: MlflowClient, run: Run, used: Input | None) -> bool:
    """List the data set among the run's inputs; False if it is there."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    listed = run.inputs.dataset_inputs if run.inputs else []
    if used is None or any(each.dataset.digest == used.digest for each in listed):
        return False
    profile = json.dumps({"num_rows": used.size})
    dataset = Dataset(used.name, used.digest, "code", used.source, None, profile)
    client.log_inputs(
        run.info.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", used.context)])]
    )
    return True


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
