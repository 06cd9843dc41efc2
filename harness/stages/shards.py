"""Shards of predictions: the records that are sent to workers and returned by them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from harness.environment import Environment
from harness.rundir.prediction_shards import Range
from harness.task import Prediction
from harness.trial import Trial


@dataclass(frozen=True)
class Shard:
    """A contiguous range [start, stop) of one trial's samples: the unit of dispatch, retry and resume."""

    trial: Trial
    start: int
    stop: int


@dataclass(frozen=True)
class Execution:
    """The place and time of a computation of predictions: evidence, never part of an identity."""

    node: str
    started: str  # ISO 8601, UTC
    finished: str  # ISO 8601, UTC
    batch_size: int  # maximum number predicted at once; below the trial's if memory was exhausted
    flags: str = ""  # settings of torch (see `ShardProvenance`)
    parameters: int | None = None  # of the model
    artefacts: str = ""  # that the backend executed (see `ShardProvenance`)


@dataclass(frozen=True)
class ShardResult:
    """The predictions of a shard, one per sample."""

    shard: Shard
    ids: list[str]
    predictions: list[Prediction]
    environment: Environment
    execution: Execution


@dataclass(frozen=True)
class ShardError:
    """Samples without predictions; recorded, never scored."""

    shard: Shard
    error: str
    attempts: int
    culprits: tuple[int, ...] = ()
    """Indices of the samples that also fail alone; empty if none was identified."""
    invalid_input: bool = False
    """True if the user's input, such as a file of the data set, is wrong, so that retrying is useless."""


Outcome = ShardResult | ShardError


@dataclass(frozen=True)
class Work:
    """The predictions that one trial still lacks; its shards are created on demand.

    Shards are cut at multiples of the batch size, and gaps start at a multiple. Batch k therefore always
    consists of samples [k·b, (k+1)·b). Shard size, resuming and the number of workers do not change which
    samples share a batch, so figures are equal to the bit.
    """

    trial: Trial
    gaps: tuple[Range, ...]
    """Ranges [start, stop) of samples without predictions."""
    shard_size: int
    """Requested samples per shard."""

    @property
    def length(self) -> int:
        """Samples per full shard: the requested number rounded up to whole batches."""
        batch_size = self.trial.spec.batch_size
        return max(1, -(-self.shard_size // batch_size)) * batch_size

    @property
    def samples(self) -> int:
        """Number of samples without predictions."""
        return sum(stop - start for start, stop in self.gaps)

    @property
    def count(self) -> int:
        """Number of shards."""
        return sum(-(-(stop - start) // self.length) for start, stop in self.gaps)

    def shards(self) -> Iterator[Shard]:
        """Yield the shards in the order of their samples."""
        for start, stop in self.gaps:
            for first in range(start, stop, self.length):
                yield Shard(self.trial, first, min(first + self.length, stop))


def split_shard(shard: Shard) -> tuple[Shard, Shard]:
    """Split a shard of at least two samples in two, between batches if it has several batches."""
    batch_size = shard.trial.spec.batch_size
    samples = shard.stop - shard.start
    batches = -(-samples // batch_size)
    middle = shard.start + (batches // 2 * batch_size if batches > 1 else samples // 2)
    return Shard(shard.trial, shard.start, middle), Shard(shard.trial, middle, shard.stop)


class BatchAssembler:
    """Assembles the batches that were predicted in several shards."""

    def __init__(self) -> None:
        self._parts: dict[tuple[str, int], list[Outcome]] = {}
        """Outcomes by trial id and first sample of the batch."""

    def add(self, outcome: Outcome) -> list[Outcome]:
        """Return the outcomes that are complete once this one is added.

        An outcome of whole batches is returned unchanged. An outcome of part of a batch is kept until the
        batch is complete.
        """
        shard = outcome.shard
        spec = shard.trial.spec
        first = shard.start // spec.batch_size * spec.batch_size
        stop = min(first + spec.batch_size, spec.size)
        if shard.start == first and (shard.stop % spec.batch_size == 0 or shard.stop == spec.size):
            return [outcome]
        if isinstance(outcome, ShardResult):
            batch_size = min(outcome.execution.batch_size, shard.stop - shard.start)
            outcome = replace(outcome, execution=replace(outcome.execution, batch_size=batch_size))
        parts = self._parts.setdefault((shard.trial.id, first), [])
        parts.append(outcome)
        if sum(part.shard.stop - part.shard.start for part in parts) < stop - first:
            return []
        del self._parts[shard.trial.id, first]
        return [merge_outcomes(sorted(parts, key=lambda part: part.shard.start))]


def merge_outcomes(outcomes: Sequence[Outcome]) -> Outcome:
    """Merge outcomes of adjacent shards, given in order, into an error if any of them is an error."""
    first, last = outcomes[0].shard, outcomes[-1].shard
    shard = Shard(first.trial, first.start, last.stop)
    errors = [outcome for outcome in outcomes if isinstance(outcome, ShardError)]
    if errors:
        return ShardError(
            shard,
            errors[0].error,
            attempts=max(error.attempts for error in errors),
            culprits=tuple(index for error in errors for index in error.culprits),
            invalid_input=any(error.invalid_input for error in errors),
        )
    results = [outcome for outcome in outcomes if isinstance(outcome, ShardResult)]
    execution = replace(
        results[-1].execution,
        started=min(result.execution.started for result in results),
        finished=max(result.execution.finished for result in results),
        batch_size=min(result.execution.batch_size for result in results),
    )
    return ShardResult(
        shard,
        [sample_id for result in results for sample_id in result.ids],
        [prediction for result in results for prediction in result.predictions],
        results[-1].environment,
        execution,
    )
