"""Options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SuiteName = Annotated[str, typer.Argument(metavar="SUITE", help="A path, or the name of a shipped suite.")]
Override = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the suite; repeatable.")
]
Only = Annotated[str | None, typer.Option(metavar="GLOB", help="Only matching BENCHMARK/VARIANT.")]
Limit = Annotated[int | None, typer.Option(min=1, metavar="N", help="At most N samples a benchmark.")]
Workers = Annotated[int | None, typer.Option(min=1, metavar="N", help="At most N workers.")]
ShardSize = Annotated[int, typer.Option(min=1, metavar="N", help="Samples a shard.")]
Sync = Annotated[bool, typer.Option("--sync/--no-sync", help="Log to MLflow at the end.")]


class ProfileName(StrEnum):
    smoke = "smoke"
    ci = "ci"
    release = "release"
    mlperf = "mlperf"


Profile = Annotated[ProfileName | None, typer.Option(help="How long speed is measured.")]
