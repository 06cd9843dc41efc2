"""Sync against real MLflow stores: a SQLite file, a dead server, two processes at once."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from sample_results import HOSTILE, document, results

from harness.errors import InfrastructureError, UsageError
from harness.results import Results, to_json
from harness.tracking import SyncOutcome, default_tracking_uri, sync, ui_command
from harness.tracking.entries import key, metrics_of, params_of
from harness.tracking.tracking_store import mlflow_environment


def write_run(folder: Path, content: dict | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
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
    """Every run with its tags and parameters, and every metric point of the experiment."""
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
    names = {
        item.path
        for folder in (None, "report", "charts")
        for item in client.list_artifacts(outcome.run_id, folder)
    }
    assert names >= {"results.json", "report/index.html", "report/summary.md", "report/results.csv"}
    assert {"charts/1-translation.png", "charts/2-detection.png"} <= names
    assert (store / "mlartifacts").is_dir()
    assert not (store / "quickstart" / "report").exists()  # a projection leaves the run directory alone
    note = client.get_run(outcome.run_id).data.tags["mlflow.note.content"]
    assert "7 of 9 trials complete" in note


def test_the_stored_view_shows_the_headlines_and_speed(store: Path) -> None:
    from mlflow.tracking import MlflowClient

    outcome = resync(store)
    client = MlflowClient(default_tracking_uri(store / "quickstart"))
    view = json.loads(client.get_experiment(outcome.experiment_id).tags["mlflow.sharedViewState.harness"])
    assert {"metrics.`acc/bleu`", "metrics.`acc/ap50`", "metrics.`speed/ips`"} <= set(view["selectedColumns"])


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


def test_the_client_is_fast_to_fail_and_quiet_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mlflow import environment_variables as mlflow_reads

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    with mlflow_environment():
        assert mlflow_reads.MLFLOW_HTTP_REQUEST_TIMEOUT.get() == 77
        assert mlflow_reads.MLFLOW_HTTP_REQUEST_MAX_RETRIES.get() == 2
        assert mlflow_reads.MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.get() is True
    assert mlflow_reads.MLFLOW_HTTP_REQUEST_MAX_RETRIES.get() != 2


def test_a_server_that_is_down_fails_fast_with_one_line(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run = write_run(tmp_path / "runs" / "quickstart")
    start = time.monotonic()
    with pytest.raises(InfrastructureError) as caught:
        sync(run, f"http://user:secret@127.0.0.1:{port}")
    assert time.monotonic() - start < 10
    assert f"MLflow at http://127.0.0.1:{port}" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_two_processes_on_a_fresh_database_make_each_run_once(tmp_path: Path) -> None:
    run = write_run(tmp_path / "quickstart")
    code = "import sys, pathlib, harness.tracking as t; print(t.sync(pathlib.Path(sys.argv[1])).created)"
    command = [sys.executable, "-c", code, str(run)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    created = sorted(int(process.communicate(timeout=120)[0].split()[-1]) for process in running)
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
