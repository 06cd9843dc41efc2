"""What one trial has left to be predicted, how fast it goes, and what is tried again how often; pure."""

from __future__ import annotations

from collections import Counter, deque

from harness.adapter import Resources
from harness.stages.shards import Shard, ShardError, Work, halves

LOSSES = 2  # workers lost with a shard before it is cut in two; with one sample, before that is given up


class TrialQueue:
    """What one trial has left, and how fast it goes."""

    def __init__(self, work: Work, kind: Resources) -> None:
        self.kind = kind
        self.fresh = work.shards()
        self.again: deque[Shard] = deque()
        self._losses: Counter[tuple[int, int]] = Counter()
        self.waiting = work.count
        self.samples = work.samples
        self.length = work.length
        self.holders = 0
        self.most = work.trial.spec.batch_size
        self.mean: float | None = None  # s a sample lately, without loading
        self.slowest: float | None = None  # s a sample of the slowest shard, without loading
        self.loading = 0.0  # s, the last time
        self.barred: set[str] = set()  # nodes on which this trial cannot be loaded
        self.refusal: str | None = None  # why not, on the first of them

    def take(self) -> Shard:
        shard = self.again.popleft() if self.again else next(self.fresh)
        self.waiting -= 1
        self.samples -= shard.stop - shard.start
        return shard

    def put_back(self, shard: Shard) -> None:
        self.again.append(shard)
        self.waiting += 1
        self.samples += shard.stop - shard.start

    def seconds(self) -> float:
        """Of work that waits, for each worker that would share it; samples count alike until one is timed."""
        return self.samples * (self.mean or 1.0) / (1 + self.holders)

    def worth_loading(self) -> bool:
        """Whether one worker more would begin before those that hold the model get to what waits."""
        if not self.holders or self.mean is None:
            return True
        return self.loading * self.holders <= self.waiting * self.length * self.mean

    def timed(self, samples: int, seconds: float, loads: bool) -> None:
        """A worker took so long for so many samples, loading the model included where it had to."""
        each = seconds / samples
        if not loads:
            self.mean = each if self.mean is None else 0.8 * self.mean + 0.2 * each
            self.slowest = max(each, self.slowest or 0.0)
        elif self.mean is not None:
            self.loading = max(0.0, seconds - self.mean * samples)

    def lost(self, shard: Shard, most: int, reason: str, memory: bool) -> ShardError | None:
        """A worker was lost with a shard: it is to be tried again, perhaps in parts, or given up.

        Args:
            most: the number of samples at once that it was tried with.
            memory: the worker was killed because its machine ran out of memory.
        """
        range_ = (shard.start, shard.stop)
        if memory and most > 1:
            self.most = min(self.most, -(-most // 2))
            self.put_back(shard)
            return None
        self._losses[range_] += 1
        if self._losses[range_] < LOSSES:
            self.put_back(shard)
            return None
        del self._losses[range_]
        if shard.stop - shard.start == 1:
            error = f"worker lost {LOSSES} times with this sample alone: {reason}"
            return ShardError(shard, error, LOSSES, (shard.start,))
        for half in halves(shard):
            if half.stop - half.start > 1:  # one loss more cuts it again; a single sample has all its tries
                self._losses[half.start, half.stop] = LOSSES - 1
            self.put_back(half)
        return None
