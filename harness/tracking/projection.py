"""Synchronisation of a run directory to MLflow, which may be repeated."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import chain
from math import ceil
from pathlib import Path
from time import time
from typing import TYPE_CHECKING

from harness.compare.outcome import last_comparison
from harness.errors import UsageError
from harness.files import one_at_a_time
from harness.rundir.results import Results, TrialRecord
from harness.rundir.store import RunDirectory, read_run
from harness.tracking import artifacts
from harness.tracking import tracking_store as store
from harness.tracking.entries import NOT_COMPARED, TREND, Entry, ranks, run_entry, trial_entry
from harness.tracking.trainings import training_entry
from harness.tracking.values import view

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

_MOST = (800, 100, 100)  # metrics, parameters, tags per request; MLflow allows 1,000 in total, 100, 100


@dataclass(frozen=True)
class SyncOutcome:
    """The result of a sync. The counts include the parent run."""

    tracking_uri: str  # without credentials
    experiment: str
    experiment_id: str
    view: str  # address of MLflow's table of the experiment's runs with accuracy and speed
    run_id: str  # of the parent
    created: int
    updated: int
    unchanged: int

    def describe(self) -> str:
        """Return what was written and where to look at it."""
        runs = (
            f"experiment '{self.experiment}' in {self.tracking_uri}: runs created {self.created}, "
            f"updated {self.updated}, unchanged {self.unchanged}"
        )
        served = "" if self.tracking_uri.startswith("http") else " (while `harness ui` runs)"
        return f"{runs}\nview: {self.view}{served}"


def sync(run_dir: Path, tracking_uri: str | None = None, report: Path | None = None) -> SyncOutcome:
    """Make MLflow show a run directory. Repeating it changes nothing; an interrupted sync is completed.

    A metric is written only if its value is new; MLflow keeps the older one in the history, and the last one
    of a metric that became undefined.

    Until everything is written, the parent lacks the tag `artifacts.DIGEST_TAG` and serves neither as a
    baseline nor in trends.

    Args:
        tracking_uri: default: $MLFLOW_TRACKING_URI, else `default_tracking_uri`.
        report: folder of a report that was just written from these results, to be copied. None makes one.

    Raises:
        UsageError: there is no valid results.json.
        InfrastructureError: the store cannot be reached or refuses. This takes seconds, unless the user set
            MLflow's retry variables.
    """
    if not run_dir.is_dir():
        raise UsageError(f"{run_dir}: not a run directory")
    results = read_run(run_dir)
    uri = store.chosen_uri(tracking_uri, run_dir)
    database = store.sqlite_file(uri)
    with store.mlflow_errors(uri):
        folder = database.parent if database else run_dir
        folder.mkdir(parents=True, exist_ok=True)
        # Of processes that migrate a fresh SQLite file at once, all but one fail (7 of 8, measured).
        with one_at_a_time(folder):
            client, experiment = store.open_experiment(uri, results.suite)
        with one_at_a_time(run_dir):  # two that sync a run at once would both create its MLflow runs
            return _write_runs(client, experiment, run_dir, results, uri, report)


class _Writer:
    """Creates and completes the MLflow runs of one harness run, and counts what changed."""

    def __init__(self, client: MlflowClient, experiment: str, results: Results, uri: str) -> None:
        self._client = client
        self._uri = uri
        self._experiment = experiment
        of_run = f"tags.`harness.run_id` = {store.quoted(results.run.id)}"
        self._known: list[Run] = []
        for query in (of_run, "tags.`harness.kind` = 'training'"):
            self._known += chain(*store.pages(client, experiment, query))
        self._start = _milliseconds(results.run.started)
        self._end = _milliseconds(results.run.finished or results.run.started)
        self.changes: Counter[str] = Counter()

    def find(self, entry: Entry) -> Run | None:
        """Return the MLflow run of an entry, if it was created before."""
        return next((run for run in self._known if entry.identity.items() <= run.data.tags.items()), None)

    def write(self, entry: Entry) -> Run:
        """Create the run of an entry if needed, and write the missing parts."""
        run = self.find(entry)
        created = run is None
        if run is None:
            tags = {**entry.tags, **entry.identity}
            start = self._start - self.changes.total()  # ms: MLflow lists the newest first
            run = self._client.create_run(self._experiment, start_time=start, tags=tags)
        changed = _fill(self._client, run, entry, self._end)
        self.changes["created" if created else "updated" if changed else "unchanged"] += 1
        return run

    def training(self, trial: TrialRecord) -> str:
        """Return the page of the training of a trial's weights, written once for all runs; "" if unknown."""
        entry = training_entry(trial, self._experiment)
        if entry is None:
            return ""
        run = self.find(entry)
        if run is None or run.info.status != entry.status:
            run = self._client.get_run(self.write(entry).info.run_id)
            self._known.insert(0, run)
        return f"#/experiments/{self._experiment}/runs/{run.info.run_id}/model-metrics"

    def attach(self, run: Run, digest: str, write: Callable[[Path], None]) -> None:
        """Write artifacts unless the run has those with this digest. Set the tag with the digest last."""
        if run.data.tags.get(artifacts.DIGEST_TAG) == digest:
            return
        if beside := store.artifact_folder(self._uri, run):
            write(beside)
        else:
            with tempfile.TemporaryDirectory() as temporary:
                write(Path(temporary))
                self._client.log_artifacts(run.info.run_id, temporary)
        self._client.set_tag(run.info.run_id, artifacts.DIGEST_TAG, digest)


def _write_runs(
    client: MlflowClient, experiment: str, run_dir: Path, results: Results, uri: str, report: Path | None
) -> SyncOutcome:
    """Write the run, its trials and their trainings."""
    writer = _Writer(client, experiment, results, uri)
    # The parent's artifacts come last: a run that has them is complete, and may serve as a baseline.
    files = [*artifacts.run_files(run_dir), *artifacts.comparison_files(run_dir)]
    digest = artifacts.content_digest(run_dir, files)
    compared = last_comparison(run_dir)
    verdicts = {(each["benchmark"], each["variant"]): each["verdict"] for each in compared.get("trials", ())}
    ranked = ranks(results)
    entry = run_entry(results, ranked, compared)
    found = writer.find(entry)
    if found and found.data.tags.get(artifacts.DIGEST_TAG, digest) != digest:
        client.delete_tag(found.info.run_id, artifacts.DIGEST_TAG)
    parent = writer.write(entry)
    for trial, rank in zip(results.trials, ranked, strict=True):
        folder = RunDirectory(run_dir).trial(trial.id).path
        verdict = verdicts.get((trial.benchmark, trial.variant), NOT_COMPARED)
        training = writer.training(trial)
        child = writer.write(trial_entry(results, trial, parent.info.run_id, verdict, rank, training))
        files = artifacts.trial_files(folder)
        trial_digest = artifacts.content_digest(folder, files)
        writer.attach(child, trial_digest, partial(artifacts.copy_files, folder, files))
    writer.attach(parent, digest, partial(artifacts.write_run_artifacts, run_dir, results, report))
    _store_view(client, experiment, results)
    server = uri.rstrip("/") if uri.startswith("http") else f"http://{store.LOCAL}:{store.PORT}"
    link = store.view_link(experiment, f"{store.public(server)}/")
    place = (store.public(uri), results.suite, experiment, link, parent.info.run_id)
    return SyncOutcome(*place, *(writer.changes[name] for name in ("created", "updated", "unchanged")))


def _fill(client: MlflowClient, run: Run, entry: Entry, end: int) -> bool:
    """Write the missing parts of the run, and return whether anything was written."""
    from mlflow.entities import Metric, Param, RunTag

    run_id, info, data = run.info.run_id, run.info, run.data
    ended = (info.status, info.end_time) == (entry.status, end)
    now = round(1000 * time())
    metrics = [
        Metric(name, value, now if name in data.metrics else end, 0)  # MLflow shows the newest value
        for name, value in entry.metrics.items()
        if data.metrics.get(name) != value
    ]
    if not ended:  # points that an interrupted sync wrote are stored once
        curves = entry.series.items()
        metrics += [Metric(name, value, end, step) for name, curve in curves for step, value in curve]
    params = [Param(name, value) for name, value in entry.params.items() if name not in data.params]
    tags = [RunTag(name, value) for name, value in entry.tags.items() if data.tags.get(name) != value]
    stale = [name for name in data.tags if name.startswith(TREND) and name not in entry.tags]
    for name in stale:  # the remainder of a text that was longer before
        client.delete_tag(run_id, name)
    parts = list(zip((metrics, params, tags), _MOST, strict=True))
    for n in range(max(ceil(len(part) / most) for part, most in parts)):
        client.log_batch(run_id, *(part[n * most : (n + 1) * most] for part, most in parts))
    if not ended:  # last: a run in its final state was written completely
        client.set_terminated(run_id, entry.status, end)
    return bool(metrics or params or tags or stale or not ended)


def _store_view(client: MlflowClient, experiment: str, results: Results) -> None:
    """Store a view of the experiment's runs, which MLflow lists under "Views" and `store.view_link` opens.

    The tags are undocumented (they work in MLflow 3.17). Versions that ignore them show the default view.
    """
    tags = client.get_experiment(experiment).tags
    page = store.view_link(experiment)
    note = f"**[Accuracy and speed of all runs]({page})**: ◆ marks the best trade-offs, ⚠ invalid timings."
    for name, value in (("mlflow.experimentKind", "custom_model_development"), ("mlflow.note.content", note)):
        if name not in tags:
            client.set_experiment_tag(experiment, name, value)
    known = json.loads(json.loads(tags.get(store.VIEW_TAG, "{}")).get("state", "{}"))
    extended = view(results, known)
    if extended != known:
        when = _milliseconds(results.run.started)
        saved = {"name": "Accuracy and speed", "createdAt": when, "state": json.dumps(extended)}
        client.set_experiment_tag(experiment, store.VIEW_TAG, json.dumps(saved))


def _milliseconds(iso: str) -> int:
    return round(datetime.fromisoformat(iso).timestamp() * 1000)
