"""The shards of one trial that are not assigned to a worker. Pure."""

from collections import deque

from harness.stages.shards import Shard, Work


class PendingShards:
    """Whole shards, cut as they are needed, with returned shards and parts of split shards.

    `shards` and `samples` count the pending shards and their samples.
    """

    def __init__(self, work: Work) -> None:
        self._whole = work.shards()
        self._returned: deque[Shard] = deque()
        self._parts: list[Shard] = []
        self._part_is_next = False
        self.shards = work.count
        self.samples = work.samples

    def take(self, parts_first: bool) -> Shard:
        """Remove and return the next shard.

        Returned shards come first. Parts and whole shards then alternate, so that one bad shard does not
        stop a trial whose other shards can be predicted.

        Args:
            parts_first: Take all parts before any whole shard.
        """
        if self._returned:
            shard = self._returned.popleft()
        else:
            part_is_next = bool(self._parts) and (self._part_is_next or parts_first)
            whole = None if part_is_next else next(self._whole, None)
            shard = whole or self._parts.pop()
            self._part_is_next = whole is not None
        self.shards -= 1
        self.samples -= shard.stop - shard.start
        return shard

    def put_back(self, shard: Shard) -> None:
        """Return a shard, to be predicted again unchanged."""
        self._returned.append(shard)
        self._count(shard)

    def add_parts(self, first: Shard, second: Shard) -> None:
        """Add the halves of a split shard; the first half is taken first."""
        self._parts += [second, first]
        self._count(first)
        self._count(second)

    def _count(self, shard: Shard) -> None:
        self.shards += 1
        self.samples += shard.stop - shard.start
