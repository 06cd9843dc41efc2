"""Time a comparison, and a trend of 1,000 runs: python benchmarks/compare_scale.py [--mlflow]

Makes two run directories of 12 trials × 300 samples in which every prediction differs (four trials per task,
written and scored by the harness's own code, without models), and 1,000 results documents of 12 trials. With
--mlflow it also logs the 1,000 runs (their parents, which are all that is read back) to a SQLite store behind
`mlflow server`, and counts the requests for finding a baseline and for reading the trend.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from tracking_server import TrackingServer

from harness.compare.trend import read_trend
from harness.datasets.dataset import Dataset, DatasetOptions
from harness.environment import Environment, describe
from harness.files import write_json, write_text
from harness.rundir.prediction_shards import ShardProvenance
from harness.rundir.results import Results, read_results, to_json
from harness.rundir.store import RunDirectory
from harness.stages.score import score
from harness.task import TASKS, Annotations, Detections, Prediction, Sample, TaskName, Translation

SAMPLES, VARIANTS, RUNS = 300, 4, 1000
METRICS = {"translation": ["bleu", "chrf"], "detection": ["coco"], "segmentation": ["iou"]}
WORDS = [f"word{number}" for number in range(500)]


class Synthetic(Dataset):
    """Sentences of 20 words, images of 128×128 px with 4 objects, masks of 11 classes."""

    tasks = TASKS

    @property
    def fingerprint(self) -> str:
        return f"synthetic {self.task}"

    @property
    def classes(self) -> tuple[str, ...]:
        return () if self.task == "translation" else tuple(map(str, range(11)))

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> Sample:
        generator = np.random.default_rng([TASKS.index(self.task), index])
        target: Any = (" ".join(generator.choice(WORDS, 20)),)
        if self.task == "detection":
            corners = generator.uniform(0, 90, (4, 2))
            boxes = np.concatenate([corners, corners + generator.uniform(10, 38, (4, 2))], axis=1)
            target = Annotations.of_boxes(boxes, generator.integers(0, 11, 4))
        elif self.task == "segmentation":
            target = np.repeat(np.repeat(generator.integers(0, 11, (16, 16), np.uint8), 8, 0), 8, 1)
        return Sample(f"{index:06d}", "", target)


def prediction(task: TaskName, target: Any, generator: np.random.Generator) -> Prediction:
    """Return the target with noise."""
    if task == "translation":
        words = target[0].split()
        words[int(generator.integers(len(words)))] = generator.choice(WORDS)
        return Translation(" ".join(words))
    if task == "detection":
        elsewhere = np.tile(generator.uniform(0, 60, (8, 2)), 2) + np.array([0, 0, 40, 40])
        boxes = np.concatenate([target.boxes + generator.normal(0, 2, (4, 4)), elsewhere])
        labels = np.concatenate([target.labels, generator.integers(0, 11, 8)])
        return Detections(boxes.astype(np.float32), generator.random(12).astype(np.float32), labels)
    wrong = generator.random(target.shape) < 0.1
    return np.where(wrong, generator.integers(0, 11, target.shape, np.uint8), target)


def make_run(path: Path, seed: int) -> None:
    """Write shards, statistics and results.json of 12 trials."""
    environment = describe()
    trials = []
    for task in TASKS:
        dataset = Synthetic(DatasetOptions(), "test", task)
        samples = [dataset[index] for index in range(SAMPLES)]
        for variant in range(VARIANTS):
            generator = np.random.default_rng([seed, variant])
            directory = RunDirectory(path).trial(f"{task}-{variant}")
            predictions = [prediction(task, sample.target, generator) for sample in samples]
            for start in range(0, SAMPLES, 64):
                ids = [sample.id for sample in samples[start : start + 64]]
                directory.predictions.write(
                    task,
                    start,
                    ids,
                    predictions[start : start + 64],
                    ShardProvenance(environment=environment.key),
                )
            metrics = {}
            for name, scored in score(
                dataset, SAMPLES, directory.predictions.read(task), METRICS[task]
            ).items():
                directory.write_statistics(name, scored.statistics)
                metrics |= {figure: asdict(value) for figure, value in scored.scores.metrics.items()}
            trials.append(record(task, variant, dataset, metrics))
    write_text(path / "results.json", to_json(Results.model_validate(document(seed, environment, trials))))


def record(task: str, variant: int, dataset: Dataset, metrics: dict[str, Any]) -> dict[str, Any]:
    """Return a trial of results.json."""
    return {
        "id": f"{task}-{variant}",
        "benchmark": f"synthetic-{task}",
        "task": task,
        "adapter": "none",
        "variant": f"model-{variant}",
        "settings": {"precision": "fp32", "batch_size": 8, "device": "cpu", "options": {}},
        "dataset": {
            **{"name": "synthetic", "options": {}, "split": "test", "size": SAMPLES},
            "fingerprint": dataset.fingerprint,
        },
        "checkpoint": None,
        "status": "complete",
        "metrics": metrics,
        "speed": {"offline": offline()},
    }


def offline() -> dict[str, Any]:
    """Return a measured throughput."""
    throughput = {
        "value": 100.0,
        "low": 98.0,
        "high": 102.0,
        "n": 640,
        "unit": "samples/s",
        "signature": "offline",
    }
    about = {"environment": "here", "profile": "ci", "batch_size": 8, "threads": 1, "processes": 6}
    measured = {"queries": 80, "seconds": 6.4, "valid": True, "reasons": [], "throughput": throughput}
    return about | measured


def document(number: int, environment: Environment, trials: list[dict[str, Any]]) -> dict[str, Any]:
    """Return results.json of the `number`-th run."""
    started = datetime(2025, 1, 1, tzinfo=UTC) + timedelta(hours=number)
    run = {
        **{"id": f"{number:032x}", "started": started.isoformat(), "finished": started.isoformat()},
        **{"command": "none", "harness_version": "0", "git_revision": f"{number:040x}", "git_dirty": False},
        **{"git_branch": "main", "executor": "inline", "workers": 1, "profile": "ci", "environment": "here"},
    }
    return {
        "schema": "harness-results/3",
        "suite": "synthetic",
        "run": run,
        "environments": {"here": environment.model_dump(mode="json")},
        "trials": trials,
    }


def report(name: str, work: Callable[[], Any]) -> Any:
    """Call once, print the wall and CPU seconds, and return the result."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    result = work()
    print(f"{name}: {cpu_seconds() - cpu:.2f} s CPU, {time.perf_counter() - wall:.2f} s wall")
    return result


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of its ended children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def compare(head: Path, base: Path) -> None:
    """Run `harness compare` in a fresh process."""
    command = [sys.executable, "-m", "harness", "compare", str(head), "--baseline", str(base)]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert result.returncode in (0, 1), result.stderr
    print(result.stdout.splitlines()[0])


@contextmanager
def counted_requests() -> Iterator[list[str]]:
    """Collect the paths of all requests that this process makes inside the context."""
    from requests import Session

    send, paths = Session.send, []

    def counting(session: Session, request: Any, **options: Any) -> Any:
        paths.append(request.path_url.partition("?")[0])
        return send(session, request, **options)

    Session.send = counting  # type: ignore[method-assign]
    try:
        yield paths
    finally:
        Session.send = send  # type: ignore[method-assign]


def from_mlflow(folder: Path, paths: list[Path]) -> None:
    """Print the requests and seconds of reading many runs from MLflow."""
    from harness.errors import UsageError
    from harness.tracking.artifacts import DIGEST_TAG
    from harness.tracking.entries import run_entry
    from harness.tracking.past_runs import PAGE, fetch_baseline, logged_trend
    from harness.tracking.tracking_store import mlflow_errors, open_experiment

    uri = f"sqlite:///{folder}/mlflow.db"
    with mlflow_errors(uri):
        client, experiment = open_experiment(uri, "synthetic")
        for number, path in enumerate(paths):
            entry = run_entry(read_results(path), [], {})
            tags = {**entry.tags, **entry.identity, DIGEST_TAG: "0" * 64, "verdict": "regression"}
            run = client.create_run(experiment, number, tags)
            client.set_terminated(run.info.run_id)
    server = TrackingServer(folder)
    with ExitStack() as ending:
        ending.callback(server.kill)
        server.wait()
        client.search_experiments()  # the first request of a fresh server is a slow one
        with counted_requests() as requests:
            lines = report(
                f"trend of {RUNS} runs from mlflow server", lambda: logged_trend("synthetic", server.uri)
            )
        print(f"  {len(lines)} lines, {len(requests)} requests for {-(-RUNS // PAGE)} pages of runs")
        with counted_requests() as requests:

            def look() -> None:
                try:  # all are regressions, so that every page is read
                    fetch_baseline("mlflow:latest@main", paths[0], server.uri)
                except UsageError:
                    return

            report("finding no baseline among them", look)
        print(f"  {len(requests)} requests for {-(-(RUNS - 1) // 50)} pages of runs")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mlflow", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for seed, name in enumerate(("base", "head")):
            make_run(folder / name, seed)
        trials = json.loads((folder / "base" / "results.json").read_text())["trials"]
        environment = describe()
        paths = [folder / "many" / f"{number:04}" for number in range(RUNS)]
        for number, path in enumerate(paths):
            write_json(path / "results.json", document(number, environment, trials))
        changed = f"harness compare, {len(trials)} trials × {SAMPLES} samples, all changed"
        report(changed, lambda: compare(folder / "head", folder / "base"))
        report("harness compare, nothing changed", lambda: compare(folder / "base", folder / "base"))
        lines = report(f"trend of {RUNS} runs from disk", lambda: read_trend(paths))
        print(f"  {len(lines)} lines of {len(lines[0].points)} runs")
        if options.mlflow:
            from_mlflow(folder, paths)


if __name__ == "__main__":
    main()
