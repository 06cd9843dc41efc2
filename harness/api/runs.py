"""`harness.run` and `harness.Run`: a suite run, or a finished run opened, from Python."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from harness.api.evaluation import check_counts
from harness.compare.compare import compare
from harness.compare.outcome import Comparison
from harness.driver.progress import RunProgress
from harness.driver.run import exit_code
from harness.driver.run import run as run_loaded
from harness.driver.settings import RunSettings
from harness.errors import UsageError, checked
from harness.executors.choice import executor_factory
from harness.rundir.results import Results, read_results
from harness.rundir.store import run_folder
from harness.suite.loading import find_suite, load_suite
from reports.figures import printed
from reports.table import to_csv
from reports.write import write_reports

if TYPE_CHECKING:
    import pandas as pd


class Run:
    """A directory that `harness run` or `harness.run` wrote: its results, and what can be made of them."""

    @checked
    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()

    def __repr__(self) -> str:
        return f"Run({os.path.relpath(self.path)!r})"

    @cached_property
    def results(self) -> Results:
        """Return the content of results.json.

        Raises:
            UsageError: The directory has no results, or they do not match the schema.
        """
        return read_results(self.path)

    @property
    def ok(self) -> bool:
        """Return whether every trial is complete and every timing that counts is valid."""
        return exit_code(self.results) == 0

    def to_pandas(self) -> pd.DataFrame:
        """Return results.csv as a frame: one row per trial and figure."""
        import pandas as pd

        return pd.read_csv(io.StringIO(to_csv(self.results)))

    @checked
    def compare(self, baseline: Run | str | Path) -> Comparison:
        """Compare with a baseline's run directory, as `harness compare` does; nothing is written.

        Raises:
            UsageError: One of them is not a run directory, or they have no trial in common.
        """
        return compare(self.path, baseline.path if isinstance(baseline, Run) else Path(baseline))

    @checked
    def report(self, out: str | Path | None = None) -> Path:
        """Write the report, by default to `report` in the run directory, and return its index.html."""
        return write_reports(self.path, None if out is None else Path(out))

    def _repr_html_(self) -> str:
        import pandas as pd

        rows = [
            trial.model_dump(include={"benchmark", "variant", "status"})
            | {name: str(printed(figure)) for name, figure in list(trial.metrics.items())[:1]}
            for trial in self.results.trials
        ]
        return pd.DataFrame(rows).fillna("").to_html(index=False)  # escaped by pandas


@checked
def run(
    suite: str | Path,
    out: str | Path | None = None,
    *,
    overrides: Mapping[str, object] | None = None,
    only: str | None = None,
    limit: int | None = None,
    executor: str = "inline",
    address: str | None = None,
    workers: int | None = None,
    profile: str | None = None,
    baseline: Run | str | Path | None = None,
    progress: bool = True,
) -> Run:
    """Run a suite, or resume an interrupted run of it, as `harness run` does.

    Args:
        suite: Path of a suite, or name of a shipped one.
        out: Run directory. Default: `runs/SUITE`.
        overrides: Dotted keys of the suite with their values, as `--set`.
        only: Only trials whose BENCHMARK/VARIANT matches this pattern.
        limit: At most this many samples per benchmark.
        executor: `inline` for this process, or `ray`.
        address: Address of a Ray cluster.
        workers: Maximum number of workers.
        profile: Duration and repetitions of speed measurements, as `--profile`.
        baseline: A run whose revision and suite are timed in turns with this one, as `--baseline-run`.
        progress: Print progress to standard output: bars on a terminal, lines in a notebook.

    Raises:
        UsageError: The suite, a checkpoint or the run directory is wrong; nothing was written in this case.
        InfrastructureError: The cluster cannot be reached, or training failed.
    """
    check_counts(limit=limit, workers=workers)
    if baseline is not None and not str(baseline):
        raise UsageError("baseline: expected a run directory, found an empty text")
    settable = {**(overrides or {}), **({} if profile is None else {"speed.profile": profile})}
    changes = [f"{key}={json.dumps(value, default=str)}" for key, value in settable.items()]
    loaded = load_suite(find_suite(str(suite)), changes)
    folder = run_folder(str(out or f"runs/{loaded.suite.name}"))
    command = f"python: harness.run({str(suite)!r})"
    earlier = baseline.path if isinstance(baseline, Run) else baseline and Path(baseline).absolute()
    settings = RunSettings(
        folder,
        command,
        only,
        limit,
        overrides=tuple(changes),
        baseline_run=earlier or None,
        on_cluster=bool(address),
    )
    # A notebook's output says that it is a terminal, but it cannot redraw a table.
    terminal = False if "ipykernel" in sys.modules else None
    console = Console(file=sys.stdout, force_jupyter=False, force_terminal=terminal, quiet=not progress)
    with RunProgress(console) as lines:
        run_loaded(loaded, settings, executor_factory(executor, address, workers), lines)
    return Run(folder)
