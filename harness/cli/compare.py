"""`harness compare`: a run against a baseline, or prediction files against those of a baseline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli import score
from harness.cli.options import AsJson
from harness.cli.results import TrackingUri
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.compare.outcome import Comparison
    from harness.decisions.policy import GatePolicy
    from harness.evaluation.annotation_files import AnnotationFiles

compare_app = typer.Typer()

_COMMON = frozenset({"run", "baseline", "strict", "gate", "out", "as_json"})
_OF_FORM = {
    "two runs": frozenset({"tracking_uri"}),
    "translations": frozenset({"references", "tokenize", "lowercase", "metrics"}),
    "boxes": frozenset({"annotations", "protocol", "iou", "iou_type", "image_set"}),
    "masks": frozenset({"annotations", "classes", "first_label", "ignore", "image_set"}),
}
"""The options that apply to each form of comparison."""


@compare_app.command("compare")
def compare_command(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory, or prediction files.")],
    baseline: Annotated[
        str,
        typer.Option(metavar="RUN", help="A run directory, mlflow:RUN_ID, mlflow:latest@BRANCH, or files."),
    ],
    strict: Annotated[bool, typer.Option("--strict", help="Exit with code 4 if inconclusive.")] = False,
    gate: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A file with the limits of losses; default: the suite's `gate`."),
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="Annotations of the boxes or masks, as in `harness score`.")
    ] = None,
    references: score.References = [],  # noqa: B006
    protocol: score.ProtocolName = None,
    iou: score.IouThreshold = 0.5,
    iou_type: score.IouTypeName = "bbox",
    image_set: score.ImageSet = None,
    classes: score.Classes = "",
    first_label: score.FirstLabel = 0,
    ignore: score.Ignore = [],  # noqa: B006
    tokenize: score.Tokenize = "13a",
    lowercase: score.Lowercase = False,
    metrics: score.Metrics = [],  # noqa: B006
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Default: RUN/report; ./report for prediction files.")
    ] = None,
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Compare a run, or prediction files, with a baseline; exit with code 1 on a regression."""
    from harness.cli.terminal import console, show, show_comparison, show_notes
    from harness.evaluation.detection import AnnotatedBoxes
    from harness.evaluation.segmentation import AnnotatedMasks
    from harness.evaluation.translation import ReferenceTexts
    from harness.suite.loading import read_gate
    from reports.write import write_comparison

    form = "two runs"
    files: AnnotationFiles | None = None
    if annotations and classes:
        form, files = "masks", AnnotatedMasks(annotations, classes, first_label, ignore, image_set)
    elif annotations:
        form, files = "boxes", AnnotatedBoxes(annotations, protocol, iou, image_set, iou_type)
    elif references:
        form, files = "translations", ReferenceTexts(references, tokenize, lowercase, metrics)
    _check_options(context, form)
    policy = read_gate(gate) if gate else None
    out = (out or (Path("report") if files else run / "report")).absolute()  # plug-ins may change the folder
    if files:
        comparison = _compare_files(files, run, baseline, policy)
    else:
        comparison = _compare_runs(run, baseline, tracking_uri, policy, out)
    page = write_comparison(comparison, out)
    show_notes(comparison.notes)
    show(comparison.document()) if as_json else show_comparison(comparison)
    console.print(f"report: {page}")
    raise typer.Exit(comparison.exit_code(strict))


def _check_options(context: Any, form: str) -> None:
    """Raise a UsageError if the user gave an option that does not apply to this form of comparison."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if source.name == "COMMANDLINE" and name not in _COMMON | _OF_FORM[form]:
            option = name.replace("_", "-")
            raise UsageError(f"--{option}: does not apply to a comparison of {form}")


def _compare_runs(
    run: Path, baseline: str, tracking_uri: str | None, policy: GatePolicy | None, out: Path
) -> Comparison:
    from harness.compare.compare import compare
    from harness.rundir.results import read_results
    from reports.write import draw_frontiers

    for path in (run, Path(baseline)):
        if path.is_file():
            raise UsageError(
                f"{path}: is a file, not a run directory; to compare prediction files, add --annotations or "
                "--references"
            )
    before = Path(baseline).absolute()
    if baseline.startswith("mlflow:"):
        from harness.cli.terminal import console
        from harness.tracking.past_runs import fetch_baseline, recent_steps

        before = fetch_baseline(baseline, run, tracking_uri)
        console.print(f"baseline: {before}")
    comparison = compare(run.absolute(), before, policy)
    if comparison.frontier:
        draw_frontiers(read_results(before), read_results(run), out)
    if not baseline.startswith("mlflow:latest@"):
        return comparison
    steps = recent_steps(comparison.suite, baseline.removeprefix("mlflow:latest@"), tracking_uri)
    return replace(comparison, notes=(*comparison.notes, *steps))


def _compare_files(
    files: AnnotationFiles, head: Path, baseline: str, policy: GatePolicy | None
) -> Comparison:
    from harness.decisions.policy import GatePolicy
    from harness.evaluation.systems import compare_systems, read_system

    for path in (str(head), baseline):
        if path.startswith("mlflow:") or Path(path, "run.json").exists():
            raise UsageError(f"{path}: is a run; compare it with another run, not with prediction files")
    new, old = read_system(files, head), read_system(files, Path(baseline))
    return compare_systems(files, new, old, policy or GatePolicy())
