"""A quick suite of fake adapters on generated phrases, which fail on request."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from harness.driver.progress import RunProgress
from harness.driver.run import run
from harness.driver.settings import SHARD_SIZE, RunSettings
from harness.executors.executor import Executor
from harness.executors.inline import InlineExecutor
from harness.rundir.results import Results
from harness.suite.loading import load_suite
from harness.suite.plan import Plan, plan


def document(size: int = 20, **adapters: dict[str, Any]) -> dict[str, Any]:
    """Return a suite with one benchmark of these adapters; by default only `ok`."""
    entries = adapters or {"ok": {}}
    return {
        "name": "small",
        "datasets": {"few": {"dataset": "phrases", "options": {"size": size, "max_tokens": 12}}},
        "adapters": {label: {"adapter": "fake-translation", **entry} for label, entry in entries.items()},
        "benchmarks": {"words": {"dataset": "few", "adapters": list(entries), "metrics": ["bleu", "chrf"]}},
    }


def write(folder: Path, suite: dict[str, Any], name: str = "suite.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(suite, sort_keys=False))
    return path


def planned(folder: Path, suite: dict[str, Any], overrides: Sequence[str] = (), **arguments: Any) -> Plan:
    return plan(load_suite(write(folder, suite), overrides), **arguments)


def run_suite(
    folder: Path,
    suite: dict[str, Any],
    executor: type[InlineExecutor] | AbstractContextManager[Executor] = InlineExecutor,
    out: str = "run",
    shard_size: int = SHARD_SIZE,
    **settings: Any,
) -> Results:
    """Run a suite in `folder`/`out` with a new executor of this class, or with an executor."""
    loaded = load_suite(write(folder, suite))
    progress = RunProgress(Console(file=io.StringIO()))
    run_settings = RunSettings(folder / out, "harness run", shard_size=shard_size, **settings)
    make = executor if isinstance(executor, type) else lambda: executor
    return run(loaded, run_settings, make, progress)


def figures(results: Results) -> dict[str, Any]:
    """Return every accuracy figure by trial and name, to the last digit."""
    return {f"{t.benchmark}/{t.variant}": {n: repr(f) for n, f in t.metrics.items()} for t in results.trials}
