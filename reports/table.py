"""results.csv: every figure of a run in long form, for pandas and spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from harness.results import Results, TrialRecord
from harness.task import Figure

COLUMNS = (
    "run", "suite", "benchmark", "task", "adapter", "variant", "trial", "status", "kind", "name",
    "value", "low", "high", "n", "unit", "signature", "environment", "valid",
)  # fmt: skip

_COST_UNITS = {"parameters": "parameters", "flops": "FLOP/sample"}


def to_csv(results: Results) -> str:
    """One row a trial and figure, exact values; an undefined value is an empty cell.

    A trial without any figure keeps one row with an empty `kind`, so that failures are not lost.
    `environment` is the machine (several joined by spaces) where that is recorded; `valid` is for speed.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for trial in results.trials:
        about = {
            "run": results.run.id,
            "suite": results.suite,
            "benchmark": trial.benchmark,
            "task": trial.task,
            "adapter": trial.adapter,
            "variant": trial.variant,
            "trial": trial.id,
            "status": trial.status,
        }
        writer.writerows({**about, **row} for row in list(_rows(trial)) or [{}])
    return text.getvalue()


def _rows(trial: TrialRecord) -> Iterator[dict[str, Any]]:
    for name, figure in trial.metrics.items():
        yield {**_row("accuracy", name, figure), "environment": " ".join(trial.environments)}
    for name, scenario in trial.speed.items():
        figures = {"throughput": scenario.throughput, **scenario.latency}
        for kind, measured in figures.items():
            if measured is not None:
                where = {"environment": scenario.environment, "valid": scenario.valid}
                yield {**_row("speed", f"{name}/{kind}", measured), **where}
    for name, figure in trial.phases.items():
        yield _row("phases", name, figure)
    for name, value in trial.cost.model_dump().items():
        if value is not None:
            yield {"kind": "cost", "name": name, "value": value, "unit": _COST_UNITS.get(name, "bytes")}


def _row(kind: str, name: str, figure: Figure) -> dict[str, Any]:
    return {
        "kind": kind,
        "name": name,
        "value": figure.value,
        "low": figure.low,
        "high": figure.high,
        "n": figure.n,
        "unit": figure.unit,
        "signature": figure.signature,
    }
