"""Sync against real MLflow stores: a SQLite file, a dead server, two processes at once."""

from __future__ import annotations

import functools
import json
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import yaml
from raw_timings import offline_timings, single_stream_timings
from sample_results import HOSTILE, document, results
from sample_results import trial as trial_document

from harness.compare.frontier import FrontierChange
from harness.compare.outcome import SCHEMA
from harness.compare.trend import PastRun, TrendLine, TrendPoint, observations, read_trend
from harness.errors import InfrastructureError, UsageError
from harness.files import write_json
from harness.recipe import read_recipe, shipped_recipes
from harness.rundir.prediction_shards import ShardProvenance
from harness.rundir.results import Results, read_results, to_json
from harness.rundir.store import TrialDirectory
from harness.task import Translation
from harness.tracking import SyncOutcome, default_tracking_uri, past_runs, sync, ui_command
from harness.tracking.entries import TREND
from harness.tracking.names import key, readable
from harness.tracking.past_runs import fetch_baseline, logged_trend
from harness.tracking.tracking_store import mlflow_errors, public
from harness.tracking.values import metrics_of, params_of, view


def write_run(folder: Path, content: dict | None = None) -> Path:
    """Write results.json, and the files of the first trial's directory that a sync reads."""
    folder.mkdir(parents=True, exist_ok=True)
    place = TrialDirectory(folder / "trials" / results().trials[0].id)
    if not place.path.exists():
        place.predictions.write(
            "translation",
            0,
            ["a", "b"],
            [Translation("x"), Translation("y")],
            ShardProvenance(environment="env1"),
        )
        place.write_statistics("bleu", {"rows": np.arange(4)})
        place.digests.write(place.spec_file, b'{"adapter": "attention"}')
        latencies, windows = [[0.002, 0.003], [0.0025]], [[(8, 0.5), (8, 0.25)]]
        place.write_record(place.path / "speed" / "single-stream.json", single_stream_timings(latencies))
        place.write_record(place.path / "speed" / "offline.json", offline_timings(windows))
    (folder / "results.json").write_text(to_json(Results.model_validate(content or document())))
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with one synced; making a fresh database takes seconds, so all tests share it."""
    root = tmp_path_factory.mktemp("runs")
    first = sync(write_run(root / "quickstart"), default_tracking_uri(root / "quickstart"))
    assert (first.created, first.updated, first.unchanged) == (10, 0, 0)
    return root


def snapshot(root: Path, outcome: SyncOutcome) -> tuple[list, Counter]:
    """Return every run with its tags and parameters, and every metric point of the experiment."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(default_tracking_uri(root / "quickstart"))
    runs = sorted(client.search_runs([outcome.experiment_id]), key=lambda run: run.info.run_id)
    points = Counter(
        (run.info.run_id, name, point.value, point.timestamp, point.step)
        for run in runs
        for name in run.data.metrics
        for point in client.get_metric_history(run.info.run_id, name)
    )
    return [(run.info.run_id, run.info.status, run.data.tags, run.data.params) for run in runs], points


def resync(root: Path) -> SyncOutcome:
    return sync(root / "quickstart", default_tracking_uri(root / "quickstart"))


def test_syncing_again_changes_nothing(store: Path) -> None:
    before = resync(store)
    earlier = snapshot(store, before)
    after = resync(store)
    assert (after.created, after.updated, after.unchanged) == (0, 0, 10)
    assert snapshot(store, after) == earlier
    assert max(earlier[1].values()) == 1


def test_runs_hold_what_the_results_say(store: Path) -> None:
    outcome = resync(store)
    runs, points = snapshot(store, outcome)
    children = {
        tags["variant"]: (run, status, tags, params)
        for run, status, tags, params in runs
        if "variant" in tags
    }
    assert set(children) == {trial.variant for trial in results().trials}
    run, status, tags, params = children["yolo"]
    assert status == "FINISHED"
    assert tags["mlflow.parentRunId"] == outcome.run_id
    assert tags["dataset.fingerprint"] == "f00d"
    assert tags["hardware"] == "Example CPU 3000, 2 cores"
    assert params["options.width"] == "32"
    values = {name: value for (owner, name, value, *_), _ in points.items() if owner == run}
    assert values["acc/ap50"] == 0.412
    assert values["acc/ap50_low"] == pytest.approx(0.392)
    assert values["speed/ips"] == 320
    assert values["speed/p50_ms"] == pytest.approx(1000 / 320)
    assert "acc/ap_small" not in values
    assert children["broken"][1] == "FAILED"
    assert HOSTILE in children["broken"][2]["reason"]
    assert children["throttled"][2]["speed.offline"].startswith("not valid")


def test_the_parent_carries_the_report(store: Path) -> None:
    from mlflow.tracking import MlflowClient

    outcome = resync(store)
    client = MlflowClient(default_tracking_uri(store / "quickstart"))
    names = files_of(store, outcome.run_id)
    assert names >= {"results.json", "report/index.html", "report/summary.md", "report/results.csv"}
    charts = {
        f"charts/{name}.{suffix}" for name in ("1-translation", "2-detection") for suffix in ("png", "html")
    }
    assert charts <= names
    assert "run.zip" in names
    assert (store / "mlartifacts").is_dir()
    assert not (store / "quickstart" / "report").exists()  # a projection leaves the run directory alone
    note = client.get_run(outcome.run_id).data.tags["mlflow.note.content"]
    assert note.startswith("**Best trade-offs: ◆ gettext-de: attention; ◆ scenes-boxes: yolo, ssd-b8**")
    assert "7 of 9 trials complete" in note
    assert "2 speed measurements not valid: scenes-boxes/throttled offline" in note


def files_of(store: Path, run_id: str) -> set[str]:
    """Return the artifacts of a run, which are beside the SQLite file."""
    folder = store / "mlartifacts" / run_id / "artifacts"
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def child(store: Path, outcome: SyncOutcome, variant: str = "attention") -> Any:
    """Return the MLflow run of a trial."""
    from mlflow.tracking import MlflowClient

    query = f"tags.`mlflow.parentRunId` = '{outcome.run_id}' and tags.variant = '{variant}'"
    client = MlflowClient(default_tracking_uri(store / "quickstart"))
    (run,) = client.search_runs([outcome.experiment_id], query)
    return client, run


def test_a_trial_carries_its_files_without_the_bulk(store: Path) -> None:
    _, run = child(store, resync(store))
    timings = {"speed/offline.json", "speed/single-stream.json"}
    assert files_of(store, run.info.run_id) == {"SHA256SUMS", *timings, "trial.json"}


def test_the_machine_is_in_the_tags(store: Path) -> None:
    _, run = child(store, resync(store))
    assert run.data.tags["host"] == "bench-1"
    assert run.data.tags["gpu"] == "none"
    assert run.data.tags["system.packages.torch"] == "2.15.0"


def test_the_verdict_of_a_comparison_becomes_a_tag(store: Path) -> None:
    run = write_run(store / "quickstart-4", document("run-compared"))
    uri = default_tracking_uri(store / "quickstart")
    assert child(store, sync(run, uri))[1].data.tags["verdict"] == "not compared"
    found = {
        "schema": SCHEMA,
        "results": sha256((run / "results.json").read_bytes()).hexdigest(),
        "outcome": "regression",
        "trials": [{"benchmark": "gettext-de", "variant": "attention", "verdict": "regression"}],
        "frontier": [asdict(FrontierChange("gettext-de", "bleu", "cpu", ("lstm",), left=("attention",)))],
    }
    write_json(run / "report" / "compare.json", found)
    outcome = sync(run, uri)
    client, trial = child(store, outcome)
    assert trial.data.tags["verdict"] == "regression"
    tags = client.get_run(outcome.run_id).data.tags
    assert (tags["verdict"], tags["frontier"]) == ("regression", "gettext-de changed: left attention")
    told = "Against the baseline: **regression**; frontier: gettext-de changed: left attention"
    assert told in tags["mlflow.note.content"]


@pytest.mark.parametrize("form", ["an earlier version's", "not an object"])
def test_a_comparison_of_another_form_counts_as_none(store: Path, form: str) -> None:
    run = write_run(store / f"quickstart-{form[:2]}", document(f"run-{form[:2]}"))
    digest = sha256((run / "results.json").read_bytes()).hexdigest()
    changes = [{"benchmark": "b", "untold": "reason"}]
    earlier = {"results": digest, "outcome": "regression", "trials": [], "frontier": changes}
    write_json(run / "report" / "compare.json", [1] if form == "not an object" else earlier)
    outcome = sync(run, default_tracking_uri(store / "quickstart"))
    assert child(store, outcome)[1].data.tags["verdict"] == "not compared"


def test_a_run_that_was_resumed_loses_its_verdict_and_its_state(store: Path) -> None:
    uri, content = default_tracking_uri(store / "quickstart"), document("run-resumed")
    content["trials"] = content["trials"][:2]
    run = write_run(store / "quickstart-5", content)
    passed = sha256((run / "results.json").read_bytes()).hexdigest()
    write_json(
        run / "report" / "compare.json",
        {"schema": SCHEMA, "results": passed, "outcome": "pass", "trials": [], "frontier": []},
    )
    client, trial = child(store, first := sync(run, uri))
    assert client.get_run(first.run_id).data.tags["verdict"] == "pass"
    content["run"]["finished"] = None
    sync(write_run(run, content), uri)
    parent = client.get_run(first.run_id)
    assert (parent.info.status, parent.data.tags["verdict"]) == ("RUNNING", "not compared")
    with pytest.raises(UsageError, match="no other complete run"):
        fetch_baseline("mlflow:latest@none", store / "quickstart", uri)
    assert sync(run, uri).unchanged == 3
    content["run"]["finished"] = "2025-03-01T11:00:00+00:00"
    assert sync(write_run(run, content), uri).updated == 3
    assert client.get_run(first.run_id).info.status == "FINISHED"
    assert child(store, first)[1].info.end_time > trial.info.end_time


def test_a_shorter_history_leaves_nothing_of_a_longer_one(store: Path) -> None:
    uri, content = default_tracking_uri(store / "quickstart"), document("run-shrinking")
    content["suite"] = "shrinking"
    many = [
        trial_document("translation", f"m{n}", metrics=content["trials"][0]["metrics"]) for n in range(40)
    ]
    run = write_run(store / "shrinking", {**content, "trials": many})
    outcome = sync(run, uri)
    client = child(store, outcome, "m1")[0]

    def pieces() -> list[str]:
        return [name for name in client.get_run(outcome.run_id).data.tags if name.startswith(TREND)]

    assert len(pieces()) > 1
    sync(write_run(run, {**content, "trials": many[:2]}), uri)
    assert len(pieces()) == 1
    assert {line.subject.variant for line in logged_trend("shrinking", uri)} == {"m0", "m1"}


def test_a_run_that_is_being_rewritten_is_no_baseline_until_all_is_there(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    uri, content = default_tracking_uri(store / "quickstart"), document("run-rewritten")
    content["suite"], content["trials"] = "rewritten", content["trials"][:2]
    run = write_run(store / "rewritten", content)
    other = write_run(store / "rewritten-head", {**content, "run": {**content["run"], "id": "head"}})
    sync(run, uri)
    assert read_results(fetch_baseline("mlflow:latest@none", other, uri)).run.id == "run-rewritten"
    content["trials"] = content["trials"][:1]
    write_run(run, content)
    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, "log_batch", lambda *_, **__: (_ for _ in ()).throw(ConnectionError))
        with pytest.raises(InfrastructureError):
            sync(run, uri)
    assert logged_trend("rewritten", uri) == []
    with pytest.raises(UsageError, match="no other complete run"):
        fetch_baseline("mlflow:latest@none", other, uri)
    sync(run, uri)
    assert len(read_results(fetch_baseline("mlflow:latest@none", other, uri)).trials) == 1


# Baselines


@pytest.fixture(scope="module")
def history(store: Path) -> dict[str, SyncOutcome]:
    """Sync runs of another suite, each starting an hour later; return the outcomes by kind of run."""
    uri = default_tracking_uri(store / "quickstart")
    found = {}
    for hour, name in enumerate(("old", "good", "regressed", "incomplete", "other-branch", "head")):
        content = document(f"history-{name}")
        content["suite"] = "history"
        content["trials"] = content["trials"][:2]
        content["trials"][0] |= {"speed": {}}  # nothing to chart, which takes a second a run
        content["run"] |= {
            "started": f"2025-03-02T{hour:02}:00:00+00:00",
            "git_branch": "feature" if name == "other-branch" else "main",
        }
        if name == "incomplete":
            content["trials"][1] |= {"status": "failed", "metrics": {}}
        run = write_run(store / "history" / name, content)
        if name == "regressed":
            write_json(
                run / "report" / "compare.json",
                {
                    "schema": SCHEMA,
                    "results": sha256((run / "results.json").read_bytes()).hexdigest(),
                    "outcome": "regression",
                    "trials": [],
                    "frontier": [],
                },
            )
        found[name] = sync(run, uri)
    return found


def fetched(store: Path, reference: str) -> str:
    """Return the run id in the directory that a reference resolves to for `head`."""
    uri = default_tracking_uri(store / "quickstart")
    return read_results(fetch_baseline(reference, store / "history" / "head", uri)).run.id


def test_the_latest_of_a_branch_is_complete_no_regression_and_another_run(
    store: Path, history: dict[str, SyncOutcome]
) -> None:
    assert fetched(store, "mlflow:latest@main") == "history-good"
    assert fetched(store, "mlflow:latest@feature") == "history-other-branch"


def test_a_baseline_is_named_by_either_id_or_that_of_a_trial(
    store: Path, history: dict[str, SyncOutcome]
) -> None:
    _, trial = child(store, history["old"])
    for name in (history["old"].run_id, "history-old", trial.info.run_id):
        assert fetched(store, f"mlflow:{name}") == "history-old"


def test_a_baseline_is_the_run_directory_and_downloaded_once(
    store: Path, history: dict[str, SyncOutcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    uri, head, original = (
        default_tracking_uri(store / "quickstart"),
        store / "history" / "head",
        store / "history" / "good",
    )
    found = fetch_baseline("mlflow:latest@main", head, uri)
    results_file = found / "results.json"
    results_file.write_text(results_file.read_text().replace("0.", "0.9"))
    assert fetch_baseline("mlflow:latest@main", head, uri) == found  # downloaded again, because it was edited
    files = [path.relative_to(original) for path in sorted(original.rglob("*")) if path.is_file()]
    assert len(files) == 7, "the digests of the trial's files among them"
    assert all((found / file).read_bytes() == (original / file).read_bytes() for file in files)
    monkeypatch.setattr(MlflowClient, "download_artifacts", lambda *_: pytest.fail("downloaded again"))
    assert fetch_baseline("mlflow:latest@main", head, uri) == found


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("mlflow:latest@gone", "suite 'history' has no other complete run on branch 'gone'"),
        (
            "mlflow:abc",
            "suite 'history' has no run with this id; expected mlflow:RUN_ID or mlflow:latest@BRANCH",
        ),
    ],
)
def test_a_baseline_that_is_not_there_is_one_message(
    reference: str, said: str, store: Path, history: dict[str, SyncOutcome]
) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        fetched(store, reference)


def test_looking_for_a_baseline_makes_no_database(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs" / "quickstart")
    with pytest.raises(UsageError, match="no run of suite 'quickstart' is logged there"):
        fetch_baseline("mlflow:latest@main", run)
    assert not (tmp_path / "runs" / "mlflow.db").exists()


def test_the_history_is_the_same_from_mlflow_and_from_disk_in_one_request_a_page(
    store: Path, history: dict[str, SyncOutcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    def comparable(found: list[TrendLine]) -> list[Any]:
        """Without the source, which is a directory there and an MLflow run here."""
        return [
            (replace(line, points=()), [(replace(m.run, source=""), m.figure) for m in line.points])
            for line in found
        ]

    search, calls = MlflowClient.search_runs, []
    monkeypatch.setattr(MlflowClient, "search_runs", lambda *a, **b: calls.append(1) or search(*a, **b))
    logged = logged_trend("history", default_tracking_uri(store / "quickstart"))
    assert len(calls) == 1
    assert comparable(logged) == comparable(read_trend(sorted((store / "history").iterdir())))
    assert max(len(line.points) for line in logged) == len(history)


def test_lasting_changes_of_a_branch_are_told_while_they_are_recent(monkeypatch: pytest.MonkeyPatch) -> None:
    observed = next(observations(results()))
    runs = [PastRun(f"r{day}", "s", f"2025-03-{day:02}", f"{day:040}", "main", "") for day in range(1, 27)]
    conditions = []

    def told(days: int) -> list[str]:
        figures = [replace(observed.figure, value=31.0 if day < 12 else 30.0) for day in range(days)]
        points = tuple(TrendPoint(run, figure) for run, figure in zip(runs, figures, strict=False))
        line = TrendLine(observed, points)
        monkeypatch.setattr(past_runs, "logged_trend", lambda *found: conditions.append(found) or [line])
        return past_runs.recent_steps("s", "main")

    assert told(10) == told(12) == told(23) == []
    assert (
        told(15)
        == told(22)
        == [
            "on main, gettext-de/attention bleu from 31 to 30 (−3.2%) since 000000000000 of 2025-03-13, "
            "after 000000000000"
        ]
    )
    assert set(conditions) == {("s", None, " and tags.`git.branch` = 'main'")}


def test_a_trend_can_be_that_of_one_branch(store: Path, history: dict[str, SyncOutcome]) -> None:
    uri = default_tracking_uri(store / "quickstart")
    of_branch = logged_trend("history", uri, " and tags.`git.branch` = 'main'")
    assert {point.run.branch for line in of_branch for point in line.points} == {"main"}
    assert max(len(line.points) for line in of_branch) < len(history)


# The view


def test_the_stored_view_shows_the_headlines_and_speed(store: Path) -> None:
    from mlflow.tracking import MlflowClient

    outcome = resync(store)
    client = MlflowClient(default_tracking_uri(store / "quickstart"))
    tags = client.get_experiment(outcome.experiment_id).tags
    state = json.loads(json.loads(tags["mlflow.sharedViewState.harness"])["state"])
    shown = ["tags.`trade-off`", "metrics.`acc/bleu`", "metrics.`acc/ap50`", "metrics.`acc/miou`"]
    assert state["selectedColumns"][:5] == [*shown, "metrics.`speed/ips`"]
    assert {"params.`batch_size`", "params.`precision`"} <= set(state["selectedColumns"])
    axes = [(chart["xaxis"]["key"], chart["yaxis"]["key"]) for chart in state["compareRunCharts"]]
    assert axes == [("speed/ips", "acc/bleu"), ("speed/ips", "acc/ap50"), ("speed/ips", "acc/miou")]
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    page = (
        f"#/experiments/{outcome.experiment_id}/runs?workflowType=machine_learning&viewStateShareKey=harness"
    )
    assert outcome.view == f"http://127.0.0.1:5000/{page}"
    assert f"]({page})" in tags["mlflow.note.content"]
    client.set_experiment_tag(
        outcome.experiment_id, "mlflow.sharedViewState.harness", '{"selectedColumns": []}'
    )
    resync(store)  # over the view of an earlier version
    assert "state" in json.loads(
        client.get_experiment(outcome.experiment_id).tags["mlflow.sharedViewState.harness"]
    )


def test_columns_are_shown_for_the_axes_that_variants_name() -> None:
    content = document()
    settings = {"batch_size": 8, "backend": "compiled", "options": {"beam": 5, "width": 32}}
    content["trials"][0] |= {"variant": "attention[beam=5]", "settings": settings}
    columns = view(Results.model_validate(content), {})["selectedColumns"]
    named = [name for name in columns if name.startswith("params.")]
    assert named == ["params.`batch_size`", "params.`backend`", "params.`options.beam`", "params.`precision`"]


def test_a_view_keeps_the_columns_and_charts_of_earlier_runs() -> None:
    first = view(results(), {})
    content = document()
    content["trials"] = content["trials"][:1]
    assert view(Results.model_validate(content), first) == first
    assert view(results(), first) == first


def test_names_of_runs_can_be_read(store: Path) -> None:
    _, run = child(store, outcome := resync(store), "throttled")
    assert run.info.run_name == "⚠ throttled · scenes-boxes"
    client, run = child(store, outcome, "yolo")
    assert run.info.run_name == "◆ yolo · scenes-boxes"
    assert client.get_run(outcome.run_id).info.run_name == "quickstart · 1 Mar 10:00 · 0123456"
    assert readable("yolo[batch_size=16,beam=5]") == "yolo · batch 16 · beam 5"


def test_a_trial_says_whether_to_choose_it(store: Path) -> None:
    outcome = resync(store)
    texts = {
        name: child(store, outcome, name)[1].data.tags["trade-off"] for name in ("ssd-b8", "faster", "lstm")
    }
    assert texts == {
        "ssd-b8": "◆ on the frontier",
        "faster": "dominated by ssd-b8",
        "lstm": "not ranked: not timed",
    }


def test_an_invalid_timing_is_marked_and_no_column_ranks_it(store: Path) -> None:
    client, run = child(store, outcome := resync(store), "throttled")
    data = run.data
    assert data.tags["trade-off"] == "⚠ not valid: offline, single-stream"
    assert data.tags["mlflow.note.content"].startswith("**⚠ not valid: offline, single-stream**")
    assert data.metrics["speed/valid"] == 0
    assert data.metrics["not_valid/ips"] == 900
    assert "speed/ips" not in data.metrics
    parent = client.get_run(outcome.run_id).data.metrics
    assert (parent["scenes-boxes/valid/throttled"], parent["scenes-boxes/valid/yolo"]) == (0, 1)
    assert parent["trials/not_valid"] == 1


def test_the_parent_has_the_headlines_of_all_trials(store: Path) -> None:
    outcome = resync(store)
    client, run = child(store, outcome, "yolo")
    parent = client.get_run(outcome.run_id).data.metrics
    names = {"ap50": "acc/ap50", "ips": "speed/ips", "p50_ms": "speed/p50_ms"}
    assert {name: parent[f"scenes-boxes/{name}/yolo"] for name in names} == {
        name: run.data.metrics[key] for name, key in names.items()
    }
    assert "scenes-boxes/ips/throttled" not in parent


def test_a_copied_folder_serves_its_artifacts(store: Path, tmp_path: Path) -> None:
    outcome = resync(store)
    copy = shutil.copytree(store, tmp_path / "copy")
    head = copy / "quickstart"
    baseline = fetch_baseline(f"mlflow:{outcome.run_id}", head, default_tracking_uri(head))
    assert read_results(baseline).run.id == "run-1"
    with sqlite3.connect(copy / "mlflow.db") as database:
        places = [place for (place,) in database.execute("select artifact_uri from runs")]
    assert places
    assert all(place.startswith("mlflow-artifacts:/") for place in places)


def test_trials_link_to_the_training_of_their_weights(store: Path) -> None:
    path = shipped_recipes("yolo")["yolo-scenes"]
    recorded = yaml.safe_load(path.read_text())["provenance"]
    weights = {"name": "yolo-scenes", "sha256": recorded["sha256"], "recipe": None}
    content = document("run-trained")
    content["suite"], content["trials"] = "trained", content["trials"][2:4]
    for trial in content["trials"]:
        trial |= {"adapter": "yolo", "checkpoint": weights}
    uri = default_tracking_uri(store / "trained")
    outcome = sync(write_run(store / "trained", content), uri)
    assert (outcome.created, sync(store / "trained", uri).unchanged) == (4, 3)
    client, trial = child(store, outcome, "yolo")
    (training,) = client.search_runs([outcome.experiment_id], "tags.`harness.kind` = 'training'")
    assert training.info.run_name == "training · yolo-scenes"
    assert f"/runs/{training.info.run_id}/" in trial.data.tags["training"]
    assert trial.data.tags["training"] in trial.data.tags["mlflow.note.content"]

    def curve(name: str) -> list[tuple[int, float]]:
        return [(m.step, m.value) for m in client.get_metric_history(training.info.run_id, name)]

    history = recorded["history"]
    assert curve("train/loss") == [(entry["step"], entry["loss"]) for entry in history]
    assert curve("validation/ap") == [(entry["step"], entry["ap"]) for entry in history]
    recipe = read_recipe(path)
    assert curve("train/learning_rate")[-1][1] == pytest.approx(
        recipe.learning_rate * recipe.final_learning_rate, rel=0.1
    )


def test_a_changed_result_becomes_the_latest_value(store: Path) -> None:
    from mlflow.tracking import MlflowClient

    changed = document("run-changed")
    sync(write_run(store / "quickstart-2", changed), default_tracking_uri(store / "quickstart"))
    changed["trials"][0]["metrics"]["bleu"] |= {"value": 20.5, "low": 19.0, "high": 22.0}  # lower than before
    outcome = sync(write_run(store / "quickstart-2", changed), default_tracking_uri(store / "quickstart"))
    assert (outcome.created, outcome.updated, outcome.unchanged) == (0, 2, 8)  # the trial and the summary
    client = MlflowClient(default_tracking_uri(store / "quickstart"))
    query = "tags.`harness.run_id` = 'run-changed' and tags.variant = 'attention'"
    (run,) = client.search_runs([outcome.experiment_id], query)
    assert run.data.metrics["acc/bleu"] == 20.5
    assert [point.value for point in client.get_metric_history(run.info.run_id, "acc/bleu")] == [31.42, 20.5]


def test_an_interrupted_sync_is_completed_without_doubles(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    run = write_run(store / "quickstart-3", document("run-interrupted"))
    uri = default_tracking_uri(store / "quickstart")
    write = MlflowClient.log_batch
    calls = iter(range(100))

    def fail_at_the_fifth(*arguments: object, **named: object) -> object:
        if next(calls) == 4:
            raise ConnectionError("server gone")
        return write(*arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, "log_batch", fail_at_the_fifth)
        with pytest.raises(InfrastructureError, match="server gone"):
            sync(run, uri)
    completed = sync(run, uri)
    assert (completed.created, completed.updated, completed.unchanged) == (5, 1, 4)
    assert sync(run, uri).unchanged == 10


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def server(root: Path, port: int, *more: str, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """Yield the process of an `mlflow server` in its own process group, once it answers."""
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{root}/mlflow.db",
        "--artifacts-destination",
        str(root / "files"),
    ]
    quiet = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **variables}
    process = subprocess.Popen(
        [*command, *more],
        env=quiet,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def deadly(fatal: int, kill: Callable[[], None], generator: random.Random) -> Any:
    """`Session.send` whose `fatal`-th call is the server's last: it dies within 20 ms of it."""
    send, sent = requests.Session.send, count(1)

    def sending(*arguments: Any, **named: Any) -> Any:
        if next(sent) == fatal:
            threading.Timer(generator.uniform(0, 0.02), kill).start()
        return send(*arguments, **named)

    return sending


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_server_killed_in_mid_sync_ends_with_every_trial_once_and_every_metric(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at a random moment of a random request, twice; then restarted and synced to the end."""
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")  # a loaded machine is no dead server
    generator = random.Random(7)
    run, port = write_run(tmp_path / "runs" / "quickstart"), free_port()
    uri = f"http://127.0.0.1:{port}"
    for first, last in ((5, 20), (20, 45)):
        with server(tmp_path, port) as process, monkeypatch.context() as patched:
            kill = functools.partial(os.killpg, process.pid, signal.SIGKILL)
            patched.setattr(requests.Session, "send", deadly(generator.randint(first, last), kill, generator))
            with pytest.raises(InfrastructureError, match="MLflow at"):
                sync(run, uri)
    with server(tmp_path, port):
        sync(run, uri)
        assert sync(run, uri).unchanged == 10
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name("quickstart").experiment_id
        logged = client.search_runs([experiment])
        trials = {each.data.tags["harness.trial_id"]: each for each in logged if "variant" in each.data.tags}
        assert len(logged) == len(trials) + 1 == 10
        for record in results().trials:
            found = trials[record.id]
            assert metrics_of(record).items() <= found.data.metrics.items()
            assert found.info.status == {"complete": "FINISHED"}.get(record.status, "FAILED")
        attention = trials[results().trials[0].id].info.run_id
        assert {item.path for item in client.list_artifacts(attention)} == {
            "SHA256SUMS",
            "speed",
            "trial.json",
        }


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_server_with_basic_auth_takes_the_users_name_and_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("flask_wtf", reason="the server's part of mlflow[auth]")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    settings = tmp_path / "auth.ini"
    settings.write_text(
        "[mlflow]\ndefault_permission = READ\n"
        f"database_uri = sqlite:///{tmp_path}/auth.db\n"
        "admin_username = admin\nadmin_password = a long password\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    run, port = write_run(tmp_path / "runs" / "quickstart"), free_port()
    uri = f"http://127.0.0.1:{port}"
    secret = {"MLFLOW_AUTH_CONFIG_PATH": str(settings), "MLFLOW_FLASK_SERVER_SECRET_KEY": "for this test"}
    with server(tmp_path, port, "--app-name", "basic-auth", **secret):
        with pytest.raises(InfrastructureError, match="401"):
            sync(run, uri)
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a long password")
        assert sync(run, uri).created == 10
        assert sync(run, uri).unchanged == 10
        head = document("another") | {"suite": "quickstart"}
        other = write_run(tmp_path / "runs" / "head", head)
        assert read_results(fetch_baseline("mlflow:run-1", other, uri)).run.id == "run-1"


def test_the_client_is_fast_to_fail_and_quiet_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mlflow import environment_variables as mlflow_reads

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    with mlflow_errors("sqlite:///"):
        assert mlflow_reads.MLFLOW_HTTP_REQUEST_TIMEOUT.get() == 77
        assert mlflow_reads.MLFLOW_HTTP_REQUEST_MAX_RETRIES.get() == 2
        assert mlflow_reads.MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.get() is True
    assert mlflow_reads.MLFLOW_HTTP_REQUEST_MAX_RETRIES.get() != 2


def test_a_server_that_is_down_fails_fast_with_one_line(tmp_path: Path) -> None:
    port = free_port()
    run = write_run(tmp_path / "runs" / "quickstart")
    start = time.monotonic()
    with pytest.raises(InfrastructureError) as caught:
        sync(run, f"http://user:secret@127.0.0.1:{port}")
    assert time.monotonic() - start < 10
    assert f"MLflow at http://127.0.0.1:{port}" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_password_in_the_query_of_a_uri_is_not_printed() -> None:
    shown = public("postgresql://h/db?user=me&password=secret&sslmode=require: refused")
    assert shown == "postgresql://h/db?user=…&password=…&sslmode=require: refused"


def test_a_driver_that_is_not_installed_is_one_line() -> None:
    with pytest.raises(InfrastructureError, match="No module named 'psycopg2'"), mlflow_errors("postgresql:"):
        raise ModuleNotFoundError("No module named 'psycopg2'")


@pytest.mark.slow
def test_two_processes_on_a_fresh_database_make_each_run_once(tmp_path: Path) -> None:
    run = write_run(tmp_path / "quickstart")
    code = "import sys, pathlib, harness.tracking as t; print(t.sync(pathlib.Path(sys.argv[1])).created)"
    command = [sys.executable, "-c", code, str(run)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    created = sorted(int(process.communicate(timeout=280)[0].split()[-1]) for process in running)
    assert created == [0, 10]


def test_metric_keys_are_ones_that_mlflow_accepts() -> None:
    from mlflow.utils.validation import _validate_metric_name, _validate_param_name

    assert key("ap50") == "ap50"
    assert key("a|b") != key("a/b")
    for trial in results().trials:
        record = trial.model_copy(
            update={"metrics": {HOSTILE: next(iter(trial.metrics.values()), None)} if trial.metrics else {}}
        )
        for name in metrics_of(record):
            _validate_metric_name(name)
        for name in params_of(record):
            _validate_param_name(name)


def test_importing_tracking_is_light() -> None:
    code = "import sys, json, harness.tracking; print(json.dumps(list(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"mlflow", "altair", "torch", "ray"} & set(json.loads(out.stdout))


def test_the_ui_serves_the_store_that_sync_writes(
    store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    command = ui_command(store, port=5123)
    assert command[command.index("--backend-store-uri") + 1] == default_tracking_uri(store / "quickstart")
    assert command[command.index("--port") + 1] == "5123"
    with pytest.raises(UsageError, match="nothing is logged"):
        ui_command(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example:5000")
    with pytest.raises(UsageError, match="has its own UI"):
        ui_command(store)
