"""Settings of a run that the command line sets and the suite does not; imports nothing heavy."""

from dataclasses import dataclass
from pathlib import Path

SHARD_SIZE = 64  # samples; a lost worker loses at most this much work

TURN_SECONDS = 900.0


@dataclass(frozen=True)
class RunSettings:
    """Settings of a run of a suite."""

    out: Path  # run directory
    command: str  # command line, for the record
    only: str | None = None  # glob of BENCHMARK/VARIANT; None runs every trial
    limit: int | None = None  # maximum number of samples per benchmark
    shard_size: int = SHARD_SIZE  # samples per shard, rounded up to whole batches
    overrides: tuple[str, ...] = ()  # KEY=VALUE, with which the suite was loaded
    baseline_checkout: str | None = None  # git revision to time in turns with the present code
    baseline_run: Path | None = None  # run directory whose revision and suite are the baseline
    turn_seconds: float = TURN_SECONDS  # budget of all comparisons with the baseline
    on_cluster: bool = False
    """True if stages run on several nodes, whose hardware may differ from the driver's."""
