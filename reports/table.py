"""results.csv: every figure of a run in long form, for pandas and spreadsheets."""

import csv
import io
import re
from collections.abc import Iterator

from harness.rundir.results import Results, TrialRecord
from harness.task import Figure
from reports.text import visible

COLUMNS = (
    "run", "suite", "benchmark", "task", "adapter", "variant", "trial", "status", "kind", "name",
    "value", "low", "high", "n", "unit", "signature", "environment", "valid", "reasons",
)  # fmt: skip

# A reader may end the line at a carriage return, and the file at a NUL. A terminal obeys an escape.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_COST_UNITS = {"parameters": "parameters", "flops": "FLOP/sample"}


def to_csv(results: Results) -> str:
    """Return one row per trial and figure with exact values. An undefined value is an empty cell.

    A trial without figures has one row with an empty `kind`, so that failures stay visible. `environment` has
    the keys of the environments, joined by spaces; `valid` and `reasons` are only about speed. Text that a
    spreadsheet would run as a formula is prefixed with an apostrophe.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for trial in results.trials:
        identity = {"run": results.run.id, "suite": results.suite, "trial": trial.id}
        identity |= trial.model_dump(include={"benchmark", "task", "adapter", "variant", "status"})
        for row in list(_rows(trial)) or [{}]:
            writer.writerow({column: _inert(value) for column, value in {**identity, **row}.items()})
    return text.getvalue()


def _inert(cell: object) -> object:
    """Quote text that a spreadsheet would interpret by its first character (OWASP, "CSV Injection")."""
    if not isinstance(cell, str):
        return cell
    text = _CONTROLS.sub(lambda match: visible(match[0]), cell)
    return f"'{text}" if text.startswith(tuple("=+-@\t\n")) else text


def _rows(trial: TrialRecord) -> Iterator[dict[str, object]]:
    for name, figure in trial.metrics.items():
        yield {**_row("accuracy", name, figure), "environment": " ".join(trial.environments)}
    for name, scenario in trial.speed.items():
        reasons = "; ".join(scenario.reasons)
        where = {"environment": scenario.environment, "valid": scenario.valid, "reasons": reasons}
        for kind, figure in scenario.figures.items():
            yield {**_row("speed", f"{name}/{kind}", figure), **where}
    for name, figure in trial.phases.items():
        yield _row("phases", name, figure)
    for name, value in trial.cost.model_dump().items():
        if value is not None:
            yield {"kind": "cost", "name": name, "value": value, "unit": _COST_UNITS.get(name, "bytes")}


def _row(kind: str, name: str, figure: Figure) -> dict[str, object]:
    columns = ("value", "low", "high", "n", "unit", "signature")
    return {"kind": kind, "name": name, **{column: getattr(figure, column) for column in columns}}
