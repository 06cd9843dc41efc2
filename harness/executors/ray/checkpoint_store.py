"""Weights in Ray's object store: read once by the driver, fetched once per node."""

import ray
from ray.exceptions import ObjectStoreFullError, OutOfDiskError

from harness.errors import InfrastructureError
from harness.executors.ray.handles import ObjectRef
from harness.trial import Trial


class CheckpointStore:
    """The checkpoints that were put into the object store, by content hash."""

    def __init__(self) -> None:
        self._stored: dict[str | None, ObjectRef] = {}

    def put(self, trial: Trial) -> ObjectRef | None:
        """Return a reference to a trial's checkpoint, or None if the trial has no checkpoint."""
        if trial.checkpoint is None:
            return None
        digest = trial.spec.checkpoint
        if digest not in self._stored:
            checkpoint = trial.load_checkpoint()
            try:
                self._stored[digest] = ray.put(checkpoint)
            except (ObjectStoreFullError, OutOfDiskError) as error:
                raise InfrastructureError(
                    f"{trial.name}: Ray's object store has no room for {trial.checkpoint.weights.name}: "
                    "start Ray with a larger --object-store-memory, or free disk space for what it spills"
                ) from error
        return self._stored[digest]
