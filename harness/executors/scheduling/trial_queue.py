"""The pending predictions of one trial. Pure."""

from collections import Counter, deque
from collections.abc import Set

from harness.adapter import Resources
from harness.executors.scheduling.losses import Loss, LossHistory
from harness.executors.scheduling.pace import Pace
from harness.stages.shards import Shard, ShardError, Work


class TrialQueue:
    """Keep one trial's pending shards, with its pace, its losses and the nodes that cannot load its model.

    Args:
        waiting: Counts the pending shards of all trials by the resources of their workers.
    """

    def __init__(self, work: Work, resources: Resources, waiting: Counter[Resources]) -> None:
        self.resources = resources
        """Resources that a worker of this trial needs."""
        self.batch_limit = work.trial.spec.batch_size
        """Samples predicted at once; below the batch size after memory was exhausted."""
        self.pace = Pace()
        self.losses = LossHistory()
        self.load_errors: dict[str, str] = {}
        """Node → why a worker there could not load the model."""
        self.shards = work.count  # pending ones
        self._samples = work.samples
        self._whole = work.shards()  # cut as they are needed
        self._returned: deque[Shard] = deque()
        self._parts: list[Shard] = []
        self._part_is_next = False
        self._shard_samples = work.length
        self._waiting = waiting
        waiting[resources] += work.count

    def take(self) -> Shard:
        """Remove and return the next shard.

        Returned shards come first. Parts and whole shards then alternate, so that one bad shard does not
        stop a trial whose other shards can be predicted. Until a shard is finished, parts come first.
        """
        if self._returned:
            shard = self._returned.popleft()
        else:
            parts_first = self._part_is_next or self.pace.slowest_per_sample is None
            whole = None if self._parts and parts_first else next(self._whole, None)
            shard = whole or self._parts.pop()
            self._part_is_next = whole is not None
        self._count(shard, -1)
        return shard

    def put_back(self, shard: Shard) -> None:
        """Return a shard, to be predicted again unchanged."""
        self._returned.append(shard)
        self._count(shard, 1)

    def _count(self, shard: Shard, change: int) -> None:
        self.shards += change
        self._samples += change * (shard.stop - shard.start)
        self._waiting[self.resources] += change

    def remaining_seconds(self, holders: int) -> float:
        """Return the pending seconds per worker if one worker joins those that hold the model.

        A sample counts as one second until the pace is known.
        """
        return self._samples * (self.pace.seconds_per_sample or 1.0) / (1 + holders)

    def worth_loading(self, holders: int) -> bool:
        """Return whether another worker would load the model before its holders finish the pending shards."""
        per_sample = self.pace.seconds_per_sample
        if not holders or per_sample is None:
            return True
        return self.pace.loading_seconds * holders <= self.shards * self._shard_samples * per_sample

    def record_loss(self, loss: Loss, dead_nodes: Set[str]) -> ShardError | None:
        """Queue a lost shard again, whole or in parts, or return an error if it is given up."""
        if loss.cause == "memory" and loss.batch_limit > 1:
            # Try again with at most half as many samples at once as when memory was exhausted.
            self.batch_limit = min(self.batch_limit, -(-loss.batch_limit // 2))
            self.put_back(loss.shard)
            return None
        match self.losses.record(loss, dead_nodes):
            case Shard() as shard:
                self.put_back(shard)
            case (first, second):
                self._parts += [second, first]  # the first half is taken first
                self._count(first, 1)
                self._count(second, 1)
            case error:
                return error
        return None
