"""The pending predictions of all trials. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set

from harness.adapter import Resources
from harness.executors.scheduling.trial_queue import TrialQueue
from harness.stages.shards import Shard, ShardError, Work


class Backlog:
    """The queues of all trials, longest trial first."""

    def __init__(self, work: Iterable[Work], resources: Mapping[str, Resources]) -> None:
        self.waiting: Counter[Resources] = Counter()
        """Pending shards over all trials, by the resources of their workers."""
        self._queues = {
            part.trial.id: TrialQueue(part, resources[part.trial.id], self.waiting)
            for part in work
            if part.gaps
        }

    def __getitem__(self, trial_id: str) -> TrialQueue:
        return self._queues[trial_id]

    def has_pending(self, trial_id: str | None) -> bool:
        return trial_id is not None and self._queues[trial_id].shards > 0

    def put_back(self, shards: Iterable[Shard]) -> None:
        for shard in shards:
            self._queues[shard.trial.id].put_back(shard)

    def give_up(self, trial_id: str, reason: str) -> list[ShardError]:
        """Remove all pending shards of a trial, and return them as errors."""
        queue = self._queues[trial_id]
        return [ShardError(queue.take(), reason, 1) for _ in range(queue.shards)]

    def longest(self, resources: Resources, node: str, holders: Counter[str]) -> str | None:
        """Return the trial with the most pending seconds per worker that is worth loading on a node.

        The worker that would load it has `resources`. `holders` counts the workers that hold a trial's model.
        """
        longest, most = None, 0.0
        for trial_id, queue in self._queues.items():
            if queue.shards and queue.resources == resources:
                held_by = holders[trial_id]
                seconds = queue.remaining_seconds(held_by)
                if seconds > most and node not in queue.load_errors and queue.worth_loading(held_by):
                    longest, most = trial_id, seconds
        return longest

    def excluded_nodes(self, resources: Resources) -> Set[str]:
        """Return the nodes that cannot load the model of any pending trial with these resources."""
        failed = [
            frozenset(queue.load_errors)
            for queue in self._queues.values()
            if queue.shards and queue.resources == resources
        ]
        return frozenset.intersection(*failed) if failed else frozenset()

    def unloadable(
        self, usable_nodes: Mapping[Resources, Set[str]], holders: Counter[str]
    ) -> Iterator[tuple[str, str]]:
        """Yield each trial that no worker holds and no usable node can load, with the first load error."""
        for trial_id, queue in self._queues.items():
            nodes = usable_nodes.get(queue.resources, frozenset())
            if nodes and nodes <= queue.load_errors.keys() and not holders[trial_id]:
                yield trial_id, next(iter(queue.load_errors.values()))
