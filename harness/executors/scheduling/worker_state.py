"""Shards that are under way, and who has them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from harness.adapter import Resources
from harness.stages.shards import Shard


@dataclass
class Flight:
    """A shard that a worker has; time counts from when it is the worker's first."""

    shard: Shard
    most: int
    loads: bool  # the worker has to load the model for it
    started: float = 0.0
    deadline: float = 0.0


@dataclass
class WorkerState:
    """A worker that runs."""

    node: str
    kind: Resources
    flights: deque[Flight] = field(default_factory=deque)
    holds: str | None = None
    """The trial of its last shard."""
