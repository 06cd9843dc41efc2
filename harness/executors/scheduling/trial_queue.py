"""The pending predictions of one trial. Pure."""

from collections.abc import Set

from harness.adapter import Resources
from harness.executors.scheduling.losses import Loss, LossHistory
from harness.executors.scheduling.pace import Pace
from harness.executors.scheduling.pending_shards import PendingShards
from harness.stages.shards import Shard, ShardError, Work


class LoadFailures:
    """The nodes whose workers could not load one trial's model."""

    def __init__(self) -> None:
        self.nodes: set[str] = set()
        self.first_error: str | None = None
        self._everywhere = False

    def record(self, node: str, error: str, everywhere: bool) -> None:
        """Record a failure on a node; `everywhere` means that it would happen on any node."""
        self.nodes.add(node)
        self.first_error = self.first_error or error
        self._everywhere = self._everywhere or everywhere

    def cover(self, nodes: Set[str]) -> bool:
        """Return whether the model cannot be loaded on any of these nodes; False if there are none."""
        return self._everywhere or (bool(nodes) and nodes <= self.nodes)


class TrialQueue:
    """One trial's pending shards, with its pace, its losses and the nodes that cannot load its model."""

    def __init__(self, work: Work, resources: Resources) -> None:
        self.resources = resources
        """Resources that a worker of this trial needs."""
        self.batch_limit = work.trial.spec.batch_size
        """Samples predicted at once; below the batch size after memory was exhausted."""
        self.pending = PendingShards(work)
        self.pace = Pace()
        self.losses = LossHistory()
        self.load_failures = LoadFailures()
        self._shard_samples = work.length

    def take(self) -> Shard:
        """Remove and return the next shard; until a shard is finished, take parts of split shards first."""
        return self.pending.take(parts_first=self.pace.slowest_per_sample is None)

    def remaining_seconds(self, holders: int) -> float:
        """Return the pending seconds per worker if one worker joins those that hold the model.

        A sample counts as one second until the pace is known.
        """
        return self.pending.samples * (self.pace.seconds_per_sample or 1.0) / (1 + holders)

    def worth_loading(self, holders: int) -> bool:
        """Return whether another worker would load the model before its holders finish the pending shards."""
        per_sample = self.pace.seconds_per_sample
        if not holders or per_sample is None:
            return True
        return self.pace.loading_seconds * holders <= self.pending.shards * self._shard_samples * per_sample

    def record_time(self, samples: int, seconds: float, loaded_model: bool) -> None:
        """Record how long a finished shard took."""
        self.losses.record_success()
        self.pace.record(samples, seconds, loaded_model)

    def record_loss(self, loss: Loss, dead_nodes: Set[str]) -> ShardError | None:
        """Queue a lost shard again, whole or in parts, or return an error if it is given up."""
        if loss.cause == "memory" and loss.batch_limit > 1:
            # Try again with at most half as many samples at once as when memory was exhausted.
            self.batch_limit = min(self.batch_limit, -(-loss.batch_limit // 2))
            self.pending.put_back(loss.shard)
            return None
        match self.losses.record(loss, dead_nodes):
            case Shard() as shard:
                self.pending.put_back(shard)
            case (first, second):
                self.pending.add_parts(first, second)
            case error:
                return error
        return None
