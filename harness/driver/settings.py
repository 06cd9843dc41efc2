"""Settings of a run that the command line sets and the suite does not; imports nothing heavy."""

from dataclasses import dataclass
from pathlib import Path

SHARD_SIZE = 64  # samples; a lost worker loses at most this much work


@dataclass(frozen=True)
class RunSettings:
    """Settings of a run of a suite."""

    out: Path  # run directory
    command: str  # command line, for the record
    only: str | None = None  # glob of BENCHMARK/VARIANT; None runs every trial
    limit: int | None = None  # maximum number of samples per benchmark
    shard_size: int = SHARD_SIZE  # samples per shard, rounded up to whole batches
    on_cluster: bool = False
    """True if stages run on several nodes, whose hardware may differ from the driver's."""
