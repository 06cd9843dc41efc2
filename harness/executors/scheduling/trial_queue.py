"""What one trial has left to be predicted, how fast it goes, and what is tried again how often; pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Set

from harness.adapter import Resources
from harness.stages.shards import Shard, ShardError, Work, halves

LOSSES = 2  # workers lost with a shard before it is cut in two; with one sample, before that is given up
MOST_LOSSES = 8  # the same where no sample is to blame: nodes that died, an object store that was full
IN_A_ROW = 4  # samples given up one after the other while nothing was finished: it is rather the adapter
HANG_FACTOR = 20  # times as long as the trial's slowest shard so far, sample by sample: taken to hang …
LEAST_DEADLINE = 60.0  # … but never before so many seconds, which absorb a stall of the machine …
SLOW_FACTOR = 3  # … nor before so many times as long, even if that is beyond the first shard's deadline


class TrialQueue:
    """What one trial has left, and how fast it goes."""

    def __init__(self, work: Work, kind: Resources) -> None:
        self.kind = kind
        self.fresh = work.shards()
        self.again: deque[Shard] = deque()
        self.parts: list[Shard] = []
        self._parts_next = False
        self._losses: dict[tuple[int, int], list[str | None]] = {}  # nodes; None where the store was full
        self._given_up = 0  # samples since a shard was finished
        self.waiting = work.count
        self.samples = work.samples
        self.length = work.length
        self.holders = 0
        self.most = work.trial.spec.batch_size
        self.mean: float | None = None  # s a sample lately, without loading
        self.slowest: float | None = None  # s a sample of the slowest shard; as `mean` once that is known
        self.loading = 0.0  # s, the last time
        self.first = 0.0  # s, the most of a shard with the loading that it needed
        self.barred: set[str] = set()  # nodes on which a worker could not load this trial
        self.refusal: str | None = None  # why not, on the first of them
        self._nowhere = False  # no node can

    def take(self) -> Shard:
        """The next; parts of lost shards first until one is finished, then by turns with whole ones.

        So one bad shard does not stop a trial of which others can be done.
        """
        if self.again:
            shard = self.again.popleft()
        else:
            part_first = bool(self.parts) and (self._parts_next or self.slowest is None)
            whole = None if part_first else next(self.fresh, None)
            shard = whole or self.parts.pop()
            self._parts_next = whole is not None
        self.waiting -= 1
        self.samples -= shard.stop - shard.start
        return shard

    def put_back(self, shard: Shard) -> None:
        self._wait(shard, self.again)

    def _wait(self, shard: Shard, among: deque[Shard] | list[Shard]) -> None:
        among.append(shard)
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
        self._given_up = 0
        each = seconds / samples
        if loads:
            self.first = max(seconds, self.first)
            if self.mean is None:
                self.slowest = max(each, self.slowest or 0.0)
            else:
                self.loading = max(0.0, seconds - self.mean * samples)
        elif self.mean is None:
            self.mean = self.slowest = each
        else:
            self.mean = 0.8 * self.mean + 0.2 * each
            self.slowest = max(each, self.slowest or 0.0)

    def allowed(self, shard: Shard, loads: bool, deadline: float) -> float:
        """Seconds after which a shard is taken to hang.

        Args:
            deadline: of a shard for which the model is loaded, and the most where no rate asks for more.
        """
        if self.slowest is None:
            return deadline
        expected = self.slowest * (shard.stop - shard.start) + (self.first if loads else 0.0)
        if not loads or (shard.start, shard.stop) in self._losses:  # lost before, or part of one that was
            deadline = min(deadline, max(LEAST_DEADLINE, HANG_FACTOR * expected))
        return max(deadline, SLOW_FACTOR * expected)

    def refused(self, node: str, error: str, everywhere: bool) -> None:
        """A worker there could not load the model, or none can anywhere."""
        self.barred.add(node)
        self.refusal = self.refusal or error
        self._nowhere = self._nowhere or everywhere

    def hopeless(self, nodes: Set[str]) -> bool:
        """Whether no worker has the model or tries to load it, and none could on these nodes."""
        barred = self._nowhere or (bool(nodes) and nodes <= self.barred)
        return self.refusal is not None and not self.holders and barred

    @property
    def stopped(self) -> bool:
        """Whether the rest is not to be tried."""
        return self._given_up >= IN_A_ROW

    def fewer(self, shard: Shard, most: int) -> None:
        """A machine ran out of memory with a shard and so many samples at once, more than one."""
        self.most = min(self.most, -(-most // 2))
        self.put_back(shard)

    def lost(
        self, shard: Shard, node: str | None, reason: str, hung: bool, gone: Set[str]
    ) -> ShardError | None:
        """A worker was lost with a shard: it is to be tried again, perhaps in parts, or given up.

        Args:
            node: where; None if no sample is to blame though the shard may be too large.
            hung: it took too long, as a part of it may not.
            gone: nodes that died, perhaps after it had been lost there: no fault of the shard.
        """
        range_, size = (shard.start, shard.stop), shard.stop - shard.start
        losses = self._losses.setdefault(range_, [])
        losses.append(node)
        counted = [each for each in losses if each not in gone and (each is not None or size > 1)]
        tries = 1 if hung and size > shard.trial.spec.batch_size else LOSSES
        if len(counted) < tries and len(losses) < MOST_LOSSES:
            self.put_back(shard)
            return None
        del self._losses[range_]
        if size == 1:
            self._given_up += 1
            if len(counted) < LOSSES:
                return ShardError(shard, f"worker lost {len(losses)} times: {reason}", len(losses))
            error = f"worker lost {LOSSES} times with this sample alone: {reason}"
            return ShardError(shard, error, LOSSES, (shard.start,))
        for half in reversed(halves(shard)):
            # One loss more cuts it again; a single sample has all its tries.
            single = half.stop - half.start == 1
            self._losses[half.start, half.stop] = [] if single else losses[-(LOSSES - 1) :]
            self._wait(half, self.parts)
        return None
