"""What is dispatched to workers and what comes back; pure data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from harness.rundir.store import Range
from harness.task import Prediction
from harness.trial import Trial


@dataclass(frozen=True)
class Shard:
    """A contiguous range of one trial's samples: the unit of dispatch, retry and resume."""

    trial: Trial
    start: int
    stop: int


@dataclass(frozen=True)
class Made:
    """Where and when predictions were made: evidence, never part of an identity."""

    node: str
    started: str  # ISO 8601, UTC
    finished: str
    batch_size: int  # the most samples at once; below the trial's where memory was short


@dataclass(frozen=True)
class ShardResult:
    """What a worker returns."""

    shard: Shard
    ids: list[str]
    predictions: list[Prediction]
    environment: dict[str, Any]
    made: Made


@dataclass(frozen=True)
class ShardError:
    """Samples that have no predictions; recorded, never scored."""

    shard: Shard
    error: str
    attempts: int
    culprits: tuple[int, ...] = ()
    """Samples, by index, that fail alone too; empty where none could be singled out."""
    invalid_input: bool = False
    """What the user has to mend, such as a file of the data set: another attempt fails as well."""


Outcome = ShardResult | ShardError


@dataclass(frozen=True)
class Work:
    """What is left to predict of one trial; its shards are made as they are asked for.

    Shards are cut at multiples of the batch size. They hold whole batches, so that gaps start at one, and
    batch k is always samples [k·b, (k+1)·b): neither shard size nor resuming nor the number of workers
    changes which samples share a batch, and figures agree to the bit.
    """

    trial: Trial
    gaps: tuple[Range, ...]
    shard_size: int

    @property
    def length(self) -> int:
        """Samples of a whole shard: the asked-for number, rounded up to whole batches."""
        batch = self.trial.spec.batch_size
        return max(1, -(-self.shard_size // batch)) * batch

    @property
    def samples(self) -> int:
        return sum(stop - start for start, stop in self.gaps)

    @property
    def count(self) -> int:
        """How many shards there are."""
        return sum(-(-(stop - start) // self.length) for start, stop in self.gaps)

    def shards(self) -> Iterator[Shard]:
        for start, stop in self.gaps:
            for first in range(start, stop, self.length):
                yield Shard(self.trial, first, min(first + self.length, stop))


def halves(shard: Shard) -> tuple[Shard, Shard]:
    """A shard of two samples or more in two: whole batches as long as there are two."""
    batch = shard.trial.spec.batch_size
    size = shard.stop - shard.start
    batches = -(-size // batch)
    middle = shard.start + (batches // 2 * batch if batches > 1 else size // 2)
    return Shard(shard.trial, shard.start, middle), Shard(shard.trial, middle, shard.stop)


class Parts:
    """Parts of batches that were tried again in pieces, until each batch is whole."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, int], list[Outcome]] = {}

    def settle(self, outcome: Outcome) -> list[Outcome]:
        """What is final: an outcome of whole batches as it is; of a part, the batch with its last part."""
        shard = outcome.shard
        spec = shard.trial.spec
        batch = spec.batch_size
        first = shard.start // batch * batch
        last = min(first + batch, spec.size)
        if shard.start == first and (shard.stop % batch == 0 or shard.stop == spec.size):
            return [outcome]
        if isinstance(outcome, ShardResult):
            most = min(outcome.made.batch_size, shard.stop - shard.start)
            outcome = replace(outcome, made=replace(outcome.made, batch_size=most))
        parts = self._found.setdefault((shard.trial.id, first), [])
        parts.append(outcome)
        if sum(part.shard.stop - part.shard.start for part in parts) < last - first:
            return []
        del self._found[shard.trial.id, first]
        return [merged(sorted(parts, key=lambda part: part.shard.start))]


def merged(parts: Iterable[Outcome]) -> Outcome:
    """Outcomes of adjacent parts of one batch, in order, as one: an error if any part is one."""
    found = list(parts)
    whole = Shard(found[0].shard.trial, found[0].shard.start, found[-1].shard.stop)
    errors = [part for part in found if isinstance(part, ShardError)]
    if errors:
        culprits = tuple(index for part in errors for index in part.culprits)
        invalid = any(part.invalid_input for part in errors)
        return ShardError(whole, errors[0].error, max(part.attempts for part in errors), culprits, invalid)
    results = [part for part in found if isinstance(part, ShardResult)]
    made = Made(
        node=results[-1].made.node,
        started=min(part.made.started for part in results),
        finished=max(part.made.finished for part in results),
        batch_size=min(part.made.batch_size for part in results),
    )
    return ShardResult(
        whole,
        [sample for part in results for sample in part.ids],
        [prediction for part in results for prediction in part.predictions],
        results[-1].environment,
        made,
    )
