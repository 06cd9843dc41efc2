"""The pending predictions of all trials. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set

from harness.adapter import Resources
from harness.executors.scheduling.losses import Loss
from harness.executors.scheduling.trial_queue import TrialQueue
from harness.stages.shards import Shard, ShardError, Work


class Backlog:
    """The queues of all trials, longest trial first.

    Invariant: `waiting[resources]` is the number of pending shards over all trials with these resources,
    so every change of a queue's pending shards goes through this class.
    """

    def __init__(self, work: Iterable[Work], resources: Mapping[str, Resources]) -> None:
        self._queues = {
            part.trial.id: TrialQueue(part, resources[part.trial.id]) for part in work if part.gaps
        }
        self.waiting: Counter[Resources] = Counter()
        for queue in self._queues.values():
            self.waiting[queue.resources] += queue.pending.shards

    def __getitem__(self, trial_id: str) -> TrialQueue:
        return self._queues[trial_id]

    def has_pending(self, trial_id: str | None) -> bool:
        return trial_id is not None and self._queues[trial_id].pending.shards > 0

    def take(self, trial_id: str) -> Shard:
        queue = self._queues[trial_id]
        self.waiting[queue.resources] -= 1
        return queue.take()

    def put_back(self, shards: Iterable[Shard]) -> None:
        for shard in shards:
            queue = self._queues[shard.trial.id]
            self.waiting[queue.resources] += 1
            queue.pending.put_back(shard)

    def record_loss(self, loss: Loss, dead_nodes: Set[str]) -> ShardError | None:
        """Queue a lost shard again, whole or in parts, or return an error if it is given up."""
        queue = self._queues[loss.shard.trial.id]
        before = queue.pending.shards
        error = queue.record_loss(loss, dead_nodes)
        self.waiting[queue.resources] += queue.pending.shards - before
        return error

    def give_up(self, trial_id: str, reason: str) -> Iterator[ShardError]:
        """Remove all pending shards of a trial, and yield them as errors."""
        for _ in range(self._queues[trial_id].pending.shards):
            yield ShardError(self.take(trial_id), reason, 1)

    def longest(self, resources: Resources, node: str, holders: Counter[str]) -> str | None:
        """Return the trial with the most pending seconds per worker that is worth loading on a node.

        The worker that would load it has `resources`. `holders` counts the workers that hold a trial's model.
        """
        longest, most = None, 0.0
        for trial_id, queue in self._queues.items():
            if queue.pending.shards and queue.resources == resources:
                held_by = holders[trial_id]
                seconds = queue.remaining_seconds(held_by)
                if seconds > most and node not in queue.load_failures.nodes and queue.worth_loading(held_by):
                    longest, most = trial_id, seconds
        return longest

    def excluded_nodes(self, resources: Resources) -> Set[str]:
        """Return the nodes that cannot load the model of any pending trial with these resources."""
        failed = [
            queue.load_failures.nodes
            for queue in self._queues.values()
            if queue.pending.shards and queue.resources == resources
        ]
        return frozenset.intersection(*map(frozenset, failed)) if failed else frozenset()

    def unloadable(
        self, usable_nodes: Mapping[Resources, Set[str]], holders: Counter[str]
    ) -> Iterator[tuple[str, str]]:
        """Yield each trial that no worker holds and no usable node can load, with the first load error."""
        for trial_id, queue in self._queues.items():
            failures = queue.load_failures
            if failures.first_error is None or holders[trial_id]:
                continue
            if failures.cover(usable_nodes.get(queue.resources, frozenset())):
                yield trial_id, failures.first_error
