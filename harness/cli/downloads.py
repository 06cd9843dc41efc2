"""Commands that get public files: `data` and `weights`, each with `list`, `fetch` and `check`."""

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from harness.cli.options import AsJson
from harness.errors import UsageError

Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Default: all.")]


def commands(kind: Literal["data", "weights"]) -> typer.Typer:
    """Return the commands for a kind of files."""
    app = typer.Typer(no_args_is_help=True, help=f"Get public {kind}: list, fetch, check.")
    Root = Annotated[
        Path, typer.Option(metavar="DIR", envvar=f"HARNESS_{kind.upper()}", help="Folder of the files.")
    ]

    @app.command("list")
    def list_command(as_json: AsJson = False) -> None:
        """List what can be fetched, with sizes and licences."""
        from harness.cli.terminal import show, show_table
        from harness.downloads import read_catalogue

        catalogue = read_catalogue(kind)
        if as_json:
            show({name: download.model_dump(mode="json") for name, download in catalogue.items()})
            return
        rows = [[name, f"{d.megabytes:,g}", d.licence, d.source] for name, d in catalogue.items()]
        show_table(["name", "MB", "licence", "source"], rows)

    @app.command()
    def fetch(names: Annotated[list[str], typer.Argument(metavar="NAME...")], root: Root) -> None:
        """Download, check and unpack. An interrupted download continues."""
        from rich.progress import DownloadColumn, Progress

        from harness.cli.terminal import console
        from harness.downloads import fetch, read_catalogue

        columns = [*Progress.get_default_columns(), DownloadColumn()]
        for name, download in read_catalogue(kind, names).items():
            console.print(f"{name}: {download.megabytes:,g} MB, {download.licence} ({download.source})")
            with Progress(*columns, console=console, transient=True) as bar:
                state = fetch(name, download, root, partial(bar.update, bar.add_task(name, total=None)))
            console.print(f"{name}: {state.status}: {state.detail}")

    @app.command()
    def check(root: Root, names: Names = None, as_json: AsJson = False) -> None:
        """Read what is there, and compare it with what was published or fetched."""
        from harness.cli.terminal import show, show_table
        from harness.downloads import inspect, read_catalogue

        chosen = read_catalogue(kind, names or ())
        states = {name: inspect(name, download, root) for name, download in chosen.items()}
        if as_json:
            show({name: state._asdict() for name, state in states.items()})
        else:
            show_table(["name", "state", "detail"], [[name, *state] for name, state in states.items()])
        if {state.status for state in states.values()} & {"damaged", "absent" if names else ""}:
            raise typer.Exit(UsageError.exit_code)

    return app
