"""The command line: reads arguments, calls one function a command, prints, sets the exit code."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from harness.cli_jobs import jobs_app
from harness.cli_options import (
    AsJson,
    Limit,
    Only,
    Override,
    Profile,
    ShardSize,
    SuiteName,
    Sync,
    Workers,
)
from harness.errors import HarnessError, UnavailableError, UsageError, describe


class _Group(TyperGroup):
    """Turns the errors that users cause into one message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except HarnessError as error:
            sys.stderr.write(f"error: {error}\n")
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            sys.stderr.write("interrupted; the same command resumes\n")
            raise typer.Exit(130) from None
        except Exception as error:
            # Exit code 1 means a regression: a defect of ours must not look like one.
            if hasattr(error, "exit_code") or os.environ.get("HARNESS_DEBUG"):
                raise
            message = f"{type(error).__name__}: {error}"
            sys.stderr.write(f"internal error: {message} (HARNESS_DEBUG=1 shows where)\n")
            raise typer.Exit(HarnessError.exit_code) from None


app = typer.Typer(cls=_Group, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
score_app = typer.Typer(no_args_is_help=True, help="Score prediction files; no model is needed.")
app.add_typer(score_app, name="score")
app.add_typer(jobs_app)
new_app = typer.Typer(no_args_is_help=True, help="Write a working start of something of your own.")
app.add_typer(new_app, name="new")

TrackingUri = Annotated[str | None, typer.Option(metavar="URI", help="Default: $MLFLOW_TRACKING_URI.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]


class ExecutorName(StrEnum):
    inline = "inline"
    ray = "ray"


class Protocol(StrEnum):
    coco = "coco"
    voc07 = "voc07"
    voc10 = "voc10"


class ListKind(StrEnum):
    adapters = "adapters"
    datasets = "datasets"
    metrics = "metrics"
    suites = "suites"


ExecutorOption = Annotated[ExecutorName, typer.Option(help="Where stages run.")]
AddressOption = Annotated[str | None, typer.Option(metavar="ADDR", help="A Ray cluster; local if not given.")]


@app.command("list")
def list_command(
    kind: Annotated[ListKind | None, typer.Argument()] = None,
    as_json: AsJson = False,
) -> None:
    """Adapters, data sets, metrics and suites, and where each comes from."""
    from harness.adapter import ADAPTERS
    from harness.datasets.dataset import DATASETS
    from harness.metrics.metric import METRICS
    from harness.registry import Registry
    from harness.suite import shipped_suites
    from harness.terminal import show, show_table

    registries: dict[str, Registry[Any]] = {"adapters": ADAPTERS, "datasets": DATASETS, "metrics": METRICS}
    rows = [
        [group, entry.name, entry.origin, entry.target]
        for group, registry in registries.items()
        for entry in registry.entries().values()
    ]
    rows += [["suites", name, "harness", path.name] for name, path in shipped_suites().items()]
    rows = [row for row in rows if kind is None or row[0] == kind]
    if as_json:
        show([dict(zip(("kind", "name", "origin", "target"), row, strict=True)) for row in rows])
    else:
        show_table(["kind", "name", "origin", "target"], rows)


@app.command()
def validate(
    suites: Annotated[list[str] | None, typer.Argument(metavar="SUITE...")] = None,
    schema: Annotated[bool, typer.Option(help="Print the JSON Schema of suite files.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check suites fully: schema, names, options, checkpoints."""
    from harness.terminal import show

    if schema:
        from harness.suite import json_schema

        show(json_schema())
        return
    if not suites:
        raise UsageError("name at least one suite, or pass --schema")
    from harness.plan import plan
    from harness.suite import find_suite, load_suite

    documents = []
    for name in suites:
        planned = plan(load_suite(find_suite(name)))
        skipped = [each.model_dump() for each in planned.skipped]
        document = {"suite": name, "valid": True, "trials": len(planned.trials), "skipped": skipped}
        documents.append(document)
        if not as_json:
            sys.stdout.write(f"{name}: valid, {len(planned.trials)} trials\n")
            sys.stdout.writelines(f"  skipped {each['benchmark']}: {each['reason']}\n" for each in skipped)
    if as_json:
        show(documents)


@app.command("plan")
def plan_command(
    suite: SuiteName,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Default: runs/SUITE.")] = None,
    overrides: Override = [],  # noqa: B006
    only: Only = None,
    limit: Limit = None,
    as_json: AsJson = False,
) -> None:
    """What would run, what is on disk, what must be trained, resources and cost; runs nothing."""
    from harness.estimate import estimate
    from harness.plan import plan
    from harness.store import RunDirectory
    from harness.suite import find_suite, load_suite
    from harness.terminal import show, show_plan

    loaded = load_suite(find_suite(suite), overrides)
    planned = plan(loaded, only, limit)
    directory = RunDirectory(out or Path("runs") / loaded.suite.name)
    document = estimate(planned, directory, loaded.suite.speed.profile)
    show(document) if as_json else show_plan(document)


@app.command()
def train(
    suite: SuiteName,
    overrides: Override = [],  # noqa: B006
    only: Only = None,
    executor: ExecutorOption = ExecutorName.ray,
    address: AddressOption = None,
    workers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="N workers of the cluster share each batch.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train the checkpoints that a suite needs and that are missing."""
    from harness.plan import plan
    from harness.progress import RunProgress
    from harness.run import train_missing
    from harness.suite import find_suite, load_suite
    from harness.terminal import console, show

    planned = plan(load_suite(find_suite(suite), overrides), only)
    with RunProgress(console) as progress:
        if planned.missing:
            with _executor(executor, address, workers)() as running:
                train_missing(planned.missing, running, progress, workers)
        else:
            progress.note("every checkpoint is there; nothing to train")
    if as_json:
        show([{"checkpoint": ref.name, "weights": str(ref.weights)} for ref in planned.missing])


@app.command("run")
def run_command(
    suite: SuiteName,
    out: Annotated[
        str | None, typer.Option(metavar="DIR|URL", help="Default: runs/SUITE; also s3://… and gs://….")
    ] = None,
    overrides: Override = [],  # noqa: B006
    only: Only = None,
    limit: Limit = None,
    executor: ExecutorOption = ExecutorName.ray,
    address: AddressOption = None,
    workers: Workers = None,
    shard_size: ShardSize = 64,
    profile: Profile = None,
    sync_results: Sync = True,
    as_json: AsJson = False,
) -> None:
    """Run a suite, or finish an interrupted run of it: the same command resumes."""
    from harness.environment import command_line
    from harness.progress import RunProgress
    from harness.remote_out import located
    from harness.results import to_json
    from harness.run import RunSettings, exit_code, run
    from harness.suite import find_suite, load_suite
    from harness.terminal import console, show_results
    from reports import write_reports

    if profile:
        overrides = [*overrides, f"speed.profile={profile}"]
    loaded = load_suite(find_suite(suite), overrides)
    place = out or str(Path("runs") / loaded.suite.name)
    with located(place, lambda line: console.print(line, markup=False)) as directory:
        settings = RunSettings(
            directory, command_line(), only, limit, shard_size, on_cluster=address is not None
        )
        with RunProgress(console) as progress:
            results = run(loaded, settings, _executor(executor, address, workers), progress)
        page = write_reports(directory)
        if sync_results:
            _sync_or_say(directory, executor)
    if as_json:
        sys.stdout.write(to_json(results))
    else:
        show_results(results)
    console.print(f"report: {place}/{page.relative_to(directory).as_posix()}", markup=False)
    raise typer.Exit(exit_code(results))


def _sync_or_say(directory: Path, executor: ExecutorName) -> None:
    """A tracking server that is down loses nothing: the run directory is the record."""
    from importlib.util import find_spec

    from harness.terminal import console

    if executor is ExecutorName.inline and find_spec("mlflow") is None:
        console.print("MLflow is not installed: not logged; `harness sync` completes it elsewhere")
        return
    try:
        from harness.tracking import sync

        outcome = sync(directory)
    except Exception as error:  # a defect, too, must not take the run's exit code
        if os.environ.get("HARNESS_DEBUG"):
            raise
        reason = str(error) if isinstance(error, HarnessError) else f"internal error: {describe(error)}"
        console.print(
            f"not logged to MLflow: {reason}; `harness sync {directory}` completes it", markup=False
        )
    else:
        console.print(f"MLflow: {outcome.describe()} (open it with `harness ui`)", markup=False)


def _executor(name: ExecutorName, address: str | None, workers: int | None) -> Any:
    """How to make the executor; Ray is imported only when it is made."""
    if name is ExecutorName.inline:
        if address or (workers or 1) > 1:
            raise UsageError("--executor inline is one process here: it takes no --address and no --workers")
        from harness.executors.inline import InlineExecutor

        return InlineExecutor

    def make() -> Any:
        from harness.executors.ray import RayExecutor

        return RayExecutor(address, workers)

    return make


@score_app.command("translation")
def score_translation_command(
    hypotheses: Annotated[Path, typer.Option(help="One hypothesis a line, UTF-8.")],
    references: Annotated[list[Path], typer.Option(help="Aligned references; repeat for several.")],
    as_json: AsJson = False,
) -> None:
    """BLEU and chrF with bootstrap intervals."""
    from harness.score_files import score_translation

    _show_scores(score_translation(hypotheses, references), as_json)


@score_app.command("detection")
def score_detection_command(
    annotations: Annotated[Path, typer.Option(help="COCO instances JSON, or a folder of VOC XML files.")],
    predictions: Annotated[Path, typer.Option(help="COCO results JSON, or VOC submission files.")],
    protocol: Annotated[Protocol | None, typer.Option(help="Default: coco for JSON, voc10 for XML.")] = None,
    iou: Annotated[float, typer.Option(min=0.0, max=1.0, help="Match threshold of voc07 and voc10.")] = 0.5,
    as_json: AsJson = False,
) -> None:
    """Average precision under the COCO or the VOC protocol."""
    from harness.score_files import score_detection

    chosen = protocol or (Protocol.voc10 if annotations.is_dir() else Protocol.coco)
    _show_scores(score_detection(annotations, predictions, chosen.value, iou), as_json)


@score_app.command("segmentation")
def score_segmentation_command(
    annotations: Annotated[Path, typer.Option(help="A PNG of class ids, or a folder of them.")],
    predictions: Annotated[Path, typer.Option(help="A PNG of class ids, or a folder of them.")],
    classes: Annotated[int, typer.Option(min=1, max=256)],
    ignore_index: Annotated[
        int | None, typer.Option(min=0, max=255, help="Default: 255, or none if there are 256 classes.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """mIoU and its relatives over the whole set."""
    from harness.score_files import score_segmentation

    _show_scores(score_segmentation(annotations, predictions, classes, ignore_index), as_json)


def _show_scores(scores: Any, as_json: bool) -> None:
    from dataclasses import asdict

    from harness.terminal import show, show_figures

    show(asdict(scores)) if as_json else show_figures(scores.metrics)


@app.command()
def report(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Run directories, or mlflow:SUITE for all it logged."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Default: RUN/report. Of several runs: only their trend.html."),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Say whether the frontier changed since; as for `compare`."),
    ] = None,
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Write each run's page, summary, table and forms for CI; of several runs also how figures moved."""
    from harness.history import read_history
    from harness.results import read_results
    from harness.terminal import console, show
    from reports import write_reports, write_trend
    from reports.summary import to_summary

    trend = None
    logged = [run for run in runs if run.startswith("mlflow:")]
    if logged and len(runs) > 1:
        raise UsageError(f"{logged[0]}: name all runs of one suite in MLflow, or run directories")
    paths = [] if logged else [Path(run) for run in runs]
    if len(paths) > 1:  # runs/* names MLflow's store as well
        paths = [p for p in paths if p.name != "mlartifacts" and not p.name.startswith("mlflow.db")] or paths
    several = len(paths) > 1
    if several:
        paths = _finished(paths)
    with_page = [] if several and out else paths
    if baseline and not with_page:
        raise UsageError("--baseline: only a trend would be written, which has none")
    since = {run: _baseline(baseline, run, tracking_uri) if baseline else None for run in with_page}
    if logged:
        from harness.tracking.history import logged_history

        suite = logged[0].removeprefix("mlflow:")
        lines = logged_history(suite, tracking_uri)
        trend = str(write_trend(lines, out or Path("runs") / suite / "report"))
    elif several:
        trend = str(write_trend(read_history(paths), out or paths[-1] / "report"))
    pages = {run: str(write_reports(run, out, before)) for run, before in since.items()}
    if as_json:
        reports = []
        for run, page in pages.items():
            before = since[run]
            summary = to_summary(read_results(run), read_results(before) if before else None)
            reports.append({"run": str(run), "report": page, **summary})
        show({"reports": reports, "trend": trend})
    else:
        for page in [*pages.values(), *([trend] if trend else [])]:
            console.print(f"report: {page}", markup=False)


def _finished(runs: list[Path]) -> list[Path]:
    """The runs without those that are not finished, of which it tells; what is no run stays, an error."""
    from harness.terminal import console

    unfinished = [run for run in runs if (run / "run.json").is_file() and not (run / "results.json").exists()]
    for run in unfinished:
        console.print(f"left out: {run} has no results yet; `harness run` finishes it", markup=False)
    if len(unfinished) == len(runs):
        raise UsageError("none of these runs has results yet")
    return [run for run in runs if run not in unfinished]


@app.command("export")
def export_command(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="A registered translation data set.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder.")],
    options: Annotated[
        list[str], typer.Option("--option", metavar="KEY=VALUE", help="Of the data set; repeatable.")
    ] = [],  # noqa: B006
    splits: Annotated[
        list[str], typer.Option("--split", metavar="SPLIT", help="Only this one; repeatable.")
    ] = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Write a translation corpus as files that `parallel-text` reads on another machine."""
    from harness.datasets.exported_text import export_text, read_option
    from harness.terminal import show, show_table

    manifest = export_text(dataset, dict(map(read_option, options)), splits, out)
    if as_json:
        show(manifest.model_dump(mode="json"))
        return
    rows = [
        [str(out / entry.file), str(entry.samples), "; ".join(entry.skipped)]
        for entry in manifest.splits.values()
    ]
    show_table(["file", "samples", "left out"], rows)


@app.command("compare")
def compare_command(
    run: RunPath,
    baseline: Annotated[
        str,
        typer.Option(metavar="RUN", help="A run directory, mlflow:RUN_ID or mlflow:latest@BRANCH."),
    ],
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 4 where it is inconclusive.")] = False,
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """What became worse or better than in a baseline run; exits with 1 on a regression."""
    from harness.compare.comparison import compare
    from harness.terminal import console, show, show_comparison
    from reports import write_comparison

    comparison = compare(run, _baseline(baseline, run, tracking_uri))
    page = write_comparison(comparison, run)
    show(comparison.document()) if as_json else show_comparison(comparison)
    console.print(f"report: {page}", markup=False)
    raise typer.Exit(comparison.exit_code(strict))


def _baseline(reference: str, run: Path, tracking_uri: str | None) -> Path:
    """The run directory that `--baseline` names."""
    if not reference.startswith("mlflow:"):
        return Path(reference)
    from harness.terminal import console
    from harness.tracking.baseline import fetch_baseline

    directory = fetch_baseline(reference, run, tracking_uri)
    console.print(f"baseline: {directory}", markup=False)
    return directory


@app.command()
def sync(
    run: RunPath,
    tracking_uri: TrackingUri = None,
    register_models: Annotated[
        bool, typer.Option("--register-models", help="Put the checkpoints into the model registry.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Log a run to MLflow; doing it again changes nothing."""
    from dataclasses import asdict

    from harness.terminal import console, show
    from harness.tracking import sync as sync_run

    outcome = sync_run(run, tracking_uri, register_models)
    if as_json:
        show(asdict(outcome))
    else:
        console.print(f"MLflow: {outcome.describe()}", markup=False)


@app.command()
def ui(
    root: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs"),
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
) -> None:
    """Open MLflow's UI on the runs."""
    import subprocess

    from harness.tracking import ui_command

    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # 0.5 GB instead of 2.9
    raise typer.Exit(subprocess.call(ui_command(root, port), env=environment))


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """What this machine is and what is missing on it."""
    from harness.adapter import ADAPTERS
    from harness.datasets.dataset import DATASETS
    from harness.environment import describe
    from harness.terminal import show, show_table

    machine = describe()
    checks = {f"adapter {name}": "found" for name in ADAPTERS.entries()}
    for name in DATASETS.entries():
        cls = DATASETS.get(name)
        needed = [key for key, field in cls.Options.model_fields.items() if field.is_required()]
        if needed:
            checks[f"data set {name}"] = f"found; needs {' and '.join(needed)}"
            continue
        try:
            checks[f"data set {name}"] = (
                f"{len(cls(cls.Options(), cls.splits[-1], cls.tasks[0]))} test samples"
            )
        except UnavailableError as error:
            checks[f"data set {name}"] = str(error)
    if as_json:
        show({"environment": machine, "checks": checks})
        return
    rows = [[key, str(value)] for key, value in {**machine, **checks}.items()]
    show_table(["what", "found"], rows)


@new_app.command("adapter")
def new_adapter(
    name: Annotated[str, typer.Argument(help="Its registered name, such as my-model.")],
    task: Annotated[str, typer.Option(help="translation, detection or segmentation.")] = "translation",
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the package is made.")] = Path(),
) -> None:
    """A package of your own with one working adapter and its test."""
    from harness.scaffold import new_adapter as write
    from harness.terminal import console

    for path in write(name, task, out):
        console.print(f"wrote {path}", markup=False)


def main() -> None:
    """Entry point."""
    app()
