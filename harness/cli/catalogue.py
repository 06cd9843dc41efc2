"""Commands about adapters, data sets, metrics and suites: `list`, `new`."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from harness.cli.options import AsJson
from harness.errors import UsageError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from harness.registry import Registry


catalogue_app = typer.Typer()
new_app = typer.Typer(no_args_is_help=True, help="Write a starting point for your own extension.")
catalogue_app.add_typer(new_app, name="new")


Group = Literal["adapters", "datasets", "metrics", "suites"]


@catalogue_app.command("list")
def list_command(
    group: Annotated[Group | None, typer.Argument(help="List only this group.")] = None,
    name: Annotated[str | None, typer.Argument(help="Describe one entry with its options.")] = None,
    as_json: AsJson = False,
) -> None:
    """List adapters, data sets, metrics and suites, or describe one."""
    from harness.cli.terminal import show, show_table

    if group and name:
        _describe(group, name, as_json)
        return
    rows = _adapters() if group == "adapters" else _entries(group)
    if as_json:
        show(rows)
    else:
        show_table(list(rows[0]), [list(row.values()) for row in rows])


def _registries() -> dict[str, Registry[Any]]:
    """Return the registries by the name of their group."""
    from harness.adapter import ADAPTERS
    from harness.datasets.dataset import DATASETS
    from harness.metrics.metric import METRICS

    return {"adapters": ADAPTERS, "datasets": DATASETS, "metrics": METRICS}


def _entries(group: Group | None) -> list[dict[str, str]]:
    from harness.suite.loading import shipped_suites

    rows = [
        {"group": of_registry, "name": entry.name, "origin": entry.origin, "target": entry.target}
        for of_registry, registry in _registries().items()
        for entry in registry.entries().values()
    ]
    for name, path in shipped_suites().items():
        rows.append({"group": "suites", "name": name, "origin": "harness", "target": path.name})
    return [row for row in rows if group in (None, row["group"])]


def _adapters() -> list[dict[str, str]]:
    """Describe every adapter. For one that cannot be imported, the error replaces the description."""
    from harness.adapter import ADAPTERS

    rows = []
    for name, entry in ADAPTERS.entries().items():
        try:
            cls = ADAPTERS.get(name)
        except UsageError as error:
            described = ("–", str(error), "–")
        else:
            weights = ", ".join(_shipped_weights(name)) or "–"
            described = (", ".join(cls.tasks()), _first_sentence(cls), weights)
        columns = ("name", "task", "description", "shipped weights", "origin")
        rows.append(dict(zip(columns, (name, *described, entry.origin), strict=True)))
    return rows


def _shipped_weights(adapter: str) -> list[str]:
    """Return the checkpoints that ship with weights for an adapter."""
    from harness.recipe import read_recipe, shipped_recipes

    recipes = shipped_recipes(adapter).items()
    with_weights = {name: path for name, path in recipes if path.with_suffix(".safetensors").exists()}
    return sorted(name for name, path in with_weights.items() if read_recipe(path).adapter == adapter)


def _describe(group: Group, name: str, as_json: bool) -> None:
    """Print the description of one entry and, for adapters and data sets, its options."""
    from harness.cli.terminal import show, show_table
    from harness.suite.loading import find_suite, load_suite

    document: dict[str, Any] = {"name": name}
    if group == "suites":
        suite = load_suite(find_suite(name)).suite
        document |= {"description": suite.description, "benchmarks": list(suite.benchmarks)}
    else:
        registry = _registries()[group]
        thing = registry.get(name)
        document |= {"description": inspect.getdoc(thing) or "", "origin": registry.entries()[name].origin}
        if group == "adapters":
            document |= {"tasks": list(thing.tasks()), "shipped weights": _shipped_weights(name)}
    options = _options(thing.Options) if group in ("adapters", "datasets") else []
    if as_json:
        show({**document, "options": options})
        return
    for key, value in document.items():
        typer.echo(f"{key}: {', '.join(value) or '–' if isinstance(value, list) else value}")
    if options:
        typer.echo()
        show_table(list(options[0]), [list(option.values()) for option in options])


def _options(model: type[BaseModel]) -> list[dict[str, str]]:
    """Return name, type, default and meaning of each option."""
    schema = model.model_json_schema()["properties"] if model.model_fields else {}
    return [
        {
            "option": name,
            "type": _type_name(schema[name], field.annotation),
            "default": "required"
            if field.is_required()
            else repr(field.get_default(call_default_factory=True)),
            "meaning": " ".join((field.description or "").split()),
        }
        for name, field in model.model_fields.items()
    ]


def _type_name(schema: dict[str, Any], annotation: Any) -> str:
    """Return `'a' | 'b'` for a choice, else the annotation as it is written in code."""
    if choices := schema.get("enum"):
        return " | ".join(map(repr, choices))
    text = re.sub(r"Annotated\[(\w+), .*?\)\]\)\]", r"\1", inspect.formatannotation(annotation))
    return re.sub(r"\b(pathlib|typing)\.", "", text).replace("NoneType", "None")


def _first_sentence(thing: object) -> str:
    text = " ".join((inspect.getdoc(thing) or "").split())
    return re.split(r"(?<!al)\. ", text)[0].removesuffix(".")  # not after "et al."


@new_app.command("adapter")
def new_adapter(
    name: Annotated[str, typer.Argument(help="Name to register, such as my-model.")],
    task: Annotated[str, typer.Option(help="translation, detection or segmentation.")] = "translation",
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write the package to.")] = Path(),
) -> None:
    """Write a package with one working adapter and its test."""
    from harness.cli.scaffold import new_adapter as write
    from harness.cli.terminal import console

    for path in write(name, task, out):
        console.print(f"wrote {path}")
