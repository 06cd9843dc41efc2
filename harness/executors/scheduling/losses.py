"""The handling of a shard whose worker was lost: tried again, split in two, or given up. Pure."""

from collections.abc import Set
from dataclasses import dataclass
from typing import Literal

from harness.stages.shards import Shard, ShardError, split_shard

LOSSES_BEFORE_SPLIT = 2  # workers lost with a shard before it is split, or given up if it is a single sample
MAX_LOSSES = 8  # the same if no sample is to blame: nodes died, or the object store was full
MAX_FAILED_IN_A_ROW = 4  # samples given up while no shard was finished: the adapter is the likely cause

Cause = Literal["process", "memory", "store"]
"""Why a worker was lost: its process, its machine's memory, or Ray's full object store."""


@dataclass(frozen=True)
class Loss:
    """A worker that was lost while it worked on a shard."""

    shard: Shard
    batch_limit: int
    """Maximum number of samples that the worker predicted at once."""
    node: str
    reason: str
    cause: Cause
    hung: bool
    """True if the shard exceeded its deadline, which a part of it may meet."""


class LossHistory:
    """The workers that were lost with each shard of one trial."""

    def __init__(self) -> None:
        # Shard → the node of each loss, None for a full object store.
        self._nodes: dict[tuple[int, int], list[str | None]] = {}
        self._failed_in_a_row = 0  # samples given up since a shard was finished

    def __contains__(self, shard: Shard) -> bool:
        """Return whether a worker was lost with this shard, or with one that it is a part of."""
        return (shard.start, shard.stop) in self._nodes

    @property
    def exhausted(self) -> bool:
        """Return whether the rest of the trial is not worth trying."""
        return self._failed_in_a_row >= MAX_FAILED_IN_A_ROW

    def record_success(self) -> None:
        self._failed_in_a_row = 0

    def record(self, loss: Loss, dead_nodes: Set[str]) -> Shard | tuple[Shard, Shard] | ShardError:
        """Record a loss and return the shard to try again, its halves, or the error that ends it.

        A loss on a node that died, or because the object store was full, is not the fault of a single sample.

        Args:
            dead_nodes: All dead nodes, including those that died after an earlier loss.
        """
        shard, size = loss.shard, loss.shard.stop - loss.shard.start
        key = shard.start, shard.stop
        nodes = self._nodes.setdefault(key, [])
        nodes.append(None if loss.cause == "store" else loss.node)
        blaming = [node for node in nodes if node not in dead_nodes and (node is not None or size > 1)]
        tries = 1 if loss.hung and size > shard.trial.spec.batch_size else LOSSES_BEFORE_SPLIT
        if len(blaming) < tries and len(nodes) < MAX_LOSSES:
            return shard
        del self._nodes[key]
        if size == 1:
            self._failed_in_a_row += 1
            if len(blaming) < LOSSES_BEFORE_SPLIT:
                return ShardError(shard, f"worker lost {len(nodes)} times: {loss.reason}", len(nodes))
            error = f"worker lost {LOSSES_BEFORE_SPLIT} times with this sample alone: {loss.reason}"
            return ShardError(shard, error, LOSSES_BEFORE_SPLIT, (shard.start,))
        first, second = split_shard(shard)
        for half in (first, second):
            # One more loss splits a half again; a single sample gets the full number of tries.
            single = half.stop - half.start == 1
            self._nodes[half.start, half.stop] = [] if single else nodes[-(LOSSES_BEFORE_SPLIT - 1) :]
        return first, second
