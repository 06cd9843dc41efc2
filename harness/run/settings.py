"""Settings of a run that the command line sets and the suite does not; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SHARD_SIZE = 64  # samples; a lost worker loses at most this much work


@dataclass(frozen=True)
class RunSettings:
    """Settings of a run of a suite."""

    out: Path
    """Run directory."""
    command: str
    """Command line, for the record."""
    only: str | None = None
    """Glob of BENCHMARK/VARIANT; None runs every trial."""
    limit: int | None = None
    """Maximum number of samples per benchmark."""
    shard_size: int = SHARD_SIZE
    """Samples per shard, rounded up to whole batches."""
    on_cluster: bool = False
    """True if stages run on several nodes, whose hardware may differ from the driver's."""
