"""Commands about what there is to run: `list`, `doctor`, `export`, `new`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.options import AsJson
from harness.errors import UnavailableError

catalogue_app = typer.Typer()
new_app = typer.Typer(no_args_is_help=True, help="Write a working start of something of your own.")
catalogue_app.add_typer(new_app, name="new")


class ListKind(StrEnum):
    adapters = "adapters"
    datasets = "datasets"
    metrics = "metrics"
    suites = "suites"


@catalogue_app.command("list")
def list_command(
    kind: Annotated[ListKind | None, typer.Argument()] = None,
    as_json: AsJson = False,
) -> None:
    """Adapters, data sets, metrics and suites, and where each comes from."""
    from harness.adapter import ADAPTERS
    from harness.cli.terminal import show, show_table
    from harness.datasets.dataset import DATASETS
    from harness.metrics.metric import METRICS
    from harness.registry import Registry
    from harness.suite.schema import shipped_suites

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


@catalogue_app.command("export")
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
    from harness.cli.terminal import show, show_table
    from harness.datasets.exported_text import export_text, read_option

    manifest = export_text(dataset, dict(map(read_option, options)), splits, out)
    if as_json:
        show(manifest.model_dump(mode="json"))
        return
    rows = [
        [str(out / entry.file), str(entry.samples), "; ".join(entry.skipped)]
        for entry in manifest.splits.values()
    ]
    show_table(["file", "samples", "left out"], rows)


@catalogue_app.command()
def doctor(as_json: AsJson = False) -> None:
    """What this machine is and what is missing on it."""
    from harness.adapter import ADAPTERS
    from harness.cli.terminal import show, show_table
    from harness.datasets.dataset import DATASETS
    from harness.environment import describe

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
    from harness.cli.scaffold import new_adapter as write
    from harness.cli.terminal import console

    for path in write(name, task, out):
        console.print(f"wrote {path}", markup=False)
