"""A worker that predicts: it runs the code of each trial's adapter in a child process of its own."""

from collections.abc import Callable
from dataclasses import dataclass

from harness.checkpoint import Checkpoint
from harness.errors import HarnessError, describe
from harness.stages.child import LOAD_SECONDS, Child, HungChildError, LostChildError
from harness.stages.predict import Predictor
from harness.stages.shards import Outcome, Shard
from harness.trial import Trial


@dataclass(frozen=True)
class LoadFailure:
    """A worker's answer if it could not load a model."""

    error: str
    everywhere: bool = False
    """True if no node can load it. Otherwise, other nodes may have the data, or more memory."""


class PredictionWorker:
    """Predicts shards, and holds one loaded model at a time in a child process.

    A trial that follows another starts in a fresh process, so that no adapter can alter the figures of the
    next one.

    Args:
        node: Name of the node for the record; None for the host name.
    """

    def __init__(self, node: str | None = None, load_seconds: float = LOAD_SECONDS) -> None:
        self._node = node
        self._load_seconds = load_seconds
        self._child: Child | None = None
        self._trial_id = ""

    def predict(
        self,
        shard: Shard,
        batch_limit: int,
        seconds: float | None = None,
        fetch: Callable[[], Checkpoint | None] | None = None,
    ) -> list[Outcome] | LoadFailure:
        """Return a shard's outcomes.

        Args:
            seconds: Maximum time for the shard, without loading; None if the caller ends this process.
            fetch: Returns the checkpoint when a model is loaded; None if the child can read its file.

        Raises:
            LostChildError: The child died or hung while it predicted. The next shard starts another one.
            AdapterError: The child can no longer use its GPU.
        """
        try:
            child = self._child_of(shard.trial, fetch)
        except HarnessError as error:
            self.close()
            return LoadFailure(f"loading the model: {describe(error)}")
        try:
            return child.call(_run_shard, shard, batch_limit, seconds=seconds)
        except HarnessError:
            self.close()
            raise

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.close()
        self._child = None

    def _child_of(self, trial: Trial, fetch: Callable[[], Checkpoint | None] | None) -> Child:
        """Return the child that holds the trial's model, after starting and loading it if necessary."""
        if self._child is not None and self._trial_id == trial.id:
            return self._child
        fetched = (fetch(),) if fetch else ()
        for last in (False, True):
            self.close()
            child = self._child = Child()
            self._trial_id = trial.id
            try:
                child.call(_load, trial, self._node, *fetched, seconds=self._load_seconds)
                break
            except LostChildError as error:  # another process may have killed it, so it is tried twice
                if last or isinstance(error, HungChildError):
                    raise
        return child


_predictor: Predictor | None = None  # of a child


def _load(trial: Trial, node: str | None, *fetched: Checkpoint | None) -> None:
    global _predictor
    checkpoint = fetched[0] if fetched else trial.load_checkpoint()
    _predictor = Predictor(trial, checkpoint, node)


def _run_shard(shard: Shard, batch_limit: int) -> list[Outcome]:
    assert _predictor is not None
    return _predictor.run_shard(shard, batch_limit)
