"""Options that several commands share, and the sections under which `harness --help` lists the commands."""

from pathlib import Path
from typing import Annotated, Literal

import typer

SECTIONS = {
    "Evaluate": ["validate", "plan", "train", "run", "calibrate"],
    "Look at results": ["report", "compare", "verify", "sync", "ui"],
    "Use a cluster": ["submit", "status", "logs", "stop"],
    "Score files": ["score"],
    "Get data": ["data", "weights"],
    "Explore and extend": ["list", "doctor", "new"],
}

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SuiteName = Annotated[str, typer.Argument(metavar="SUITE", help="Path of a suite, or name of a shipped one.")]
RunFolder = Annotated[str | None, typer.Option(metavar="DIR", help="Run directory. Default: runs/SUITE.")]
Override = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the suite; repeatable.")
]
Only = Annotated[
    str | None, typer.Option(metavar="GLOB", help="Only trials whose BENCHMARK/VARIANT matches.")
]
Limit = Annotated[int | None, typer.Option(min=1, metavar="N", help="At most N samples per benchmark.")]
Workers = Annotated[int | None, typer.Option(min=1, metavar="N", help="At most N workers.")]
ShardSize = Annotated[int, typer.Option(min=1, metavar="N", help="Samples per shard.")]
BaselineCheckout = Annotated[
    str | None, typer.Option(metavar="REV", help="Time the trials in turns with those of a git revision.")
]
BaselineRun = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Time them in turns with the revision and suite of a run.")
]
TurnSeconds = Annotated[
    float, typer.Option(min=1, metavar="N", help="Start no further pair of processes after N seconds.")
]
Sync = Annotated[bool, typer.Option("--sync/--no-sync", help="Log to MLflow at the end.")]


# A test checks that harness.scenarios.settings, which is slow to import, has the same names.
ProfileName = Literal["smoke", "ci", "release", "mlperf"]
Profile = Annotated[ProfileName | None, typer.Option(help="Duration and repetitions of speed measurements.")]
